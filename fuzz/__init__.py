"""Fuzz targets; see README.md. Only `target` needs atheris."""
