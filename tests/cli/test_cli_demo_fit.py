"""The demo's second stop: costs learned from a day, the table, the figure, and without torch."""

import contextlib
import io
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs the extra `plots` (matplotlib)")

from bilevel import plots
from bilevel.cli import demo_fit
from bilevel.errors import ProblemError

# scipy looks into sys.modules for torch, so that a None there is no way to hide it.
WITHOUT = """
import sys
from pathlib import Path

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
from bilevel.cli import demo_fit
demo_fit.run(Path())
"""
# cvxpy itself loads what it finds.
LOADED = """
import sys
import cvxpy
for name in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
    del sys.modules[name]
import bilevel, bilevel.cli
print("torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Run the second stop once and return what it prints and its figure."""
    pytest.importorskip("torch", reason="needs the extra `torch`")
    pytest.importorskip("numba", reason="needs the extra `torch` (numba)")
    folder = tmp_path_factory.mktemp("fit")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        demo_fit.run(folder)
    return out.getvalue(), folder / "bilevel-demo-fit.png"


def rows(text):
    """Return costs and rises by unit: true, start, fitted, twice."""
    found = {}
    for line in text.splitlines():
        for unit in demo_fit._UNITS:
            if line.startswith(unit):
                found[unit] = [float(word) for word in line[len(unit) :].split()]
    return found


def test_the_costs_are_found(shown):
    text, _ = shown
    found = rows(text)
    assert set(found) == set(demo_fit._UNITS)
    for capacity, cost, start, fitted, rise, start_rise, fitted_rise in found.values():
        middle, fitted_middle = cost + rise * capacity / 2, fitted + fitted_rise * capacity / 2
        assert abs(fitted_middle - middle) < 1.0
        assert abs(fitted - cost) < 1.0 < abs(start - cost)
        assert abs(fitted_rise - rise) < 0.2 * rise < abs(start_rise - rise)


def test_it_says_what_to_see(shown):
    text, _ = shown
    (line,) = (line for line in text.splitlines() if line.startswith("What to see"))
    before, after = line.split(" before the fit, by ")
    assert float(before.split("off by ")[1].split()[0]) > 100
    assert float(after.split()[0]) < demo_fit._NOISE_MW
    assert float(after.split()[2]) < demo_fit._NOISE_PRICE


def test_the_table_fits_80_columns(shown):
    text, _ = shown
    table = [line for line in text.splitlines() if line.startswith(("unit", *demo_fit._UNITS))]
    assert len(table) == 6
    assert max(len(line.rstrip()) for line in table) <= 80


def test_the_figure_is_written(shown):
    _, path = shown
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 20_000


@pytest.mark.parametrize("package", ["torch", "numba"])
def test_without_torch_it_is_left_out_with_a_sentence(package, tmp_path):
    code = WITHOUT.format(package=package)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert f"needs the package {package}" in done.stdout
    assert 'pip install "bilevel[torch]"' in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_command_line_does_not_load_torch():
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]


def test_what_a_figure_of_a_fit_refuses():
    observed = np.ones((3, 2))
    for wrong in ({}, {"start": np.ones((3, 1))}):
        with pytest.raises(ProblemError, match="shape"):
            plots.fit(observed, wrong, ["a", "b"])
    with pytest.raises(ProblemError, match="observations"):
        plots.fit(observed, {"start": observed}, ["a"])
