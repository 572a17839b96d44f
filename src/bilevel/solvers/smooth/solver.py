"""The contract of a solver of smooth problems, and how its answers are judged."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from bilevel.adjoints.smooth.stationarity import Hessian, Stationarity
from bilevel.errors import ProblemError
from bilevel.problem.precision import attainable
from bilevel.problem.smooth import Instances, SmoothProblem
from bilevel.problem.trees import Tree
from bilevel.program import Progress
from bilevel.smooth_solution import SmoothSolution
from bilevel.solution import Stats
from bilevel.solvers.smooth.follower_solution import INDEFINITE
from bilevel.solvers.smooth.oracle_calls import Tally
from bilevel.status import Status

#: A follower's answer with a larger norm of its optimality conditions is none.
ANSWERED = 1e-5


@dataclass(frozen=True, eq=False)
class Task:
    """One smooth problem with a start, as solvers see it.

    Parameters
    ----------
    problem
        The functions.
    start
        Decisions ``(x, y)`` to begin with.
    z
        The inputs.
    time_limit
        Seconds, or ``None``.
    callback
        Called with ``Progress``; returning ``True`` stops.
    barrier_parameter
        How accurate the log barrier is that stands in place of the inequalities: each multiplier
        times its slack is one over it. ``None``: no barrier.
    """

    problem: SmoothProblem
    start: tuple[Any, Any]
    z: tuple[Any, ...] = ()
    time_limit: float | None = None
    callback: Callable[[Progress], bool | None] | None = None
    barrier_parameter: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.start, Sequence) or len(self.start) != 2:
            raise ProblemError(
                "A SmoothProblem needs start=(x, y), tensors or trees of tensors to begin with; "
                "they also say which shapes x and y have."
            )

    @property
    def trees(self) -> tuple[Tree, Tree]:
        """The shapes of ``x`` and ``y``."""
        return Tree(self.start[0], "x"), Tree(self.start[1], "y")

    def flat_start(self) -> tuple[Tensor, Tensor]:
        """Return the start as matrices of one row."""
        x, y = (t.flat(s).detach() for t, s in zip(self.trees, self.start, strict=True))
        return x.unsqueeze(0), y.unsqueeze(0)

    def stationarity(self) -> Stationarity:
        """Return the problem's scalars."""
        return Stationarity.of(
            Instances(self.problem, *self.trees, self.z), *self.flat_start(), self.barrier_parameter
        )

    @staticmethod
    def residual(st: Stationarity, x: Tensor, w: Tensor) -> float:
        """Return by how much the follower's optimality conditions fail at one point.

        The norm of the equations, or the largest violation of a row or of a multiplier's sign.
        """
        size = vector_norm(Hessian(lambda w: st.follower(x, w), w).gradient.detach())
        _, m, p, _, _, _ = st.sizes
        with torch.no_grad():
            rows = st.instances.vector("g", x, w[:, :m])
            return _largest(size.reshape(1, 1), rows, -w[:, m + p :])

    @staticmethod
    def violation(st: Stationarity, x: Tensor, y: Tensor) -> float:
        """Return the largest violation of the leader's constraints at one point."""
        with torch.no_grad():
            H, G = (st.instances.vector(name, x, y) for name in "HG")
        return _largest(H.abs(), G)

    def judge(
        self, x: Tensor, y: Tensor, w: Tensor, st: Stationarity, **told: Any
    ) -> SmoothSolution:
        """Return a solution whose status follows from the conditions that hold at the point.

        Parameters
        ----------
        x, y
            The point, one row each.
        w, st
            The follower's answer with multipliers, and the scalars with its active rows.
        told
            ``norm`` and ``atol`` of the hypergradient, ``is_minimum`` of either level together,
            ``method``, ``steps``, ``seconds``, ``note``, ``trace``, ``stopped``, and a ``tally`` of
            derivatives taken.
        """
        told["violation"] = self.violation(st, x, y)
        residual = self.residual(st, x, w)
        with torch.no_grad():
            F, f = (float(st.instances.value(name, x, y)) for name in "Ff")
        status, note = _claim(residual, attainable(ANSWERED, y), F, told)
        shape_x, shape_y = self.trees
        tally = told.get("tally", Tally())
        stats = Stats(
            told["method"],
            solve_seconds=told["seconds"],
            nodes=told["steps"],
            note=note,
            trace=tuple(told.get("trace", ())),
            gradients=tally.gradients,
            products=tally.products,
        )
        return SmoothSolution(
            status,
            shape_x.tree(x[0].detach()),
            shape_y.tree(y[0].detach()),
            F,
            f,
            told["norm"],
            residual,
            stats,
        )


def _largest(*parts: Tensor) -> float:
    whole = torch.cat([part.reshape(-1) for part in parts])
    return float(whole.max().clamp(min=0)) if len(whole) else 0.0


def _claim(
    residual: float, largest: float, value: float, told: dict[str, Any]
) -> tuple[Status, str]:
    note = str(told.get("note", ""))
    if not residual <= largest:
        why = f"the follower's optimality conditions fail by {residual:.1e}"
        return Status.FAILED, f"{note} {why}".strip()
    if not told["violation"] <= largest:
        why = f"the leader's constraints are violated by {told['violation']:.1e}"
        return Status.NOT_FOUND, f"{note} {why}".strip()
    if told.get("is_answer") is False:
        return Status.FAILED, f"{note} {INDEFINITE}".strip()
    if not math.isfinite(value):
        return Status.FAILED, f"{note} the leader's objective is not finite there".strip()
    if told["norm"] <= told["atol"]:
        if told.get("is_minimum") is False:
            note = f"{note} the leader's second derivative is not positive definite".strip()
        return Status.STATIONARY, note
    return Status.FEASIBLE, note


class AbstractSmoothSolver(ABC):
    """Finds a stationary point of a smooth bilevel problem."""

    @abstractmethod
    def run(self, task: Task) -> SmoothSolution:
        """Solve one problem.

        Parameters
        ----------
        task
            Problem, start, inputs and limits.

        Returns
        -------
        SmoothSolution
            ``STATIONARY`` only where the follower's answer is one and the hypergradient vanishes.
        """
