"""Fuzz targets; see README.md. Nothing in here but `target` needs atheris."""
