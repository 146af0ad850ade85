"""The native engine; everything else about the package is in pyproject.toml.

The extension is optional: where it cannot be built (no C compiler, not Linux) the install
says so and the package falls back on its engine in plain Python.
"""

import os
import sys
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

ENGINE = "src/websocket_handler/engine"
FLAGS = os.environ.get("WEBSOCKET_HANDLER_CFLAGS", "-O3 -Wall -Wextra").split()

native = Extension(
    "websocket_handler.engine.native",
    [f"{ENGINE}/native.pyx", *sorted(glob(f"{ENGINE}/core/*.c"))],
    include_dirs=[ENGINE],
    depends=glob(f"{ENGINE}/core/*.h"),
    extra_compile_args=FLAGS,
    extra_link_args=[flag for flag in FLAGS if flag.startswith("-fsanitize")],
    optional=not os.environ.get("WEBSOCKET_HANDLER_REQUIRE_NATIVE"),
)

setup(ext_modules=cythonize([native]) if sys.platform == "linux" else [])
