"""SCIP 10 loses nodes whose LP is unbounded and claims the rest "optimal" or "infeasible".

Unbounded here means: at some leader decision the followers leave the leader a ray. The first four
problems were once called optimal or infeasible.
"""

import cvxpy as cp
import numpy as np
import pytest
from tests.registry import OPTIMISTIC, SOLVERS, rows

import bilevel as bl
from bilevel import Status, UnsupportedProblem
from bilevel.program import RawAnswer, Termination
from bilevel.solvers.unboundedness import settle

EXACT = tuple(row for row in SOLVERS if row.exact and row.stances >= OPTIMISTIC)


def indifferent_follower():
    """Where ``1 + 2 x0 - x1 = 0`` the follower does not care how far down it goes."""
    x0, x1, y = (cp.Variable(name=n) for n in ("x0", "x1", "y"))
    rows_ = [3 * y + 2 * x0 <= -2, y + 3 * x0 + 2 * x1 <= 3, 2 * y <= 2 * x0 + x1]
    follower = bl.Follower(cp.Minimize((1 + 2 * x0 - x1) * y), rows_, variables=[y])
    leading = [x0 >= -3, x0 <= 4, x1 >= -2, x1 <= 1]
    return bl.Problem(cp.Minimize(2 * x0 - 3 * x1 + 2 * y), leading, followers=[follower])


def opposed_rows():
    """At ``x = 1`` two rows leave ``y = 0`` alone, and their multipliers grow together."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    cap = y <= 1 - x
    follower = bl.Follower(cp.Minimize(cp.square(y)), [cap, y >= 0], variables=[y])
    return bl.Problem(cp.Maximize(follower.dual(cap)), [x >= 0, x <= 1], followers=[follower])


def paid_by_a_multiplier():
    """The same at ``x = 2/3``, which no solver hits exactly."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    cap = 2 * y + 2 * x <= -2
    rows_ = [cap, -y + 2 * x <= 3, y <= 4, y >= -2]
    objective = cp.Maximize(-(0.5 * cp.square(y) + (3 + x) * y))
    follower = bl.Follower(objective, rows_, variables=[y])
    leading = [x >= 0, x <= 4]
    F = -x + 2 * y - 2 * follower.dual(cap)
    return bl.Problem(cp.Minimize(F), leading, followers=[follower])


def integer_and_equation():
    """An integer leader, a singular quadratic follower and an equation."""
    x0, x1 = cp.Variable(name="x0", integer=True), cp.Variable(name="x1")
    y = cp.Variable(3, name="y")
    f = 0.5 * cp.square(y[0] + y[1] + 2 * y[2]) + y[1] - y[2]
    f = f + (2 * x0 - x1) * y[0] - (x0 + 3 * x1) * y[1] - 2 * (x0 + x1) * y[2]
    rows_ = [
        -y[0] - y[1] - 3 * x0 + 2 * x1 == 1,
        -y[0] + 2 * y[1] - y[2] - 3 * x0 - 2 * x1 <= 0,
    ]
    follower = bl.Follower(cp.Minimize(f), rows_, variables=[y])
    leading = [x0 >= -2, x0 <= 0, x1 >= 0, x1 <= 3]
    F = 2 * x0 - 2 * y[0] + 3 * y[1] - y[2]
    return bl.Problem(cp.Minimize(F), leading, followers=[follower])


def plain():
    """The leader runs away with its own free variable."""
    x, z, y = (cp.Variable(name=n) for n in ("x", "z", "y"))
    follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
    return bl.Problem(cp.Minimize(z + y), [x >= 0, x <= 1, z <= 5], followers=[follower])


CASES = [indifferent_follower, opposed_rows, paid_by_a_multiplier, integer_and_equation, plain]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("row", rows(EXACT))
def test_no_optimum_and_no_emptiness_is_claimed(row, case):
    given = case()
    try:
        solution = bl.solve(given, row.build(), throw=False, time_limit=2)
    except UnsupportedProblem:
        assert row.may_refuse or row.must_refuse(given)
        return
    assert solution.status in (
        Status.UNBOUNDED,
        Status.FEASIBLE,
        Status.NOT_FOUND,
        Status.FAILED,
    ), solution.summary()
    assert solution.bound is None


@pytest.mark.parametrize("found", [True, False], ids=["a point", "no point"])
def test_the_floor_is_no_bound_where_a_limit_was_met(found):
    """A search that stops in its second phase knows that ``max(F, floor) >= floor``: nothing."""
    form = opposed_rows().compile()
    program = bl.KKT().apply(form).program
    first = RawAnswer(Termination.OPTIMAL, np.zeros(program.n), 0.0, None, 1, 0.0, "claimed")
    asked = []

    def stopped(floored):
        asked.append(floored)
        floor = floored.lower[-1]
        v = np.append(np.zeros(program.n), 0.0) if found else None
        return RawAnswer(Termination.LIMIT, v, floor, None, 1, 0.0, "time limit")

    settled = settle(form, program, first, stopped)
    assert len(asked) == 1
    assert settled.termination is Termination.LIMIT
    assert settled.bound == -np.inf


def test_a_bound_above_the_floor_is_kept():
    form = opposed_rows().compile()
    program = bl.KKT().apply(form).program
    first = RawAnswer(Termination.OPTIMAL, np.zeros(program.n), 0.0, None, 1, 0.0, "claimed")
    better = RawAnswer(
        Termination.OPTIMAL, np.append(np.zeros(program.n), -3.0), -3.0, None, 1, 0.0, "optimal"
    )
    assert settle(form, program, first, lambda floored: better).bound == -3.0


@pytest.mark.backend("scip")
@pytest.mark.parametrize("case", [indifferent_follower, opposed_rows, plain])
def test_unboundedness_is_recognized(case):
    assert bl.solve(case(), throw=False).status is Status.UNBOUNDED


@pytest.mark.backend("scip")
def test_an_unbounded_relaxation_is_not_an_unbounded_problem():
    """Without complementarity ``y`` could grow for ever; the follower keeps it at ``x``."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    for cost in (y, cp.square(y)):
        follower = bl.Follower(cp.Minimize(cost), [y >= x], variables=[y])
        given = bl.Problem(cp.Maximize(y), [x >= -1, x <= 2], followers=[follower])
        solution = bl.solve(given)
        assert solution.status is Status.OPTIMAL
        assert solution.leader_value == pytest.approx(2)


@pytest.mark.backend("scip")
@pytest.mark.parametrize("reach", [10.0, 1e3, 1e5])
def test_a_large_box_is_not_unbounded(reach):
    """The same follower, its answers boxed: the optimum moves with the box."""
    given = indifferent_follower()
    (y,) = given.followers[0].variables
    twin = given.replace(constraints=[*given.constraints, y >= -reach])
    x0 = np.linspace(-3, 4, 4001)
    x1 = 1 + 2 * x0
    allowed = (x1 >= -2) & (x1 <= 1)
    truth = (2 * x0 - 3 * x1 - 2 * reach)[allowed].min()
    solution = bl.solve(twin, time_limit=30)
    assert solution.leader_value <= truth + 1e-4 * reach
    assert solution.status is Status.OPTIMAL
