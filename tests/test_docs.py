"""What is printed is executed: README, docs, and the examples in every docstring."""

import doctest
import importlib
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from bilevel.backends import registry

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/**/*.md"))]
MODULES = sorted(
    ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for file in SOURCE.rglob("*.py")
)

# The optional package without which a page's or a module's examples cannot run.
NEEDS = {
    **{entry.module: entry.package for entry in registry._ENTRIES.values()},
    "bilevel.applications.strain_design": "cobra",
    "bilevel.plots.figures": "matplotlib",
    "bilevel.plots.fits": "matplotlib",
    "bilevel.plots.reactions": "matplotlib",
    "README.md": "torch",
    "docs/applications.md": "torch",
    "docs/from-cvxpylayers.md": "torch",
    "docs/layers.md": "torch",
    "docs/reaction.md": "matplotlib",
    "docs/strain-design.md": "cobra",
    "docs/training.md": "torch",
}

BLOCK = re.compile(
    r"(?:^<!-- not executed: (?P<reason>.+?) -->\n+)?^```python\n(?P<code>.*?)^```$"
    r"(?:\n\n^```text\n(?P<prints>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced Python block of a page, why it is not executed, and what it is said to print."""

    line: int
    code: str
    reason: str | None
    prints: str | None


def blocks(text):
    """Return the Python blocks of a Markdown page, in order."""
    return [
        Block(
            text.count("\n", 0, match.start("code")) + 1, *match.group("code", "reason", "prints")
        )
        for match in BLOCK.finditer(text)
    ]


def steady(text):
    """Return a text without measured seconds and residuals (``0.13 s``, ``3.1e-13``)."""
    return re.sub(r"\d+\.\d+ s\b|\b\d\.\de[-+]\d\d\b", "...", text)


def test_blocks_are_found_with_line_and_reason():
    text = "# Page\n\n```python\na = 1\n```\n\n<!-- not executed: slow -->\n```python\nb\n```\n"
    text += "\n```text\n1\n```\n"
    assert blocks(text) == [Block(4, "a = 1\n", None, None), Block(9, "b\n", "slow", "1\n")]


@pytest.mark.parametrize("page", PAGES)
def test_page_runs_and_prints_what_it_says(page, subtests, tmp_path, monkeypatch, capsys):
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    found = blocks(text)
    assert len(found) == text.count("```python"), "indented blocks are not executed"
    namespace = {"__name__": "__main__"}
    for block in found:
        with subtests.test(line=block.line):
            if block.reason:
                pytest.skip(block.reason)
            lines_before = "\n" * (block.line - 1)  # so that a traceback shows the page's line
            capsys.readouterr()
            exec(compile(lines_before + block.code, page, "exec"), namespace)
            if block.prints is not None:
                # At the end, because a vendor's library may have greeted before.
                assert steady(capsys.readouterr().out).endswith(steady(block.prints))


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    if name.startswith(("bilevel.adjoints", "bilevel.layers", "bilevel.learning")):
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(importlib.import_module(name), optionflags=options).failed == 0
