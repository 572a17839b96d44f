"""SOBA and SABA: descent with minibatches at both levels, all variables moving at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from bilevel.adjoints.smooth.implicit import Implicit
from bilevel.adjoints.smooth.stationarity import Stationarity
from bilevel.deprecation import renamed_fields
from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.problem.precision import attainable
from bilevel.problem.samples import SampleMean
from bilevel.problem.trees import Tree, detached, flatten, mapped, unflatten
from bilevel.smooth_solution import SmoothSolution
from bilevel.solvers.smooth.hypergradient import (
    check_optimizer,
    hypergradient,
    leaf,
    project,
    refuse_constraints,
    respond,
)
from bilevel.solvers.smooth.iterate import AbstractIterativeSolver, Search
from bilevel.solvers.smooth.newton import Newton, is_minimum
from bilevel.solvers.smooth.oracle_calls import Tally
from bilevel.solvers.smooth.soba_sampling import (
    Iterate,
    Memory,
    Sampler,
    curvature,
    directions,
    follower_part,
    leader_part,
)
from bilevel.solvers.smooth.solver import FOLLOWER_ATOL, SearchReport, Task

_ADAM = partial(torch.optim.Adam, lr=0.05)
#: Products for the first estimate of the follower's curvature.
_PRODUCTS = 16
#: SAGA's steps are at most a third of what gradient descent takes.
_REDUCED = 1 / 3


@dataclass(frozen=True, eq=False)
class Tools:
    """What moves and draws; these objects change from step to step.

    Parameters
    ----------
    leaves, spec
        The tensors of ``x``, which the optimizer moves in place, and the tree they make.
    optimizer, rates
        Of these tensors, and the learning rates it began with.
    samplers, memories
        Of the leader and of the follower.
    trees
        The shapes of ``x`` and ``y``.
    """

    leaves: list[Tensor]
    spec: Any
    optimizer: torch.optim.Optimizer
    rates: list[float]
    samplers: tuple[Sampler, Sampler]
    memories: tuple[Memory, Memory]
    trees: tuple[Tree, Tree]

    @property
    def x(self) -> Any:
        """The decision as a tree; its tensors are those that move."""
        return unflatten(self.spec, self.leaves)

    @property
    def steps_a_pass(self) -> int:
        """How many steps see all samples of both levels about once."""
        return max(sampler.steps_a_pass for sampler in self.samplers)

    def kept(self) -> list[Tensor]:
        """Return copies of the tensors of ``x``."""
        return [part.detach().clone() for part in self.leaves]

    def put_back(self, kept: list[Tensor]) -> None:
        """Move ``x`` to where copies were taken."""
        with torch.no_grad():
            for part, old in zip(self.leaves, kept, strict=True):
                part.copy_(old)


@dataclass(frozen=True, eq=False)
class SOBAState:
    """Where a descent on minibatches is.

    Parameters
    ----------
    tools
        The decision ``x`` with what moves it, and what draws batches.
    y, v
        The follower's decision and the co-state, flat.
    step_size
        Of ``y`` and ``v``; ``None`` until it is chosen.
    count
        How many steps were taken.
    total, number
        Sum of ``F`` over the batches of this pass, and how many they are.
    mean
        Of ``F`` over the last pass where it ended with the last step, else ``None``.
    passed
        Where this pass began: ``x`` and ``y``.
    best_mean, best
        The smallest mean of a pass, and where that pass began.
    failure
        Why it cannot go on, if so.
    """

    tools: Tools
    y: Tensor
    v: Tensor
    step_size: float | None
    passed: tuple[list[Tensor], Tensor]
    best: tuple[list[Tensor], Tensor]
    best_mean: float = math.inf
    count: int = 0
    total: float = 0.0
    number: int = 0
    mean: float | None = None
    failure: str = ""

    def iterate(self, z: tuple[Any, ...]) -> Iterate:
        """Return the point at which directions are taken, at inputs ``z``."""
        trees = self.tools.trees
        return Iterate(trees[0].flat(detached(self.tools.x)), self.y, self.v, trees, z)


@renamed_fields(steps="max_steps")
@dataclass(frozen=True)
class SOBA(AbstractIterativeSolver[SOBAState]):
    r"""Follower, co-state and leader move at once, each along a direction from minibatches.

    .. code-block:: text

        y <- y - a f_y(x, y)                 towards the follower's response
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
    max_steps
        Most steps; unless a limit, the callback or Ctrl-C ends it, all of them are taken.
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
        ``(x, y, *z) -> y``. ``None`` leaves ``y`` as it is, which is no response in general.
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
    judged as any other. With ``polish=None`` the status is ``FAILED`` unless ``y`` happens to be
    the response. ``F`` in the trace and for ``callback`` is a mean over the last pass's batches. A
    value that is not finite ends the search where the pass with the best mean began; then
    ``step_size`` or the optimizer's is too long. The follower's second derivative must be positive
    definite, or ``v`` grows without bound. A leader that moves faster than the follower responds is
    misled: if ``F`` stalls above what a smaller ``lr`` reaches, that is why.

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
    >>> solver = bl.SOBA(sgd, batch_size=2, max_steps=400, variance_reduction=True)
    >>> solution = bl.solve(problem, solver, start=start)
    >>> print(solution.status.name, round(solution.x.item(), 3))
    FEASIBLE 0.286
    """

    used_up: ClassVar[str] = "{steps} steps on batches of samples."

    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] = field(default=_ADAM, repr=False)
    batch_size: int | tuple[int, int] = 64
    max_steps: int = 1000
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
        if self.max_steps < 1 or not self.atol >= 0 or not self.decay > 0:
            raise ProblemError("SOBA needs max_steps >= 1, atol >= 0 and decay > 0.")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise ProblemError(f"step_size of SOBA must be positive, not {self.step_size!r}.")
        if self.polish is not None and not callable(self.polish):
            raise ProblemError(f"polish must be a function or None, not {self.polish!r}.")

    @property
    def sizes(self) -> tuple[int, int]:
        """Samples in a batch of the leader and of the follower."""
        given = self.batch_size
        return given if isinstance(given, tuple) else (given, given)

    @property
    def step_limit(self) -> float:
        """See the abstract method."""
        return self.max_steps

    def prepare(self, task: Task) -> Task:
        """See the abstract method."""
        problem = task.problem
        refuse_constraints(problem, "SOBA", "GHgh")
        if not any(isinstance(one, SampleMean) for one in (problem.F, problem.f)):
            raise UnsupportedProblem(
                "SOBA takes batches of samples, but neither F nor f is a bl.SampleMean: write "
                "f=bl.SampleMean(loss, data), or use bl.HypergradientDescent()."
            )
        return replace(task, tally=Tally())

    def init(self, task: Task) -> SOBAState:
        """See the abstract method."""
        x, y = (mapped(leaf, part) for part in task.start)
        leaves, spec = flatten(x)
        optimizer = self.optimizer(leaves)
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ProblemError("LBFGS needs the same function twice; give SOBA SGD or Adam.")
        draws = torch.Generator().manual_seed(self.seed)
        leader, follower = (
            Sampler(objective, size, draws, self.variance_reduction)
            for objective, size in zip((task.problem.F, task.problem.f), self.sizes, strict=True)
        )
        tools = Tools(
            leaves,
            spec,
            optimizer,
            [group["lr"] for group in optimizer.param_groups],
            (leader, follower),
            (Memory(leader.steps_a_pass), Memory(follower.steps_a_pass)),
            task.trees,
        )
        y = tools.trees[1].flat(detached(y)).clone()
        here = tools.kept(), y
        return SOBAState(tools, y, torch.zeros_like(y), None, passed=here, best=here)

    def step(self, task: Task, state: SOBAState) -> SOBAState:
        """Move all three at once."""
        tools = state.tools
        at = state.iterate(task.z)
        step_size = state.step_size
        if step_size is None:
            step_size = self._step_size(task, tools, at)
        leader, follower = (sampler.draw() for sampler in tools.samplers)
        value, of_leader = leader_part(leader, at)
        of_follower = follower_part(follower, at)
        task.tally.gradients += leader.share + follower.share
        task.tally.products += follower.share
        if self.variance_reduction:
            of_leader = tools.memories[0].reduced(leader, of_leader)
            of_follower = tools.memories[1].reduced(follower, of_follower)
        d_y, d_v, d_x = directions(of_follower, of_leader, at)
        if not (math.isfinite(value) and all(bool(d.isfinite().all()) for d in (d_y, d_v, d_x))):
            return self._given_up(state)
        factor = (1 + state.count / self.decay) ** -0.5
        y, v = (u - factor * step_size * d for u, d in ((at.y, d_y), (at.v, d_v)))
        for part, grad in zip(tools.leaves, flatten(tools.trees[0].tree(d_x))[0], strict=True):
            part.grad = grad
        for group, rate in zip(tools.optimizer.param_groups, tools.rates, strict=True):
            group["lr"] = factor * rate
        tools.optimizer.step()
        project(self.project, tools.x)
        moved = replace(
            state,
            y=y,
            v=v,
            step_size=step_size,
            count=state.count + 1,
            total=state.total + value,
            number=state.number + 1,
            mean=None,
        )
        return self._passed(moved) if moved.number == tools.steps_a_pass else moved

    def terminate(self, task: Task, state: SOBAState) -> str | None:
        """See the abstract method."""
        return state.failure or None

    def value(self, task: Task, state: SOBAState) -> float | None:
        """Return the mean of ``F`` over the batches of a pass that has just ended."""
        return state.mean

    def _step_size(self, task: Task, tools: Tools, at: Iterate) -> float:
        """Check that the objectives are means, and return the follower's step."""
        for name, sampler in zip("Ff", tools.samplers, strict=True):
            sampler.check(name, *task.start, task.z)
        if self.step_size is not None:
            return self.step_size
        largest, seen = curvature(tools.samplers[1], at, _PRODUCTS)
        task.tally.gradients += seen
        task.tally.products += seen
        size = 1 / largest if 0 < largest < math.inf else 1.0
        return size * (_REDUCED if self.variance_reduction else 1.0)

    @staticmethod
    def _passed(state: SOBAState) -> SOBAState:
        """Keep where the pass began if its mean is the best, and begin another."""
        mean = state.total / state.number
        if mean < state.best_mean:
            state = replace(state, best_mean=mean, best=state.passed)
        here = state.tools.kept(), state.y
        return replace(state, mean=mean, total=0.0, number=0, passed=here)

    @staticmethod
    def _given_up(state: SOBAState) -> SOBAState:
        """Go back to where the best pass began."""
        kept, y = state.best
        state.tools.put_back(kept)
        where = "the start" if state.best_mean == math.inf else "where its best pass began"
        failure = (
            f"A value or derivative was not finite after {state.count} steps: this is {where}. "
            f"Try a smaller step_size, or a smaller lr of the optimizer."
        )
        return replace(state, y=y, mean=None, failure=failure)

    def finish(self, task: Task, search: Search[SOBAState]) -> SmoothSolution:
        """Return the point where the search ended, judged on all data."""
        state = search.state
        shape_x, shape_y = state.tools.trees
        watched = replace(task, problem=task.tally.watch(task.problem))
        st = watched.stationarity()
        x = detached(state.tools.x)
        y = state.y
        if self.polish is not None:
            y = shape_y.flat(respond(self.polish, watched, st, x, shape_y.tree(y)))
        tally = replace(task.tally)  # what judges the point is not counted
        flat_x = shape_x.flat(x).unsqueeze(0)
        flat_y = y.unsqueeze(0)
        report = SearchReport(
            method=repr(self),
            norm=_norm(task, st, flat_x, flat_y),
            atol=self.atol,
            steps=state.count,
            seconds=search.seconds,
            note=search.note,
            trace=search.trace,
            follower_is_minimum=is_minimum(st, flat_x, flat_y),
            tally=tally,
        )
        return task.judge(flat_x, flat_y, flat_y, st, report)


def _norm(task: Task, st: Stationarity, x: Tensor, y: Tensor) -> float:
    """Return the norm of the hypergradient; where ``y`` is not the response, there is none.

    What counts as a response is what ``judge`` takes for one.
    """
    if not task.residual(st, x, y) <= attainable(FOLLOWER_ATOL, y):
        return math.nan
    tree = mapped(leaf, task.trees[0].tree(x[0]))
    return hypergradient(task.problem, Implicit(), tree, task.trees[1].tree(y[0]), task.z).norm
