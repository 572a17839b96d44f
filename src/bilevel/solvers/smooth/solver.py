"""The contract of a solver of smooth problems, and how its answers are judged."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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

#: A response of the follower with a larger residual of its optimality conditions is none.
FOLLOWER_ATOL = 1e-5


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchReport:
    """What a solver says of its search, and of the point where it ended.

    Parameters
    ----------
    method
        How the solver is called, with its options.
    norm, atol
        Norm of the hypergradient or of the leader's optimality conditions at the point, and up to
        which norm it is stationary.
    steps
        How many steps were taken.
    seconds
        How long it took.
    note
        Why the search ended, where that needs to be said.
    trace
        Moments of the search: seconds, value and bound.
    follower_is_minimum, is_minimum
        Whether the follower's, and the leader's second-order condition holds; ``None``: unknown.
    tally
        Derivatives that were taken, where they were counted.

    Examples
    --------
    >>> from bilevel.solvers.smooth.solver import SearchReport
    >>> report = SearchReport(
    ...     method="mine", norm=1e-9, atol=1e-6, steps=3, seconds=0.1
    ... )
    >>> print(report.follower_is_minimum, report.tally.gradients)
    None 0
    """

    method: str
    norm: float
    atol: float
    steps: int
    seconds: float
    note: str = ""
    trace: tuple[tuple[float, float | None, float | None], ...] = ()
    follower_is_minimum: bool | None = None
    is_minimum: bool | None = None
    tally: Tally = field(default_factory=Tally)


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
    tally
        Where a solver counts the derivatives it takes.
    """

    problem: SmoothProblem
    start: tuple[Any, Any]
    z: tuple[Any, ...] = ()
    time_limit: float | None = None
    callback: Callable[[Progress], bool | None] | None = None
    barrier_parameter: float | None = None
    tally: Tally = field(default_factory=Tally)

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
        if len(x) and len(y) and (x.dtype != y.dtype or x.device != y.device):
            raise ProblemError(
                f"The start's x has dtype {x.dtype} on {x.device} and its y {y.dtype} on "
                f"{y.device}: convert one of them, such as by y.to({x.dtype})."
            )
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
        self, x: Tensor, y: Tensor, w: Tensor, st: Stationarity, report: SearchReport
    ) -> SmoothSolution:
        """Return a solution whose status follows from the conditions that hold at the point.

        Parameters
        ----------
        x, y
            The point, one row each.
        w, st
            The follower's response with multipliers, and the scalars with its active rows.
        report
            What the solver says of its search and of the point.
        """
        violation = self.violation(st, x, y)
        residual = self.residual(st, x, w)
        with torch.no_grad():
            F, f = (float(st.instances.value(name, x, y)) for name in "Ff")
        status, note = _claim(residual, violation, F, attainable(FOLLOWER_ATOL, y), report)
        shape_x, shape_y = self.trees
        stats = Stats(
            report.method,
            solve_seconds=report.seconds,
            nodes=report.steps,
            note=note,
            trace=report.trace,
            gradients=report.tally.gradients,
            products=report.tally.products,
        )
        return SmoothSolution(
            status,
            shape_x.tree(x[0].detach()),
            shape_y.tree(y[0].detach()),
            F,
            f,
            report.norm,
            residual,
            stats,
        )


def _largest(*parts: Tensor) -> float:
    whole = torch.cat([part.reshape(-1) for part in parts])
    return float(whole.max().clamp(min=0)) if len(whole) else 0.0


def _claim(
    residual: float, violation: float, value: float, largest: float, report: SearchReport
) -> tuple[Status, str]:
    """Return the status of a point, and the search's note with the reason added.

    Parameters
    ----------
    residual, violation
        By how much the follower's conditions and the leader's constraints fail.
    value
        The leader's objective.
    largest
        Up to which residual and violation the point counts.
    report
        What the solver says.
    """
    if not residual <= largest:
        why = f"the follower's optimality conditions fail by {residual:.1e}"
        return Status.FAILED, f"{report.note} {why}".strip()
    if not violation <= largest:
        why = f"the leader's constraints are violated by {violation:.1e}"
        return Status.NOT_FOUND, f"{report.note} {why}".strip()
    if report.follower_is_minimum is False:
        return Status.FAILED, f"{report.note} {INDEFINITE}".strip()
    if not math.isfinite(value):
        why = "the leader's objective is not finite there"
        return Status.FAILED, f"{report.note} {why}".strip()
    if not report.norm <= report.atol:
        return Status.FEASIBLE, report.note
    why = "the leader's second derivative is not positive definite"
    note = f"{report.note} {why}" if report.is_minimum is False else report.note
    return Status.STATIONARY, note.strip()


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
            ``STATIONARY`` only where ``y`` is the follower's response and the hypergradient
            vanishes.
        """
