"""The version of the library, without the cost of reading the metadata of its installation."""

__version__ = "0.1.0.dev0"
