"""A PostgreSQL server for the tests, on a Unix socket."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tests.conftest import require

from ..support.programs import wait_for

APPLICATION = "the application"
"""The `application_name` of the application's connections."""


class PostgreSQL:
    """Has one database and one user, both called postgres, without a password."""

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        require(found, "PostgreSQL")
        self._programs = found[-1].parent
        self.folder = folder
        self._user = "postgres" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root
        if self._user is not None:
            shutil.chown(folder, self._user)
        self._data = str(folder / "data")
        initdb = [str(self._programs / "initdb"), "-A", "trust", "-U", "postgres", self._data]
        self._popen(initdb).wait(60)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the server; returns once it accepts connections."""
        command = [str(self._programs / "postgres"), "-D", self._data, "-h", "", "-k"]
        self._process = self._popen([*command, str(self.folder)])
        wait_for(self._takes_connections, "PostgreSQL to take connections", 30)

    def _takes_connections(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "PostgreSQL has ended"
        try:
            self.connections()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """End the server and every connection to it ("fast shutdown")."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Context manager: the server is stopped inside."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def connections(self) -> int:
        """Returns the number of the application's open connections."""
        query = "select count(*) from pg_stat_activity where application_name = %s"
        with psycopg.connect(self._url, autocommit=True) as connection:
            row = connection.execute(query, (APPLICATION,)).fetchone()
        assert row is not None
        return int(row[0])

    @property
    def _url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.folder}"

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd="/",
            user=self._user,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
