"""Mixed-integer quadratic leaders, quadratic followers: outer approximation and its rivals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import cvxpy as cp
import numpy as np

import bilevel as bl
from benchmarks.case import Case, Instance, Measurement, Method, Record, Target
from benchmarks.measure import measure_solve

SIZES = {
    "small": ((4, 4, 4), (6, 6, 6)),
    "full": ((10, 10, 10), (15, 15, 15), (20, 30, 30), (50, 50, 50)),
}
PER_SIZE = {"small": 1, "full": 2}
BOXES = {"binary": (0, 1), "integer": (-3, 5)}

_SINGLE, _MULTI = "single tree scip", "multi tree highs"
_RIVALS = ("KKT SOS1 scip", "StrongDuality SOS1 scip")
_AGREE = 1e-5


@dataclass(frozen=True, eq=False)
class Data:
    r"""A random problem, packing rows in the follower so that its multipliers are bounded.

    .. code-block:: text

        min  z'Q z/2 + d'z                              z = (x, y), x whole in [low, high]
        s.t. y in argmin { y'P y/2 + (c + R'x)'y : A y + B x <= b, y >= 0 }
    """

    Q: np.ndarray
    d: np.ndarray
    P: np.ndarray
    c: np.ndarray
    R: np.ndarray
    A: np.ndarray
    B: np.ndarray
    b: np.ndarray
    low: int
    high: int

    @classmethod
    def draw(cls, size: tuple[int, int, int], kind: str, seed: int) -> Data:
        """Return a problem, always the same one."""
        nx, ny, m = size
        rng = np.random.default_rng([*size, sorted(BOXES).index(kind), seed])
        low, high = BOXES[kind]
        A = rng.integers(1, 6, (m, ny)) * (rng.random((m, ny)) < max(6 / ny, 0.3))
        A[np.arange(m), rng.integers(0, ny, m)] += 1
        B = rng.integers(-4, 5, (m, nx)) * (rng.random((m, nx)) < 0.5)
        b = abs(B).sum(axis=1) * 0.3 * max(abs(low), high) + 0.7 * A.sum(axis=1) + 1
        root = rng.normal(size=(ny, ny)) * (rng.random((ny, ny)) < 0.3)
        both = rng.normal(size=(nx + ny, nx + ny)) / np.sqrt(nx + ny)
        return cls(
            Q=both @ both.T,
            d=2 * rng.normal(size=nx + ny),
            P=root @ root.T + 0.5 * np.eye(ny),
            c=-rng.uniform(1, 6, ny),
            R=rng.normal(size=(nx, ny)) * (rng.random((nx, ny)) < 0.2),
            A=A.astype(float),
            B=B.astype(float),
            b=b,
            low=low,
            high=high,
        )

    def problem(self) -> bl.Problem:
        """Return it in CVXPY."""
        x = cp.Variable(len(self.R), integer=True, name="x")
        y = cp.Variable(len(self.c), name="y")
        z = cp.hstack([x, y])
        f = 0.5 * cp.quad_form(y, cp.psd_wrap(self.P)) + (self.c + x @ self.R) @ y
        rows = [self.A @ y + self.B @ x <= self.b, y >= 0]
        follower = bl.Follower(cp.Minimize(f), rows, variables=[y], name="follower")
        F = 0.5 * cp.quad_form(z, cp.psd_wrap(self.Q)) + self.d @ z
        return bl.Problem(cp.Minimize(F), [x >= self.low, x <= self.high], followers=[follower])


def _instances(size: str) -> Sequence[Instance]:
    return [
        Instance(
            f"{kind} {'x'.join(map(str, shape))} {seed}",
            lambda shape=shape, kind=kind, seed=seed: Data.draw(shape, kind, seed).problem(),
            kind,
        )
        for shape in SIZES[size]
        for kind in BOXES
        for seed in range(PER_SIZE[size])
    ]


def _method(name: str, solver: Any) -> Method:
    def judged(solution: bl.Solution) -> tuple[str, str]:
        if solution.status is bl.Status.OPTIMAL:
            certificate = solution.certificate
            accepted = certificate is not None and certificate.accepted
            return ("solved", "") if accepted else ("wrong", "OPTIMAL without a certificate.")
        if solution.status is bl.Status.FAILED:
            return "failed", ""
        # The follower is strictly convex and feasible, so every problem has a solution.
        return ("wrong" if solution.status.is_proved else "unproved"), ""

    def run(problem: bl.Problem, limit: float) -> Measurement:
        return measure_solve(problem, solver, limit, judged)

    return Method(name, run)


def _judge(records: Sequence[Record]) -> Sequence[Target]:
    instances = sorted({r["instance"] for r in records})
    wrong, proved, ahead = 0, 0, 0
    for name in instances:
        here = [r for r in records if r["instance"] == name]
        claims = [r["value"] for r in here if r["outcome"] == "solved"]
        found = [r["value"] for r in here if r["value"] is not None]
        if claims:
            room = _AGREE * max(1.0, abs(claims[0]))
            wrong += max(claims) - min(claims) > room or min(found) < min(claims) - room
        mine = [r for r in here if r["method"] == _SINGLE and r["outcome"] == "solved"]
        others = [r for r in here if r["method"] in _RIVALS and r["outcome"] == "solved"]
        proved += bool(mine)
        ahead += bool(mine) and (not others or _median(mine) <= _best(others))
    rivals = len({r["instance"] for r in records if r["method"] in _RIVALS and _is_solved(r)})
    return (
        Target("all claims agree", f"{wrong} instances where they do not", wrong == 0),
        Target(
            "the single tree proves at least as many optima as the rivals together",
            f"{proved} against {rivals} of {len(instances)}; first on {ahead}",
            proved >= rivals,
        ),
    )


def _is_solved(record: Record) -> bool:
    return record["outcome"] == "solved"


def _median(records: Sequence[Record]) -> float:
    return median(r["seconds"] for r in records)


def _best(records: Sequence[Record]) -> float:
    names = {r["method"] for r in records}
    return min(_median([r for r in records if r["method"] == name]) for name in names)


CASE = Case(
    name="outer_approximation",
    title="Outer approximation",
    claim="With integer linking variables and quadratic followers it proves more optima than KKT.",
    instances=_instances,
    methods=(
        _method(_SINGLE, bl.OuterApproximation()),
        _method(_MULTI, bl.OuterApproximation("highs")),
        _method(_RIVALS[0], bl.SingleLevel(bl.KKT(bl.SOS1()))),
        _method(_RIVALS[1], bl.SingleLevel(bl.StrongDuality(bl.SOS1()))),
    ),
    baseline=_SINGLE,
    time_limit=30.0,
    repeats=1,
    notes=(
        "The names say the kind of the leader's variables (binary, or integers from -3 to 5), "
        "their number, the follower's variables and its rows. The follower's rows are packing "
        "rows, so bounds on its multipliers are derived in closed form. Times include compiling "
        "and the certificate."
    ),
    judge=_judge,
)
