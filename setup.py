"""Builds the native engine; all other metadata is in pyproject.toml.

The extension is optional: if it cannot be built (no C compiler, not Linux), installation prints a
warning and the package uses its pure-Python engine.
"""

import os
import sys

if sys.version_info < (3, 10):  # noqa: UP036 - before anything that older versions cannot run
    sys.exit(
        "websocket-handler needs Python 3.10 or newer, but this is Python "
        f"{sys.version_info[0]}.{sys.version_info[1]} ({sys.executable}). "
        "Install a newer Python, create a virtual environment with it, and run pip there."
    )

import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PACKAGE = Path("src/websocket_handler")
ENGINE = PACKAGE / "engine"
CORE = ENGINE / "core"
DEBUG_FLAGS = os.environ.get("WEBSOCKET_HANDLER_CFLAGS", "").split()
FLAGS = DEBUG_FLAGS or ["-O3", "-g0", "-Wall", "-Wextra"]
LINK_FLAGS = (
    [flag for flag in FLAGS if flag.startswith("-fsanitize")] if DEBUG_FLAGS else ["-Wl,-s"]
)
REQUIRED = bool(os.environ.get("WEBSOCKET_HANDLER_REQUIRE_NATIVE"))


ZLIB_TEST = "#include <zlib.h>\nint main(void) { return zlibVersion() == 0; }\n"


class BuildIfPossible(build_ext):
    """Skips the extensions if they cannot be built (`optional=True` fails without a compiler).

    Without zlib.h the engine is built without compression; compressed connections then use the
    pure-Python codec. WEBSOCKET_HANDLER_WITHOUT_ZLIB=1 builds this variant for tests.
    """

    def build_extensions(self):
        has_zlib = self.has_zlib()
        for extension in self.extensions:
            if has_zlib:
                extension.libraries.append("z")
            else:
                extension.define_macros.append(("WITHOUT_ZLIB", "1"))
        if not has_zlib:
            self.warn("zlib.h not found: compressed connections use the pure-Python codec")
        try:
            super().build_extensions()
        except Exception as error:
            if REQUIRED:
                raise
            self.warn(f"the native engine was not built, using the pure-Python engine: {error}")
            self.extensions = []

    def has_zlib(self):
        if os.environ.get("WEBSOCKET_HANDLER_WITHOUT_ZLIB"):
            return False
        with tempfile.TemporaryDirectory() as directory:
            source = Path(directory, "zlib_test.c")
            source.write_text(ZLIB_TEST)
            try:
                objects = self.compiler.compile([str(source)], output_dir=directory)
                self.compiler.link_executable(objects, "zlib_test", directory, ["z"])
            except Exception:
                return False
        return True


def extension(name, source, *others):
    return Extension(
        f"websocket_handler.{name}",
        [str(source), *others],
        include_dirs=[str(ENGINE)],
        depends=sorted(map(str, CORE.glob("*.h"))),
        extra_compile_args=FLAGS,
        extra_link_args=LINK_FLAGS,
    )


core = sorted(map(str, CORE.glob("*.c")))
native = [
    extension("engine.codec", ENGINE / "codec.pyx", *core),
    extension("engine.engine", ENGINE / "engine.pyx", *core),
    extension("engine.channel", ENGINE / "channel.pyx", *core),
    extension("engine.fanout", ENGINE / "fanout.pyx", *core),
    extension("engine.tls_connection", ENGINE / "tls_connection.pyx"),
    extension("engine.moving", ENGINE / "moving.pyx", *core),
    extension(
        "connection.inbox", PACKAGE / "connection" / "inbox.py"
    ),  # a Python module, compiled without changes
    extension("connection.am_send", PACKAGE / "connection" / "am_send.pyx"),
    extension("servers.asgi_calls", PACKAGE / "servers" / "asgi_calls.py"),  # like inbox.py
]
setup(
    ext_modules=cythonize(native) if sys.platform == "linux" else [],
    cmdclass={"build_ext": BuildIfPossible},
)
