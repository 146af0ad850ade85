"""The transport of rooms between processes, over a broker."""
