"""examples/deploy: deploys under load. At full scale with DEPLOYS=full (`make deploy-soak`)."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from websocket_handler.moving.directory import VARIABLE

from ..conftest import ROOT

IS_FULL = os.environ.get("DEPLOYS") == "full"
SCALE = (
    ["--sockets", "5000", "--talkers", "200", "--deploys", "10"]
    if IS_FULL
    else ["--sockets", "150", "--talkers", "10", "--normal", "1", "--deploys", "2"]
)


def test_deploys_under_load_close_no_connection(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("private")
    directory.chmod(0o700)
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "deploy" / "deploy.py"), *SCALE],
        capture_output=True,
        text=True,
        timeout=3000 if IS_FULL else 100,
        env={**os.environ, VARIABLE: str(directory)},
    )
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "closed 0, wrong answers 0" in done.stdout
    versions = re.search(r"versions seen: \[(.*)\]", done.stdout)
    assert versions is not None
    assert len(versions[1].split()) == int(SCALE[-1]) + 1
