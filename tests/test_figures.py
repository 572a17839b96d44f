"""The figures of the docs: each is shown by a page and drawn by ``docs/figures/make.py``."""

import importlib
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "figures"
QUICK = [
    "spurious",
    "unattained",
    "reaction-T2",
    "reaction-T3",
    "applications-toll",
    "gallery-lasso",
]


@pytest.fixture(scope="module")
def make():
    pytest.importorskip("matplotlib")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("make")


def test_every_figure_is_drawn_and_shown(make):
    pages = "".join(page.read_text(encoding="utf-8") for page in FOLDER.parent.glob("*.md"))
    shown = set(re.findall(r"\]\(figures/(.+?)\.png\)", pages))
    assert shown == {file.stem for file in FOLDER.glob("*.png")} == set(make.FIGURES)


@pytest.mark.parametrize("name", QUICK)
def test_figures_can_be_drawn_again(make, name, tmp_path):
    if name.startswith("gallery"):
        for package in ("torch", "sklearn"):
            pytest.importorskip(package)
    make.main(tmp_path, [name])
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000


@pytest.mark.slow
def test_enumeration_and_a_sound_m_agree(make):
    """The truth that the figure of big-M compares with, on problems where 1000 is large enough."""
    for seed in range(10):
        data = make.random_problem(seed)
        best = make.enumerated(*data)
        if best is not None:
            assert make.claimed(*data, 1e3, "SCIP") == pytest.approx(best, abs=1e-5)
