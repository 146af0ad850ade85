"""The demo: a small web application on http.server that uses the public API of the library."""
