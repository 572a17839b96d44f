"""Textbook problems from applications: T14, T16, T19."""

from __future__ import annotations

import cvxpy as cp

from bilevel.instances.instance import Answer, Instance
from bilevel.problem.problem import Follower, Problem
from bilevel.status import Status

_OVERVIEW = "Bilevel Optimization (SciencePedia overview), section"


def _cell(growth_yield: float, *, strong: bool = False) -> Problem:
    k = cp.Variable(boolean=True, name="k")
    uptake, r1, r2 = (cp.Variable(name=name) for name in ("uptake", "r1", "r2"))
    growth = growth_yield * r1 + r2
    rows = [uptake == r1 + r2, uptake <= 10, r1 >= 0, r1 <= 10 * (1 - k), r2 >= 0]
    if strong:
        # Half of the largest growth, which is 10 with and without the knockout.
        rows.append(growth >= 5)
    objective = cp.Minimize(r2) if strong else cp.Maximize(growth)
    cell = Follower(objective, rows, variables=[uptake, r1, r2], name="cell")
    return Problem(cp.Maximize(r2 - k), followers=[cell])


def _cell_with_tie() -> Problem:
    return _cell(1.0)


def _cell_weakly_coupled() -> Problem:
    return _cell(0.8)


def _cell_strongly_coupled() -> Problem:
    return _cell(0.8, strong=True)


_KEPT = Answer(Status.OPTIMAL, 10.0, {"k": 0.0, "uptake": 10.0, "r1": 0.0, "r2": 10.0})
_CELL = (
    "A cell takes up at most 10 and turns it into growth by r1, or into growth and product by r2; "
    "the leader may knock out r1 (k = 1). The knockout's price of 1 is ours: it makes each case "
    "decide the design."
)
_T14 = Instance(
    name="T14",
    title="Gene knockout with a tie",
    source=f"{_OVERVIEW} 'The Art of the Objective: Defining \"Good\"'",
    build=_cell_with_tie,
    optimistic=_KEPT,
    pessimistic=Answer(Status.OPTIMAL, 9.0, {"k": 1.0, "uptake": 10.0, "r1": 0.0, "r2": 10.0}),
    notes=(
        f"{_CELL} Both reactions yield the same growth: without the knockout any product between "
        "0 and 10 goes with the largest growth; with it the cell produces 10."
    ),
)
_T14B = Instance.agreed(
    _KEPT,
    name="T14b",
    title="Gene knockout, weak coupling",
    source=f"{_OVERVIEW} 'The Art of the Objective: Defining \"Good\"'",
    build=_cell_weakly_coupled,
    notes=(
        f"{_CELL} With a growth yield of 0.8 on r1 the cell at its largest growth produces 10 "
        "without a knockout, but nothing forces it to at half of that growth, see T14c."
    ),
)
_T14C = Instance.agreed(
    Answer(Status.OPTIMAL, 4.0, {"k": 1.0, "uptake": 5.0, "r1": 0.0, "r2": 5.0}),
    name="T14c",
    title="Gene knockout, strong coupling",
    source=f"{_OVERVIEW} 'The Art of the Objective: Defining \"Good\"'",
    build=_cell_strongly_coupled,
    notes=(
        f"{_CELL} The follower is the least product at no less than half of the largest growth: 0 "
        "without and 5 with the knockout."
    ),
)


def _monopolist() -> Problem:
    x = cp.Variable(name="x")
    y = cp.Variable(name="y")
    utility = 10 * y - cp.square(y)
    consumer = Follower(cp.Maximize(utility - x * y), [y >= 0], variables=[y], name="consumer")
    return Problem(cp.Maximize((x - 1) * y), [x >= 0, x <= 10], followers=[consumer])


_T16 = Instance.agreed(
    Answer(Status.OPTIMAL, 10.125, {"x": 5.5, "y": 2.25}),
    name="T16",
    title="Price of a monopolist",
    source=f"{_OVERVIEW} 'Designing for an Adversary: Nature, Competitors, and Threats'",
    build=_monopolist,
    notes=(
        "Demand (10 - x)/2 and unit cost 1: the price is (a + c)/2 and the profit (a - c)^2/(4 b) "
        "with a = 10, b = 2, c = 1. The leader's objective is a product of both levels' "
        "variables. The numbers and the bounds, which are not active, are ours."
    ),
)


def _lexicographic() -> Problem:
    u = cp.Variable(2, name="u")
    first = Follower(cp.Minimize(cp.square(cp.sum(u) - 2)), [], variables=[u], name="first")
    return Problem(cp.Minimize(cp.square(u[0]) + 2 * cp.square(u[1])), followers=[first])


_T19 = Instance(
    name="T19",
    title="Lexicographic priorities",
    source=f"{_OVERVIEW} 'The Unity of Hierarchical Systems'",
    build=_lexicographic,
    optimistic=Answer(Status.OPTIMAL, 8 / 3, {"u": (4 / 3, 2 / 3)}),
    pessimistic=None,
    notes=(
        "The leader has no variable: it chooses among the best responses to the first priority, a "
        "line. Over that line its objective has no upper bound, so there is no pessimistic "
        "response. Weighting the first priority by rho, instead of putting it first, misses u[0] "
        "by about 0.889/rho. The numbers are ours."
    ),
)

INSTANCES = (_T14, _T14B, _T14C, _T16, _T19)
