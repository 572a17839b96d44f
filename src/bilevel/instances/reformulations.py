"""Textbook problems about what replaces a follower, and where that fails: T6 to T9."""

from __future__ import annotations

import cvxpy as cp

from bilevel.instances.instance import Answer, Instance
from bilevel.problem.problem import Follower, Problem
from bilevel.status import Status

_KKT = "Bilevel Optimization (textbook chapter), section 'The KKT Reformulation'"
_PITFALLS = "Bilevel Optimization (textbook chapter), section 'Pitfalls of the KKT Reformulation'"
_DUALITY = (
    "Bilevel Optimization (textbook chapter), section 'The Duality-Based Reformulation for Linear "
    "Programs'"
)


def _kkt() -> tuple[cp.Variable, cp.Variable, Follower]:
    x = cp.Variable(name="x")
    y = cp.Variable(name="y")
    cost = 0.5 * cp.square(y) + x * y
    return x, y, Follower(cp.Minimize(cost), [y - x - 1 >= 0, y >= 0], variables=[y])


def _kkt_price() -> Problem:
    x, y, follower = _kkt()
    price = follower.dual(follower.constraints[0])
    return Problem(cp.Minimize(cp.square(y) - price), [x >= -2, x <= 2], followers=[follower])


def _kkt_target() -> Problem:
    x, y, follower = _kkt()
    return Problem(cp.Minimize(cp.square(x - 2) + cp.square(y - 3)), followers=[follower])


_T6 = Instance.agreed(
    Answer(Status.OPTIMAL, 0.0, {"x": 0.0, "y": 1.0, "dual[y.c0]": 1.0}),
    name="T6",
    title="Optimality conditions of a quadratic follower",
    source=_KKT,
    build=_kkt_price,
    notes=(
        "The follower's response is y = max(-x, x + 1) with multipliers max(0, 2 x + 1) and 0: the "
        "second constraint is never active. The leader is ours; its objective y^2 - lam1 equals "
        "x^2 along this response, and its bounds are not active."
    ),
)
_T6B = Instance.agreed(
    Answer(Status.OPTIMAL, 0.0, {"x": 2.0, "y": 3.0}),
    name="T6b",
    title="Big-M that is too small",
    source=_KKT,
    build=_kkt_target,
    notes=(
        "The leader is ours. The multiplier of the first constraint is 5 at the optimum; with a "
        "bound of 1 on it the best point is x = 0, y = 1 of value 8, whose follower is optimal."
    ),
)


def _double_well() -> Problem:
    x = cp.Variable(name="x")
    y = cp.Variable(name="y")
    follower = Follower(cp.Minimize(cp.power(y, 4) - cp.square(y)), [], variables=[y])
    return Problem(cp.Minimize(cp.square(x) + cp.square(y)), followers=[follower])


def _triple_well() -> Problem:
    x = cp.Variable(name="x")
    y = cp.Variable(name="y")
    alpha = 0.1
    energy = (
        cp.power(y, 6) / 6 - (alpha + 0.5) * cp.power(y, 4) / 4 + 0.5 * alpha * cp.square(y) / 2
    )
    follower = Follower(cp.Minimize(energy), [], variables=[y])
    return Problem(cp.Minimize(cp.square(x) + cp.square(y)), followers=[follower])


_T7 = Instance.agreed(
    Answer(Status.OPTIMAL, 0.5, {"x": 0.0}, unique=False),
    name="T7",
    title="Spurious stationary point of a nonconvex follower",
    source=_PITFALLS,
    build=_double_well,
    notes=(
        "The best responses are y = -1/sqrt(2) and 1/sqrt(2) for every x. The optimality "
        "conditions also admit y = 0, hence (0, 0) of value 0. The source calls y = 0 a local "
        "minimum; of this follower it is a local maximum. Both levels are ours."
    ),
    solvable=False,
)
_T7B = Instance.agreed(
    Answer(Status.OPTIMAL, 0.5, {"x": 0.0}, unique=False),
    name="T7b",
    title="Spurious local minimum of a nonconvex follower",
    source=_PITFALLS,
    build=_triple_well,
    notes=(
        "As T7, with y = 0 a local minimum as the source has it: the follower's value is 0 "
        "there and -1/96 + alpha/16 = -1/240 at its best responses; alpha = 0.1 must be below 1/6."
    ),
    solvable=False,
)


def _duplicate() -> Problem:
    x = cp.Variable(name="x")
    y = cp.Variable(name="y")
    demand = y >= x
    again = y >= x
    follower = Follower(cp.Minimize(y), [demand, again], variables=[y])
    price = follower.dual(demand)
    return Problem(cp.Minimize(cp.square(x - 1) - price), followers=[follower])


def _ray() -> Problem:
    x = cp.Variable(name="x")
    y = cp.Variable(name="y")
    above = y <= 0
    below = -y <= 0
    follower = Follower(cp.Minimize(-x * y), [above, below], variables=[y])
    return Problem(cp.Minimize(-follower.dual(above)), [x == 0.3], followers=[follower])


_T8 = Instance(
    name="T8",
    title="Multipliers that are not unique, but bounded",
    source=_PITFALLS,
    build=_duplicate,
    optimistic=Answer(Status.OPTIMAL, -1.0, {"x": 1.0, "y": 1.0, "dual[y.c0]": 1.0}),
    pessimistic=None,
    notes=(
        "The demand stands there twice, so only the sum of both multipliers is determined: it is "
        "1, and the leader takes all of it. The leader is ours. A stance is about responses, not "
        "about multipliers, so there is no pessimistic one. That constraint gradients are "
        "dependent is not enough for an unbounded leader, see T8b."
    ),
)
_T8B = Instance(
    name="T8b",
    title="Multipliers that are unbounded",
    source=_PITFALLS,
    build=_ray,
    optimistic=Answer(Status.UNBOUNDED, None, {}, unique=False),
    pessimistic=None,
    notes=(
        "The follower can only respond with 0, with multipliers (0.3 + t, t) for every t >= 0: its "
        "feasible set has no interior, and an optimistic leader paid by the first multiplier "
        "earns any amount. The leader is ours."
    ),
)


def _linear_value(sense: type[cp.Minimize] | type[cp.Maximize]) -> Problem:
    x = cp.Variable(name="x")
    y = cp.Variable(2, name="y")
    cost = 2 * y[0] + 3 * y[1]
    rows = [cp.sum(y) >= 1 + x, y[0] >= 0, y[1] >= x / 4]
    follower = Follower(cp.Minimize(cost), rows, variables=[y], name="supplier")
    return Problem(sense(follower.value), [x >= 1, x <= 4], followers=[follower])


def _least_value() -> Problem:
    return _linear_value(cp.Minimize)


def _largest_value() -> Problem:
    return _linear_value(cp.Maximize)


_T9 = Instance.agreed(
    Answer(Status.OPTIMAL, 4.25, {"x": 1.0, "y": (1.75, 0.25), "value[supplier]": 4.25}),
    name="T9",
    title="Value of a linear follower, minimized",
    source=_DUALITY,
    build=_least_value,
    notes=(
        "The value is 2 + 2.25 x with multipliers (2, 0, 1). The leader is ours. The source's "
        "substitution, the dual objective for the value, leaves the multipliers to the leader, "
        "who takes 0.75 here; it is valid only where the leader does not lose by a larger value."
    ),
)
_T9B = Instance.agreed(
    Answer(Status.OPTIMAL, 11.0, {"x": 4.0, "y": (4.0, 1.0), "value[supplier]": 11.0}),
    name="T9b",
    title="Value of a linear follower, maximized",
    source=_DUALITY,
    build=_largest_value,
    notes=(
        "As T9 with the opposite sense, for which the source's substitution is valid; now primal "
        "feasibility alone, without the follower's optimality, makes the leader unbounded. The "
        "leader is ours."
    ),
)

INSTANCES = (_T6, _T6B, _T7, _T7B, _T8, _T8B, _T9, _T9B)
