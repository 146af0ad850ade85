"""The same application in several frameworks, run by real ASGI servers."""
