"""A textbook problem before and after a constraint is lifted to the leader: T22."""

from __future__ import annotations

import cvxpy as cp

from bilevel.instances.instance import Answer, Instance
from bilevel.problem.problem import Follower, Problem
from bilevel.status import Status

_SOURCE = (
    "Kotary, Sharma, King, Vrabie, Fioretto and Drgona (2025), A Method for Learning to Solve "
    "Parametric Bilevel Optimization with Coupling Constraints, arXiv:2507.09050, section 4.3 "
    "'Satisfying Lower-Level Constraints'"
)


def _demand() -> tuple[cp.Variable, cp.Variable, cp.Minimize]:
    x = cp.Variable(name="x")
    y = cp.Variable(name="y")
    return x, y, cp.Minimize(0.5 * cp.square(y))


def _demanded_of_the_follower() -> Problem:
    x, y, cost = _demand()
    follower = Follower(cost, [y >= x], variables=[y])
    return Problem(cp.Minimize(-x), [x >= 0, x <= 1], followers=[follower])


def _demanded_of_the_leader() -> Problem:
    x, y, cost = _demand()
    follower = Follower(cost, [], variables=[y])
    return Problem(cp.Minimize(-x), [x >= 0, x <= 1, y >= x], followers=[follower])


_T22 = Instance.agreed(
    Answer(Status.OPTIMAL, -1.0, {"x": 1.0, "y": 1.0}),
    name="T22",
    title="A constraint before it is lifted",
    source=_SOURCE,
    build=_demanded_of_the_follower,
    notes=(
        "The follower responds with y = x and the multiplier x, so an absolute price of a "
        "violation is exact from 1 on. The source calls T22 and T22b equivalent. The numbers are "
        "ours."
    ),
)
_T22B = Instance.agreed(
    Answer(Status.OPTIMAL, 0.0, {"x": 0.0, "y": 0.0}),
    name="T22b",
    title="A constraint lifted to the leader",
    source=_SOURCE,
    build=_demanded_of_the_leader,
    notes=(
        "As T22, but the leader answers for y >= x: the follower responds with 0, so that only x = "
        "0 is left. What is feasible here is feasible for T22, not conversely."
    ),
)

INSTANCES = (_T22, _T22B)
