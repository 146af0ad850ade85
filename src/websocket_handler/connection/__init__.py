"""One connection: its life cycle, sending, received messages and listeners."""
