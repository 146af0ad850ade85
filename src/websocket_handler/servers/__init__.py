"""Integrations of HTTP servers: each finds the request and takes its connection from the server."""
