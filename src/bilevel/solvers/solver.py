"""The contract of a solver: it works on matrices, knows its limits and never stores anything."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np

from bilevel.problem.functions import Array
from bilevel.problem.standard import StandardForm
from bilevel.program import Limits, Moment, Progress, Resume
from bilevel.status import Status


@dataclass(frozen=True)
class Request:
    """What the caller of ``bl.solve`` asked for.

    Parameters
    ----------
    time_limit
        Seconds in all, or ``None``.
    rtol, atol
        Gap at which optimality is claimed.
    seed
        For randomised choices.
    verbose
        Whether the backend may write to the terminal.
    options
        Passed to the vendor verbatim.
    callback
        Called with ``Progress`` in the leader's sense; returning ``True`` stops the solve.
    start
        A full column vector to begin with, or ``None``.
    spent
        Seconds that earlier phases of the same solve took.
    bound_only
        Whether this phase's incumbents say nothing about the problem (its bounds do).
    resume
        ``Outcome.resume`` of an earlier solve, for methods that can go on from it.
    """

    time_limit: float | None = None
    rtol: float = 1e-6
    atol: float = 1e-8
    seed: int | None = None
    verbose: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    callback: Callable[[Progress], bool | None] | None = None
    start: Array | None = field(default=None, repr=False)
    spent: float = 0.0
    bound_only: bool = False
    resume: Resume | None = field(default=None, repr=False)

    def limits(self, progress: Callable[[Progress], bool | None] | None) -> Limits:
        """Return the backend's limits."""
        return Limits(
            self.time_limit,
            self.rtol,
            self.atol,
            self.seed,
            self.verbose,
            self.options,
            progress,
        )

    def gap_closed(self, value: float, bound: float) -> bool:
        """Return whether a value and a bound are close enough to claim optimality."""
        return abs(value - bound) <= self.atol + self.rtol * max(1.0, abs(value))

    def after(self, seconds: float) -> Request:
        """Return the request for a next phase, the seconds already spent taken off."""
        remaining = None if self.time_limit is None else max(self.time_limit - seconds, 0.01)
        return replace(self, time_limit=remaining, spent=self.spent + seconds)


@dataclass(frozen=True)
class Outcome:
    """What a solver found, in columns and in minimisation sense.

    Parameters
    ----------
    status
        The claim, before the certificate.
    w
        All columns of the point, or ``None``.
    bound
        Proved lower bound of ``F``; ``-inf`` if none.
    multipliers
        For each follower its multipliers, where the method has them.
    backend, backend_status, nodes, seconds, note
        See ``Stats``.
    trace
        ``(seconds, incumbent, bound)`` in the leader's sense.
    stopped
        Whether a limit or an interruption ended the search.
    resume
        Where another solve can go on, for methods that can.
    earlier
        How many of ``seconds`` were spent in solves that this one goes on from.
    """

    status: Status
    w: Array | None = None
    bound: float = -np.inf
    multipliers: tuple[Array, ...] = ()
    backend: str = ""
    backend_status: str = ""
    nodes: int = 0
    seconds: float = 0.0
    note: str = ""
    trace: tuple[Moment, ...] = ()
    stopped: bool = False
    resume: Resume | None = field(default=None, repr=False)
    earlier: float = 0.0


class AbstractSolver(ABC):
    """Finds a solution of a bilevel problem given as matrices."""

    @abstractmethod
    def accepts(self, form: StandardForm) -> tuple[str, ...]:
        """Return the reasons why this solver cannot be used; empty if it can."""

    @abstractmethod
    def run(self, form: StandardForm, request: Request) -> Outcome:
        """Solve a problem for which ``accepts`` returned no reason.

        Parameters
        ----------
        form
            The problem.
        request
            Limits, tolerances, start and callback.

        Returns
        -------
        Outcome
            ``OPTIMAL`` only where a proved bound meets the point.

        Raises
        ------
        UnsupportedProblem
            If bounds that an encoding needs cannot be derived.
        BackendError
            If the vendor's code fails.
        """


@final
class Recorder:
    """Turns a backend's progress into the leader's sense, keeps the trace, asks the callback.

    Parameters
    ----------
    form
        The problem, for the leader's sense.
    request
        The callback, and the seconds that are gone already.
    has_bound
        Whether the backend's bounds are bounds of the problem.
    earlier
        The trace of the search that this one goes on from.
    """

    def __init__(
        self,
        form: StandardForm,
        request: Request,
        has_bound: bool = True,
        earlier: tuple[Moment, ...] = (),
    ) -> None:
        self._sign = form.objective.sign
        self._callback = request.callback
        self._has_bound = has_bound
        self._has_incumbent = not request.bound_only
        # What is spent counts the search alone, and moments count from when it was prepared.
        so_far = max((seconds for seconds, *_ in earlier), default=0.0)
        self._began = time.perf_counter() - max(request.spent, so_far)
        self._moments = list(earlier)
        self._error: Exception | None = None

    @property
    def trace(self) -> tuple[Moment, ...]:
        """The moments so far, those of the search that this one goes on from among them."""
        return tuple(self._moments)

    def reraise(self) -> None:
        """Raise what the callback raised, if it did."""
        if self._error is not None:
            raise self._error

    def __call__(self, moment: Progress) -> bool | None:
        """Record a moment; return whether to stop."""
        incumbent = self._value(moment.incumbent, self._has_incumbent)
        bound = self._value(moment.bound, self._has_bound)
        seconds = time.perf_counter() - self._began
        if not self._moments or self._moments[-1][1:] != (incumbent, bound):
            self._moments.append((seconds, incumbent, bound))
        if self._callback is None:
            return None
        try:
            return self._callback(Progress(seconds, incumbent, bound, moment.nodes))
        except Exception as error:
            # Kept until the vendor's code has returned: an exception must not unwind through it.
            self._error = error
            return True

    def _value(self, value: float | None, is_known: bool) -> float | None:
        return self._sign * value if is_known and value is not None else None
