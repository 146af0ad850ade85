"""One small file for each HTTP server: find the upgrade, give up the socket, stay quiet."""
