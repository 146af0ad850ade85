"""The bus: carries the messages of rooms between processes, through a broker."""
