"""The same application in every family of servers: its response decides about the WebSocket."""
