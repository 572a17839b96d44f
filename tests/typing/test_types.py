"""What type checkers say of a user's script. Pyright sees the same files in ``make test``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mypy_finds_the_types_and_the_mistakes(tmp_path):
    """Both scripts pass: in one nothing is ignored, in the other every ignore must be needed."""
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--config-file", str(HERE / "mypy.ini")]
    command += ["--cache-dir", str(tmp_path), str(HERE / "user.py"), str(HERE / "mistakes.py")]
    environment = os.environ | {"MYPYPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_mistake_says_that_it_is_one():
    text = (HERE / "mistakes.py").read_text()
    assert text.count("# type: ignore[") == 14
    assert "ignore" not in (HERE / "user.py").read_text()
