"""Moves a connection from an HTTP server to an engine."""
