"""Taking a connection from an HTTP server and giving it to an engine."""
