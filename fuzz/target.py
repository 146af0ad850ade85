"""Fuzzes one of the targets in Python with atheris: python -m fuzz.target NAME [libFuzzer's …]."""

from __future__ import annotations

import importlib
import sys

import atheris

name = sys.argv.pop(1)
with atheris.instrument_imports(include=["websocket_handler"]):
    module = importlib.import_module(f"fuzz.{name}")
quiet = "-print_funcs=0"  # or a symbolizer runs beside it, with descriptors in this process
atheris.Setup([*sys.argv, quiet], module.test_one_input)
atheris.Fuzz()
