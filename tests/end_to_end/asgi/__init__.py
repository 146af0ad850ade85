"""The same application, written for several frameworks, for real ASGI servers to run."""
