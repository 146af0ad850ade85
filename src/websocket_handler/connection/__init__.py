"""One connection: its life, its sending and receiving, its listeners."""
