"""Small real disks, for what happens when one is full."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def mount(folder: Path, *options: str) -> None:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    process = subprocess.run(command, capture_output=True, check=False) if shutil.which("mount") else None
    if process is None or process.returncode:
        pytest.skip("only root may mount a small disk here")
