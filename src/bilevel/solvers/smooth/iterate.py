"""The loop of iterative solvers: limits, Ctrl-C, callback, trace and why it ended, in one place."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from bilevel.program import Progress
from bilevel.smooth_solution import SmoothSolution
from bilevel.solvers.smooth.solver import AbstractSmoothSolver, Task

State = TypeVar("State")


@dataclass(frozen=True, eq=False)
class Search(Generic[State]):
    """A search that has ended.

    Parameters
    ----------
    state
        Where it is.
    steps
        How many steps were taken.
    began
        When, on the clock of ``time.perf_counter``.
    note
        Why it ended: what ``terminate`` said, or what cut it short.
    is_cut
        Whether a limit, the callback or Ctrl-C ended it.
    trace
        Moments of it: seconds, value and bound, which is ``None``.
    """

    state: State
    steps: int
    began: float
    note: str
    is_cut: bool
    trace: tuple[tuple[float, float | None, float | None], ...]

    @property
    def seconds(self) -> float:
        """Time since it began."""
        return time.perf_counter() - self.began


class AbstractIterativeSolver(AbstractSmoothSolver, Generic[State]):
    """A solver that goes step by step; ``iterate`` holds the loop, a solver what a step is.

    A state holds all that a step needs, so that a search can be cut between any two steps: a limit,
    the callback or Ctrl-C end it, and ``finish`` makes a solution of the last state.

    Attributes
    ----------
    used_up
        The note of a search that has taken ``step_limit`` steps, ``steps`` standing for them.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import bilevel as bl, torch
    >>> from bilevel.solvers.smooth import (
    ...     AbstractIterativeSolver,
    ...     SearchReport,
    ...     Task,
    ... )
    >>> @dataclass(frozen=True)
    ... class Halving(AbstractIterativeSolver):
    ...     step_limit: int = 60
    ...
    ...     def init(self, task):
    ...         return task.flat_start()[0]
    ...
    ...     def step(self, task, state):
    ...         return state / 2
    ...
    ...     def terminate(self, task, state):
    ...         return "" if float(state.abs().max()) < 1e-9 else None
    ...
    ...     def value(self, task, state):
    ...         return float(task.problem.F(state[0], state[0]))
    ...
    ...     def finish(self, task, search):
    ...         x, st = search.state, task.stationarity()
    ...         report = SearchReport(
    ...             method="Halving()",
    ...             norm=float(2 * x.norm()),
    ...             atol=1e-6,
    ...             steps=search.steps,
    ...             seconds=search.seconds,
    ...             note=search.note,
    ...             trace=search.trace,
    ...         )
    ...         return task.judge(x, x, x, st, report)
    >>> problem = bl.SmoothProblem(
    ...     F=lambda x, y: (x * y).sum(), f=lambda x, y: ((y - x) ** 2).sum()
    ... )
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> print(bl.solve(problem, Halving(), start=(one, one)).status.name)
    STATIONARY
    """

    used_up: ClassVar[str] = "{steps} steps were not enough."

    @property
    @abstractmethod
    def step_limit(self) -> float:
        """Most steps of the loop; infinite where the solver counts otherwise."""

    def prepare(self, task: Task) -> Task:
        """Return the task as it is solved, or refuse it.

        Raises
        ------
        UnsupportedProblem
            If the solver is not valid for the problem.
        """
        return task

    @abstractmethod
    def init(self, task: Task) -> State:
        """Return the state before the first step; what takes long belongs into that step."""

    @abstractmethod
    def step(self, task: Task, state: State) -> State:
        """Return the state after one more step.

        Tensors of an old state may be overwritten only where ``finish`` does not need them: Ctrl-C
        may come before the new state is returned.
        """

    @abstractmethod
    def terminate(self, task: Task, state: State) -> str | None:
        """Return why no further step is due, ``""`` where that goes without saying.

        ``None`` asks for another step.
        """

    @abstractmethod
    def value(self, task: Task, state: State) -> float | None:
        """Return ``F`` as the trace and the callback are told it after a step.

        Not a number where no value is known yet, ``None`` where nothing new is to be told.
        """

    @abstractmethod
    def finish(self, task: Task, search: Search[State]) -> SmoothSolution:
        """Return the solution, judged."""

    def run(self, task: Task) -> SmoothSolution:
        """See the abstract method."""
        task = self.prepare(task)
        return self.finish(task, iterate(self, task))


def iterate(solver: AbstractIterativeSolver[State], task: Task) -> Search[State]:
    """Take a solver's steps until it terminates, a limit is met, or somebody stops it.

    Parameters
    ----------
    solver
        Says what a step is.
    task
        The problem with its limits.

    Notes
    -----
    Limits are looked at between steps, and one step is always taken: without it nothing would be
    known of the start. Ctrl-C ends the search with the state of the last whole step.
    """
    began = time.perf_counter()
    state = solver.init(task)
    steps = 0
    trace: list[tuple[float, float | None, float | None]] = []

    def is_stopped() -> bool:
        """Record what the last step has shown, and return whether the callback stops the search."""
        value = solver.value(task, state)
        if value is None:
            return False
        seconds = time.perf_counter() - began
        known = None if math.isnan(value) else value
        trace.append((seconds, known, None))
        if task.callback is None:
            return False
        return bool(task.callback(Progress(seconds, known, None, steps)))

    def limit_met() -> str:
        """Return the note of the limit that is met, or nothing."""
        if steps >= solver.step_limit:
            return solver.used_up.format(steps=steps)
        if task.time_limit is not None and time.perf_counter() - began >= task.time_limit:
            return "The time limit was met."
        return ""

    cut = ""
    ended = None
    try:
        while not cut and (ended := solver.terminate(task, state)) is None:
            cut = limit_met() if steps else ""
            if not cut:
                state = solver.step(task, state)
                steps += 1
                cut = "The callback stopped it." if is_stopped() else ""
    except KeyboardInterrupt:
        cut = "It was interrupted."
    return Search(state, steps, began, cut or ended or "", bool(cut), tuple(trace))
