"""The same application, written for several frameworks, for real WSGI servers to run."""
