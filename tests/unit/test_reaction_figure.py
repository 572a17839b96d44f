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
