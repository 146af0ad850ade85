"""The same application in several frameworks, run by real WSGI servers."""
