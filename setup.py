"""The native engine; everything else about the package is in pyproject.toml.

The extension is optional: where it cannot be built (no C compiler, not Linux) the install
says so and the package falls back on its engine in plain Python.
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PACKAGE = Path("src/websocket_handler")
ENGINE = PACKAGE / "engine"
CORE = ENGINE / "core"
FLAGS = os.environ.get("WEBSOCKET_HANDLER_CFLAGS", "-O3 -Wall -Wextra").split()
REQUIRED = bool(os.environ.get("WEBSOCKET_HANDLER_REQUIRE_NATIVE"))


class BuildIfPossible(build_ext):
    """An extension that cannot be built is left out (`optional=True` fails without a compiler)."""

    def build_extensions(self):
        try:
            super().build_extensions()
        except Exception as error:
            if REQUIRED:
                raise
            self.warn(f"the native engine was not built, the one in plain Python serves: {error}")
            self.extensions = []


def extension(name, source, *others):
    return Extension(
        f"websocket_handler.{name}",
        [str(source), *others],
        include_dirs=[str(ENGINE)],
        depends=sorted(map(str, CORE.glob("*.h"))),
        extra_compile_args=FLAGS,
        extra_link_args=[flag for flag in FLAGS if flag.startswith("-fsanitize")],
    )


core = sorted(map(str, CORE.glob("*.c")))
native = [
    extension("engine.codec", ENGINE / "codec.pyx", *core),
    extension("engine.engine", ENGINE / "engine.pyx", *core),
    extension("engine.channel", ENGINE / "channel.pyx", *core),
    extension("inbox", PACKAGE / "inbox.py"),  # Python, compiled as it is
]
setup(
    ext_modules=cythonize(native) if sys.platform == "linux" else [],
    cmdclass={"build_ext": BuildIfPossible},
)
