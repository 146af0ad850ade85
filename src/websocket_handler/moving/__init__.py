"""Moves open connections from a process that ends to the process that replaces it.

The old process asks the new one for each connection with the original request (`departures`). The
application handles it like any request, and its `connect()` fetches the socket (`arrivals`).
"""
