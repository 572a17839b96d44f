"""A user's script: every type checker must find in it the types written here, and no error."""

from dataclasses import dataclass
from typing import Any, ClassVar, assert_type

import cvxpy as cp
import torch

import bilevel as bl
from bilevel import layers

toll = cp.Parameter(name="toll", value=1.0)
x, y = cp.Variable(name="x"), cp.Variable(name="y")
follower = bl.Follower(cp.Minimize(y), [y >= x, y >= toll], variables=[y], name="carrier")
problem = bl.Problem(
    cp.Minimize(x + y), [x >= 0], followers=[follower], stance="pessimistic", variables=[x]
)

solution = bl.solve(problem)
assert_type(solution, bl.Solution)
assert_type(solution.status, bl.Status)
assert_type(solution.leader_value, float | None)
assert_type(solution.certificate, bl.Certificate | None)
assert_type(solution.stats.method, str)
assert_type(solution.summary(), str)

again = bl.solve(
    problem,
    bl.SingleLevel(bl.KKT(bl.SOS1()), backend="scip"),
    parameters={toll: 2.0},
    start={x: 1.0, y: 2.0},
    time_limit=60,
    rtol=1e-4,
    atol=1e-6,
    seed=1,
    callback=lambda progress: progress.seconds > 30,
    options={"limits/nodes": 10},
    verbose=False,
    throw=False,
)
assert_type(again, bl.Solution)
assert_type(bl.solve(problem, start=solution), bl.Solution)
assert_type(bl.solve(problem, start={"x": 1.0}), bl.Solution)
assert_type(bl.solve(problem, rtol=None, atol=None, verbose=None), bl.Solution)
assert_type(bl.verify(problem, {x: 1.0, y: 2.0}), bl.Certificate)
assert_type(bl.reaction(problem), bl.ReactionMap)
assert_type(problem.replace(stance="optimistic"), bl.Problem)

smooth = bl.SmoothProblem(F=lambda x, y: (x - 2) ** 2 + y, f=lambda x, y: (y - x) ** 2)
zero = torch.zeros((), dtype=torch.float64)
found = bl.solve(smooth, start=(zero, zero))
assert_type(found, bl.SmoothSolution)
assert_type(
    bl.solve(smooth, bl.ReducedNewton(), parameters=(zero,), start=(zero, zero), time_limit=3.0),
    bl.SmoothSolution,
)

layer = layers.FollowerLayer(follower, [x, toll], [y])
assert_type(layer, layers.FollowerLayer)
rooms: tuple[Any, ...] = (bl.adjoints.KKT(), bl.plots.reaction, bl.instances.get("T1"))


@dataclass(frozen=True)
class Guess:
    """The answer to a riddle."""

    status: bl.Status
    stats: bl.Stats


class Riddle(bl.AbstractProblem):
    """A problem of a class outside the package."""

    driver: ClassVar[str] = "riddles:guess"
    solution_type = Guess


def ask(riddle: Riddle) -> None:
    """Solve a problem of one's own class."""
    assert_type(bl.solve(riddle, "by thinking", seed=3), Guess)
