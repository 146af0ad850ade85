"""A wheel of this library, built as for a release."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def build_wheel(folder: Path) -> Path:
    """Build a wheel as `make wheel` does, into the folder."""
    command = [ROOT / "scripts" / "build-wheel", folder]
    environment = {**os.environ, "PYTHON": sys.executable}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = folder.glob("*.whl")
    return built
