"""One small application per framework, all with the routes of routes.py."""
