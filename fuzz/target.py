"""Runs a target in Python with atheris: python -m fuzz.target NAME [options of libFuzzer …]."""

from __future__ import annotations

import importlib
import sys

import atheris

name = sys.argv.pop(1)
with atheris.instrument_imports(include=["websocket_handler"]):
    module = importlib.import_module(f"fuzz.{name}")
quiet = "-print_funcs=0"  # otherwise a symbolizer process adds descriptors to this process
atheris.Setup([*sys.argv, quiet], module.test_one_input)
atheris.Fuzz()
