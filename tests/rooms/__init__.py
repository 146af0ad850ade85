"""Rooms: in one process, and over brokers."""
