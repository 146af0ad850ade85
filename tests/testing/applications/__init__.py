"""The same small application in each framework: each module has `make_app()`."""
