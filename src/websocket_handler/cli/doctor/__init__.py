"""`websocket-handler doctor URL`: examines step by step why a WebSocket does not work."""
