"""The demo: a small web application on http.server that uses the library as anyone would."""
