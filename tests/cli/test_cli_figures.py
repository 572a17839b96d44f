"""Figures are written, and show what the solution says."""

import sys

import numpy as np
import pytest

import bilevel as bl

pytest.importorskip("matplotlib", reason="needs the extra `plots` (matplotlib)")

from bilevel import plots
from bilevel.applications.production import Envelope

PNG = b"\x89PNG\r\n\x1a\n"


def triangle(height):
    """Return an envelope whose least production is zero."""
    growth = np.linspace(0.0, 0.2, 3)
    return Envelope(growth, np.zeros(3), height * np.array([1.0, 0.8, 0.1]))


@pytest.mark.parametrize("name", ["T8", "T14", "T16"])
def test_solve_saves_a_figure(bilevel, tmp_path, name):
    path = tmp_path / "gap.png"
    done = bilevel("solve", name, "--figure", path)
    assert done.code == 0
    assert str(path) in done.err
    assert path.read_bytes().startswith(PNG)
    assert path.stat().st_size > 5000


@pytest.mark.parametrize("ending", ["pdf", "svg"])
def test_other_formats(bilevel, tmp_path, ending):
    path = tmp_path / f"gap.{ending}"
    assert bilevel("solve", "T16", "--figure", path, "--json").json["status"] == "OPTIMAL"
    assert path.stat().st_size > 5000


def test_a_solution_without_value_and_bound_has_no_figure(bilevel, tmp_path):
    path = tmp_path / "gap.png"
    done = bilevel("solve", "T8b", "--figure", path)
    assert done.code == 1
    assert "no figure" in done.err
    assert not path.exists()


def test_matplotlib_is_missed_before_the_work(bilevel, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for command in (["solve", "T16", "--figure", "gap.png"], ["demo"]):
        done = bilevel(*command)
        assert (done.code, done.out) == (3, "")
        assert 'pip install "bilevel[plots]"' in done.err


def test_convergence_ends_at_value_and_bound():
    solution = bl.solve(bl.instances.get("T16").problem)
    value, bound = plots.convergence(solution, label="Profit (EUR)").axes[0].lines[:2]
    assert value.get_ydata()[-1] == solution.leader_value
    assert bound.get_ydata()[-1] == solution.bound


def test_convergence_draws_no_bound_that_is_not_proved():
    solver = bl.SingleLevel(bl.KKT(bl.BigM(multiplier=1.0, slack=10.0)))
    figure = plots.convergence(bl.solve(bl.instances.get("T6b").problem, solver))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["best point so far"]


def test_convergence_of_nothing_is_an_error():
    solution = bl.Solution(bl.Status.UNBOUNDED, None, {}, None, None, bl.Stats("none"))
    with pytest.raises(bl.ProblemError, match="UNBOUNDED"):
        plots.convergence(solution)


def test_envelopes_name_each_strain_once():
    strains = {"A": triangle(5), "B": triangle(8)}
    figure = plots.envelopes(
        strains,
        wild_type=triangle(10),
        product="succinate",
        growth_floor=0.05,
        panels={"K = 1": ["A"], "K = 2": ["A", "B"]},
    )
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["K = 1", "K = 2"]
    assert figure.axes[0].get_ylabel() == "Production of succinate (mmol/gDW/h)"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [names.count(name) for name in ("wild type", "A", "B")] == [1, 1, 1]
    assert "growth floor, 0.05 /h" in names


def test_more_strains_than_colours():
    names = [f"strain {i}" for i in range(9)]
    figure = plots.envelopes({name: triangle(i + 1) for i, name in enumerate(names)})
    assert len(figure.axes) == 1


@pytest.mark.parametrize(
    ("strains", "panels"), [({}, None), ({"A": 1}, {}), ({"A": 1}, {"K = 1": ["B"]})]
)
def test_envelopes_of_nothing_are_an_error(strains, panels):
    with pytest.raises(bl.ProblemError, match="envelope"):
        plots.envelopes(strains, panels=panels)
