"""The figures of docs/reaction.md, drawn by ``make.py``."""

from functools import partial

import cvxpy as cp
from matplotlib.figure import Figure

import bilevel as bl
from bilevel import plots


def line(name: str, mark: float, span: tuple[float, float] | None = None) -> Figure:
    """Return the reaction map of a textbook problem with one parameter."""
    return plots.reaction(bl.reaction(bl.instances.get(name).problem), mark=[mark], span=span)


def plane() -> Figure:
    """Return the reaction map of a projection onto a triangle."""
    x, y = cp.Variable(2, name="x"), cp.Variable(2, name="y")
    follower = bl.Follower(
        cp.Minimize(cp.sum_squares(y - x)), [y >= 0, cp.sum(y) <= 1], variables=[y]
    )
    leader = cp.Minimize(cp.sum_squares(x - 1.5) - 6 * y[0] - 3 * y[1])
    problem = bl.Problem(leader, [x >= -1, x <= 2], followers=[follower])
    return plots.reaction(bl.reaction(problem), mark=bl.solve(problem, bl.Substitution())[x])


FIGURES = {
    "reaction-T2": partial(line, "T2", 2.0, (-1.5, 3.0)),
    "reaction-T3": partial(line, "T3", 0.5),
    "reaction-T4": partial(line, "T4", 2.0),
    "reaction-plane": plane,
}
