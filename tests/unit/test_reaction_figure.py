"""Figures of reaction maps show kinks, jumps and what is left for the leader."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel import ProblemError

pytest.importorskip("matplotlib", reason="needs the extra `plots` (matplotlib)")

from bilevel import plots


def reduced(name, **options):
    """Return the leader's values that a figure shows, as one curve."""
    figure = plots.reaction(bl.reaction(bl.instances.get(name).problem), **options)
    curves = [line.get_xydata() for line in figure.axes[1].lines if len(line.get_xdata()) > 2]
    points = np.concatenate([np.asarray(curve, float) for curve in curves])
    return points[np.argsort(points[:, 0])]


def test_t2_shows_a_local_minimum_and_a_maximum_at_the_kink():
    curve = reduced("T2", mark=[2.0], span=(-0.5, 3.0))
    x, value = curve.T
    expected = np.where(x < 1, (x - 2) ** 2 + (x + 1) ** 2, (x - 2) ** 2 + 4)
    np.testing.assert_allclose(value, expected, atol=1e-9)
    assert (x.min(), x.max()) == pytest.approx((-0.5, 3.0), abs=1e-5)


def test_t3_is_the_projection():
    x, value = reduced("T3").T
    np.testing.assert_allclose(value, x - 4 * np.clip(x, 0.0, 0.5), atol=1e-9)


def test_t4_shows_both_values_where_the_consumer_is_indifferent():
    found = bl.reaction(bl.instances.get("T4").problem)
    assert found.leader_value([2.0]) == pytest.approx(2.0)
    assert found.leader_value([2.0], "pessimistic") == pytest.approx(0.0, abs=1e-9)
    dots = [
        float(line.get_ydata()[0])
        for line in plots.reaction(found).axes[1].lines
        if len(line.get_xdata()) == 1
    ]
    assert sorted(dots) == pytest.approx([0.0, 2.0], abs=1e-9)


def test_other_variables_of_the_leader_are_chosen_best():
    x, y, z = (cp.Variable(name=name) for name in "xyz")
    follower = bl.Follower(cp.Minimize(cp.square(y - x)), [y <= 1], variables=[y])
    leader = cp.Minimize(cp.square(z - y) + z)
    problem = bl.Problem(leader, [x >= 0, x <= 2, y >= 0.5], followers=[follower])
    found = bl.reaction(problem)
    assert found.leader_value([0.75]) == pytest.approx(0.5, abs=1e-7)
    assert np.isnan(found.leader_value([0.25])), "the coupling constraint fails there"
    assert len(plots.reaction(found).axes) == 2


def test_the_plane_and_what_cannot_be_drawn():
    x, y = cp.Variable(2, name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(x @ np.ones(2) * y), [y >= -1, y <= 1], variables=[y])
    box = [x >= -1, x <= 1]
    problem = bl.Problem(cp.Minimize(y + cp.sum(x)), box, followers=[follower])
    found = bl.reaction(problem)
    assert len(found) == 2
    assert [part.dimension for part in found.set_valued] == [1]
    figure = plots.reaction(found, mark=[1.0, -1.0])
    assert figure.axes[0].get_title(loc="left") == "2 regions"
    with pytest.raises(ProblemError, match="nothing to draw"):
        plots.reaction(bl.reaction(bl.instances.get("T19").problem))


def many(count):
    """A follower with so many answers, which differ in slope."""
    x, y = cp.Variable(name="x"), cp.Variable(count, name="y")
    z = cp.Variable(name="z")
    target = x * np.arange(1.0, count + 1)
    follower = bl.Follower(cp.Minimize(cp.sum_squares(y - target) + cp.square(z - x)), [], [y, z])
    problem = bl.Problem(cp.Minimize(x + z), [x >= 0, x <= 1], followers=[follower])
    return bl.reaction(problem), y, z


def styles(figure):
    return [(line.get_color(), str(line._unscaled_dash_pattern)) for line in figure.axes[0].lines]


def test_no_two_answers_have_one_style():
    found, _, _ = many(23)
    drawn = styles(plots.reaction(found))
    assert len(set(drawn)) == 24
    neighbours = zip(drawn, drawn[2:], strict=False)  # two lines, one for each end, per answer
    assert all(a == b or (a[0] != b[0] and a[1] != b[1]) for a, b in neighbours)


def test_more_responses_than_styles_are_refused_unless_chosen():
    found, y, z = many(24)
    with pytest.raises(ProblemError, match=r"25 responses.*24 styles.*variables=\['y\[0\]'\]"):
        plots.reaction(found)
    for chosen, count in (([y], 24), (y, 24), ([z, "y[3]"], 2), ("z", 1)):
        assert len(set(styles(plots.reaction(found, variables=chosen)))) == count
    legend = plots.reaction(found, variables=[z, "y[3]"]).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["z", "y[3]"]


def test_what_cannot_be_chosen():
    found, _, _ = many(2)
    for chosen, words in (
        (["w"], r"w is none of the followers' responses, which are: y\[0\], y\[1\], z"),
        ([cp.Variable(name="x")], "x is none of"),
        ([np.arange(12345, 12350)], "objects of type ndarray"),
        ([], "names no response"),
    ):
        with pytest.raises(ProblemError, match=words):
            plots.reaction(found, variables=chosen)


def test_an_empty_figure_is_refused_and_an_empty_panel_says_why():
    found, _, _ = many(2)
    with pytest.raises(ProblemError, match="between 5 and 6: the map covers 0 to 1"):
        plots.reaction(found, span=(5.0, 6.0))
    for span in ((1.0, 0.0), (0.0, np.nan)):
        with pytest.raises(ProblemError, match="span must be two finite numbers"):
            plots.reaction(found, span=span)
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(cp.square(y - x)), [], variables=[y])
    problem = bl.Problem(cp.Minimize(x), [x >= 0, x <= 1, y >= 5], followers=[follower])
    figure = plots.reaction(bl.reaction(problem))
    assert "constraints\nfail" in figure.axes[1].texts[0].get_text()


def test_an_empty_panel_of_the_plane_says_why():
    x, y = cp.Variable(2, name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(cp.square(y - cp.sum(x))), [], variables=[y])
    rows = [x >= -1, x <= 1, y >= 5]
    found = bl.reaction(bl.Problem(cp.Minimize(y), rows, followers=[follower]))
    assert "constraints\nfail" in plots.reaction(found).axes[1].texts[0].get_text()
    for name, given in (("variables", [y]), ("span", (0.0, 1.0))):
        with pytest.raises(ProblemError, match=f"{name} belongs to a figure over one parameter"):
            plots.reaction(found, **{name: given})


def test_other_figures_that_would_be_empty():
    with pytest.raises(ProblemError, match="names no strain"):
        plots.envelopes({"PYK": None}, panels={"left": []})
    with pytest.raises(ProblemError, match="at least one of them"):
        plots.fit(np.zeros((0, 2)), {"start": np.zeros((0, 2))}, ["coal", "gas"])


def test_a_number_names_no_answer():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(cp.square(y - x)), [], variables=[y])
    found = bl.reaction(bl.Problem(cp.Minimize(x), [x >= 0, x <= 1], followers=[follower]))
    for place in (0, 3):
        with pytest.raises(ProblemError, match="objects of type int"):
            plots.reaction(found, variables=[place])
