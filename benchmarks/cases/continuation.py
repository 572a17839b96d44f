"""How often a local method reaches the optimum: random bilevel QPs, and conic followers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np

import bilevel as bl
from benchmarks.case import Case, Instance, Measurement, Method, Record, Target
from benchmarks.measure import measure_solve

SHAPES = {"small": ((6, 4), (9, 6)), "full": ((6, 4), (9, 6), (12, 8), (20, 15), (30, 20))}
PER_SHAPE = {"small": 2, "full": 10}
_TRUTH_SECONDS = 30.0
_NEAR = 1e-4
_QP, _CONIC = "QP-QP", "conic"


@dataclass(frozen=True, eq=False)
class Subject:
    """A problem and what is proved about its optimum: ``low <= optimum``, equal if ``exact``."""

    problem: bl.Problem
    low: float
    exact: bool


def quadratic(seed: int, nx: int, ny: int) -> bl.Problem:
    """Return a bilevel QP whose levels pull in different directions, ``ny`` follower rows."""
    rng = np.random.default_rng([seed, nx, ny])
    x, y = cp.Variable(nx, name="x"), cp.Variable(ny, name="y")
    root = rng.normal(size=(ny, ny))
    P, R = root @ root.T / ny + 0.1 * np.eye(ny), rng.normal(size=(ny, nx))
    A, B, b = 0.5 * rng.normal(size=(ny, nx)), rng.normal(size=(ny, ny)), rng.uniform(0.2, 1, ny)
    own = cp.Minimize(0.5 * cp.quad_form(y, cp.psd_wrap(P)) + (R @ x) @ y)
    follower = bl.Follower(own, [A @ x + B @ y <= b], variables=[y])
    targets = rng.normal(size=nx), 2 * rng.normal(size=ny)
    cost = 0.1 * cp.sum_squares(x - targets[0]) + cp.sum_squares(y - targets[1])
    return bl.Problem(cp.Minimize(cost), [x >= -2, x <= 2], [follower])


def conic(seed: int, kind: str) -> bl.Problem:
    """Return a conic follower whose answer to a planted decision the leader wants: optimum 0."""
    rng = np.random.default_rng([seed, len(kind)])
    n = 4 if kind == "matrix" else 6
    R, planted = rng.normal(size=(n, n)), rng.uniform(-1, 1, n)
    x, cap = cp.Variable(n, name="x"), rng.uniform(0.3, 0.6, n)
    _, objective, rows, vector = _follower(kind, R @ planted, cap)
    cp.Problem(objective, rows).solve(solver=cp.CLARABEL)
    goal = vector.value
    y, objective, rows, vector = _follower(kind, R @ x, cap)
    follower = bl.Follower(objective, rows, variables=[y], name=kind)
    return bl.Problem(cp.Minimize(cp.sum_squares(vector - goal)), [x >= -1, x <= 1], [follower])


def _follower(kind: str, signal: Any, cap: Any) -> tuple[Any, Any, list[Any], Any]:
    """Return a follower's variable, objective, rows, and what the leader sees of its answer."""
    n = len(cap)
    if kind == "matrix":
        Y = cp.Variable((3, 3), name="Y", symmetric=True)
        vector = cp.hstack([Y[0, 0], Y[1, 1], Y[0, 1], Y[1, 2]])
        objective = cp.Minimize(cp.sum_squares(Y) - 2 * signal @ vector)
        return Y, objective, [Y >> 0, cp.trace(Y) <= 1], vector
    y = cp.Variable(n, name="y")
    if kind == "entropy":
        return y, cp.Maximize(signal @ y + cp.sum(cp.entr(y))), [cp.sum(y) == 1, y <= cap], y
    objective = cp.Minimize(cp.sum_squares(y) - 2 * signal @ y)
    return y, objective, [cp.norm(y) <= 1, y <= cap], y


@cache
def _proved(seed: int, nx: int, ny: int) -> tuple[float, bool]:
    exact = bl.SingleLevel(bl.KKT(bl.SOS1()))
    solution = bl.solve(quadratic(seed, nx, ny), exact, time_limit=_TRUTH_SECONDS, throw=False)
    low = -np.inf if solution.bound is None else solution.bound
    return low, solution.status is bl.Status.OPTIMAL


def _build(seed: int, nx: int, ny: int) -> Subject:
    return Subject(quadratic(seed, nx, ny), *_proved(seed, nx, ny))


def _instances(size: str) -> Sequence[Instance]:
    quadratics = [
        Instance(f"{nx}x{ny} {seed:02d}", lambda s=seed, a=nx, b=ny: _build(s, a, b), _QP)
        for nx, ny in SHAPES[size]
        for seed in range(PER_SHAPE[size])
    ]
    cones = [
        Instance(f"{kind} {s:02d}", lambda s=s, k=kind: Subject(conic(s, k), 0.0, True), _CONIC)
        for kind in ("norm", "entropy", "matrix")
        for s in range(PER_SHAPE[size])
    ]
    return quadratics + cones


def _judge_one(subject: Subject, solution: bl.Solution) -> tuple[str, str]:
    value, certificate = solution.leader_value, solution.certificate
    if value is None or certificate is None or not certificate.accepted:
        return "failed", "No certified point."
    room = _NEAR * max(1.0, abs(value))
    if value < subject.low - room:
        return "wrong", f"The value lies below the proved bound {subject.low:.9g}."
    if not subject.exact:
        return "unproved", f"The optimum is not known; bound {subject.low:.9g}."
    return ("solved", "") if value <= subject.low + room else ("unproved", "A local optimum.")


def _method(name: str, solver: Any, groups: frozenset[str] | None = None) -> Method:
    def run(subject: Subject, limit: float) -> Measurement:
        return measure_solve(subject.problem, solver, limit, lambda s: _judge_one(subject, s))

    return Method(name, run, groups=groups)


def _judge(records: Sequence[Record]) -> Sequence[Target]:
    eight = [r for r in records if r["method"] == _EIGHT]
    wrong = [r for r in records if r["outcome"] == "wrong" or r["status"] == "OPTIMAL"]
    local = [r for r in wrong if r["method"] != _EXACT]
    reached = {
        group: [r["outcome"] == "solved" for r in eight if r["group"] == group]
        for group in (_QP, _CONIC)
    }
    found = ", ".join(f"{sum(hits)} of {len(hits)} {group}" for group, hits in reached.items())
    good = all(sum(hits) >= 0.8 * len(hits) for hits in reached.values() if hits)
    return (
        Target("eight starts reach the optimum of four problems in five", found, good),
        Target("never OPTIMAL, never below a proved bound", f"{len(local)} times", not local),
    )


_EXACT, _ONE, _EIGHT = "KKT SOS1 scip", "Continuation 1 start", "Continuation 8 starts"

CASE = Case(
    name="continuation",
    title="A local method",
    claim="From eight starts Continuation mostly reaches the optimum, and never claims it.",
    instances=_instances,
    methods=(
        _method(_EIGHT, bl.Continuation()),
        _method(_ONE, bl.Continuation(starts=1)),
        _method(_EXACT, bl.SingleLevel(bl.KKT(bl.SOS1())), frozenset({_QP})),
    ),
    baseline=_EIGHT,
    time_limit=30.0,
    repeats=1,
    notes=(
        "Dense bilevel QPs with as many follower rows as follower variables; what is known "
        "of their optima comes from SCIP in 30 s. Conic followers (a norm, an entropy, a matrix "
        "inequality) have a planted answer that the leader wants, so their optimum is 0. Reached "
        "means within 1e-4 max(1, |value|)."
    ),
    judge=_judge,
)
