"""What compiling costs, beside CVXPY alone; and what a second solve saves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any
from unittest.mock import patch

import cvxpy as cp
import numpy as np

import bilevel as bl
from benchmarks.case import Case, Instance, Measurement, Method, Record, Target
from bilevel.backends.scip import SCIP

COUNTS = {"small": (10,), "full": (10, 50, 200, 400)}
ASKED = 50
_COMPILING, _REACHING = "compile", "reach the backend"
_OURS, _ALONE, _FIXED = "bilevel", "CVXPY, decision a parameter", "CVXPY, decision a constant"
_FIRST, _SECOND = "first solve", "second solve, new parameter values"


@dataclass(frozen=True, eq=False)
class Data:
    """A QP follower ``min y'y/2 + q'y : A y <= b + C x`` with as many rows as variables."""

    A: np.ndarray
    C: np.ndarray
    b: np.ndarray
    q: np.ndarray

    @classmethod
    def draw(cls, n: int) -> Data:
        rng = np.random.default_rng(n)
        sparse = rng.normal(size=(n, n)) * (rng.random((n, n)) < min(1.0, 10 / n)) + np.eye(n)
        return cls(sparse, rng.normal(size=(n, 3)), rng.random(n) + 1.0, rng.normal(size=n))

    def follower(self, decision: Any, demand: Any) -> tuple[Any, list[Any], cp.Variable]:
        """Return objective, constraints and variable; the same text for everybody."""
        y = cp.Variable(len(self.q), name="y")
        cost = 0.5 * cp.sum_squares(y) + self.q @ y
        return cp.Minimize(cost), [self.A @ y <= demand + self.C @ decision], y

    def problem(self) -> tuple[bl.Problem, cp.Parameter]:
        """Return a bilevel problem; its parameter is the follower's right-hand side."""
        x, demand = cp.Variable(3, name="x"), cp.Parameter(len(self.b), name="demand")
        demand.value = self.b
        objective, rows, y = self.follower(x, demand)
        follower = bl.Follower(objective, rows, variables=[y])
        leader = cp.Minimize(cp.sum(x) + self.q @ y)
        return bl.Problem(leader, [x >= -1, x <= 1], [follower]), demand

    def alone(self, parametric: bool) -> cp.Problem:
        """Return the follower by itself, the leader's decision a parameter or a number."""
        demand = cp.Parameter(len(self.b), name="demand")
        demand.value = self.b
        decision: Any = np.zeros(3)
        if parametric:
            decision = cp.Parameter(3, name="x")
            decision.value = np.zeros(3)
        return cp.Problem(*self.follower(decision, demand)[:2])


def _compile_ours(data: Data, limit: float) -> Measurement:
    del limit
    problem, _ = data.problem()
    return _timed(problem.compile)


def _compile_alone(data: Data, parametric: bool) -> Measurement:
    problem = data.alone(parametric)
    return _timed(lambda: problem.get_problem_data("CLARABEL", canon_backend="COO"))


def _timed(call: Any) -> Measurement:
    began = time.perf_counter()
    call()
    return Measurement("solved", seconds=time.perf_counter() - began)


class _Reached(Exception):
    """Raised in the backend's place, carrying the time."""


def _reach(problem: bl.Problem, demand: cp.Parameter, value: np.ndarray) -> float:
    """Return the seconds from the call of ``bl.solve`` until SCIP is called."""

    def arrive(*arguments: Any, **options: Any) -> None:
        del arguments, options
        raise _Reached(time.perf_counter())

    solver = bl.SingleLevel(bl.KKT(bl.SOS1()), "scip")
    began = time.perf_counter()
    try:
        with patch.object(SCIP, "solve", arrive):
            bl.solve(problem, solver, parameters={demand: value})
    except _Reached as arrival:
        return arrival.args[0] - began
    raise RuntimeError("SCIP was never called")


def _first(data: Data, limit: float) -> Measurement:
    del limit
    return Measurement("solved", seconds=_reach(*data.problem(), data.b))


def _second(data: Data, limit: float) -> Measurement:
    del limit
    problem, demand = data.problem()
    first = _reach(problem, demand, data.b)
    return Measurement(
        "solved", seconds=_reach(problem, demand, data.b + 0.125), extra={"first_seconds": first}
    )


def _instances(size: str) -> Sequence[Instance]:
    return [
        Instance(f"{group} {n}", lambda n=n: Data.draw(n), group)
        for group in (_COMPILING, _REACHING)
        for n in COUNTS[size]
    ]


def _judge(records: Sequence[Record]) -> Sequence[Target]:
    def seconds(group: str, method: str) -> float:
        asked = f"{group} {ASKED}"
        found = [r for r in records if (r["instance"], r["method"]) == (asked, method)]
        return median(r["seconds"] for r in found)

    ours = seconds(_COMPILING, _OURS)
    ratios = {m: ours / seconds(_COMPILING, m) for m in (_ALONE, _FIXED)}
    sooner = seconds(_REACHING, _FIRST) / seconds(_REACHING, _SECOND)
    return (
        *(
            Target(
                f"compiling a follower of {ASKED} variables and rows takes at most 2x {method}",
                f"{ratio:.2f}x",
                ratio <= 2.0,
            )
            for method, ratio in ratios.items()
        ),
        Target(
            "a second solve with new parameter values reaches the backend at least 5x sooner",
            f"{sooner:.1f}x",
            sooner >= 5.0,
        ),
    )


CASE = Case(
    name="compile",
    title="Compiling",
    claim=(
        "Compiling a follower costs at most twice what CVXPY needs for it alone; a second solve "
        "with new parameter values reaches the backend at least 5 times sooner than the first."
    ),
    instances=_instances,
    methods=(
        Method(_OURS, _compile_ours, groups=frozenset({_COMPILING})),
        Method(
            _ALONE, lambda data, limit: _compile_alone(data, True), True, frozenset({_COMPILING})
        ),
        Method(
            _FIXED, lambda data, limit: _compile_alone(data, False), True, frozenset({_COMPILING})
        ),
        Method(_FIRST, _first, groups=frozenset({_REACHING})),
        Method(_SECOND, _second, groups=frozenset({_REACHING})),
    ),
    baseline=_ALONE,
    time_limit=60.0,
    repeats=15,
    notes=(
        "Every measurement makes its CVXPY objects afresh, outside the measured time. The library "
        "compiles leader and follower, CVXPY the follower alone: `get_problem_data` for CLARABEL "
        'with `canon_backend="COO"`. Reaching the backend is the time from the call of `bl.solve` '
        "to the call of SCIP with the single-level program; it includes the first feasible point, "
        "which both solves look for."
    ),
    judge=_judge,
)
