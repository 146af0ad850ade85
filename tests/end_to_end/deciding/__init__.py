"""The same application on every kind of server: its response decides about the WebSocket."""
