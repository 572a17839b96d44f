"""Descent with minibatches at both levels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.problem.samples import SampleMean
from bilevel.smooth_solution import SmoothSolution
from bilevel.solvers.smooth.hypergradient import check_optimizer, refuse_constraints
from bilevel.solvers.smooth.newton import Newton
from bilevel.solvers.smooth.single_loop import Walk
from bilevel.solvers.smooth.solver import AbstractSmoothSolver, Task

_ADAM = partial(torch.optim.Adam, lr=0.05)


@dataclass(frozen=True)
class SOBA(AbstractSmoothSolver):
    r"""Follower, co-state and leader move at once, each along a direction from minibatches.

    .. code-block:: text

        y <- y - a f_y(x, y)                 towards the follower's answer
        v <- v - a (f_yy v - F_y)            towards the solution of its linear system
        x <- x - b (F_x - f_xy v)            along the hypergradient, by the optimizer

    ``f`` and its derivatives are taken over one batch, ``F`` and its over another; the directions
    are unbiased. ``F`` or ``f`` is a ``bl.SampleMean``; one that is not is evaluated whole.

    Parameters
    ----------
    optimizer
        Takes the list of ``x``'s tensors and returns a ``torch.optim.Optimizer``.
    batch_size
        Samples in a batch, or ``(leader's, follower's)``.
    steps
        How many.
    step_size
        ``a``; ``None`` takes one over the largest eigenvalue of ``f_yy`` at the start, estimated;
        a third of that with ``variance_reduction``.
    decay
        Step ``t`` is ``1 / sqrt(1 + t / decay)`` times as long as the first, of ``a`` and of the
        optimizer; ``math.inf`` keeps them.
    variance_reduction
        Whether each batch's last derivative is remembered and corrects the next (SABA): far less
        noise, for memory of ``2 dim(y) + dim(x)`` numbers a batch.
    polish
        How the follower is asked at the end, on all data: ``Newton()``, or a function
        ``(x, y, *z) -> y``. ``None`` leaves ``y`` as it is, which is no answer in general.
    atol
        Norm of the hypergradient on all data for ``STATIONARY``.
    project
        Maps ``x`` back to the leader's feasible set after each step, or ``None``.
    seed
        Of the batches.

    Raises
    ------
    ProblemError
        For options out of range, and a ``SampleMean`` that is not the mean of its batches.
    UnsupportedProblem
        For constraints, and where neither objective is a ``SampleMean``.

    Notes
    -----
    Nothing is claimed from batches: at the end the follower is asked on all data and the point is
    judged as any other. With ``polish=None`` the status is ``FAILED`` unless ``y`` happens to
    answer. ``F`` in the trace and for ``callback`` is a mean over the last pass's batches. A value
    that is not finite ends the search where the pass with the best mean began; then ``step_size``
    or the optimizer's is too long. The follower's second derivative must be positive definite, or
    ``v`` grows without bound. A leader that moves faster than the follower answers is misled: if
    ``F`` stalls above what a smaller ``lr`` reaches, that is why.

    References
    ----------
    Dagréou, Ablin, Vaiter and Moreau, A framework for bilevel optimization that enables stochastic
    and global variance reduction algorithms, NeurIPS 2022, algorithms SOBA and SABA.

    Examples
    --------
    >>> import bilevel as bl, torch
    >>> A = torch.arange(8, dtype=torch.float64)
    >>> problem = bl.SmoothProblem(
    ...     F=lambda x, y: (y - 1) ** 2,
    ...     f=bl.SampleMean(lambda x, y, A: ((y - x * A) ** 2).mean(), A),
    ... )
    >>> start = (
    ...     torch.zeros((), dtype=torch.float64),
    ...     torch.zeros((), dtype=torch.float64),
    ... )
    >>> sgd = lambda x: torch.optim.SGD(x, lr=0.01)
    >>> solver = bl.SOBA(sgd, batch_size=2, steps=400, variance_reduction=True)
    >>> solution = bl.solve(problem, solver, start=start)
    >>> print(solution.status.name, round(solution.x.item(), 3))
    FEASIBLE 0.286
    """

    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] = field(default=_ADAM, repr=False)
    batch_size: int | tuple[int, int] = 64
    steps: int = 1000
    step_size: float | None = None
    decay: float = 1000.0
    variance_reduction: bool = False
    polish: Newton | Callable[..., Any] | None = field(default_factory=Newton)
    atol: float = 1e-6
    project: Callable[[Any], Any] | None = field(default=None, repr=False)
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = self.sizes
        if len(sizes) != 2 or not all(isinstance(n, int) and n >= 1 for n in sizes):
            raise ProblemError(
                f"batch_size of SOBA must be a positive integer, or two of them for leader and "
                f"follower, not {self.batch_size!r}."
            )
        check_optimizer(self.optimizer)
        if self.steps < 1 or not self.atol >= 0 or not self.decay > 0:
            raise ProblemError("SOBA needs steps >= 1, atol >= 0 and decay > 0.")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise ProblemError(f"step_size of SOBA must be positive, not {self.step_size!r}.")
        if self.polish is not None and not callable(self.polish):
            raise ProblemError(f"polish must be a function or None, not {self.polish!r}.")

    @property
    def sizes(self) -> tuple[int, int]:
        """Samples in a batch of the leader and of the follower."""
        given = self.batch_size
        return given if isinstance(given, tuple) else (given, given)

    def run(self, task: Task) -> SmoothSolution:
        """Solve one problem."""
        problem = task.problem
        refuse_constraints(problem, "SOBA", "GHgh")
        if not any(isinstance(one, SampleMean) for one in (problem.F, problem.f)):
            raise UnsupportedProblem(
                "SOBA takes batches of samples, but neither F nor f is a bl.SampleMean: write "
                "f=bl.SampleMean(loss, data), or use bl.HypergradientDescent()."
            )
        walk = Walk(self, task)
        try:
            walk.prepare()
            while walk.goes_on():
                walk.step()
        except KeyboardInterrupt:
            walk.note = "It was interrupted."
        return walk.end()
