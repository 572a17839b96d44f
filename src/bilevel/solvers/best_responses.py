"""An equilibrium among followers by responding in turn; for games that have no leader."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from bilevel.deprecation import renamed_fields
from bilevel.problem.functions import Array
from bilevel.problem.standard import StandardForm
from bilevel.response.best_response import best_response
from bilevel.solvers.solver import AbstractSolver, Outcome, Request
from bilevel.status import Status


@renamed_fields(rounds="max_steps")
@dataclass(frozen=True)
class BestResponses(AbstractSolver):
    """Let each follower respond to the others in turn until nobody moves (a Nash equilibrium).

    Parameters
    ----------
    max_steps
        Most steps, in each of which everybody responds once.
    tolerance
        The largest move in a round that counts as none, relative to ``max(1, |w|)``.

    Notes
    -----
    It is for games in which the leader decides nothing, also with cones. Convergence needs that
    responses react to each other less than one to one; where it does not converge the outcome is
    ``NOT_FOUND``. Other equilibria may exist.

    References
    ----------
    Facchinei and Kanzow, *Generalized Nash Equilibrium Problems* (2010), section 5.2.

    Examples
    --------
    >>> import bilevel as bl, cvxpy as cp
    >>> from bilevel.solvers.best_responses import BestResponses
    >>> y, z = cp.Variable(name="y"), cp.Variable(name="z")
    >>> first = bl.Follower(
    ...     cp.Minimize(cp.square(y - z / 2 - 1)), [], [y], name="first"
    ... )
    >>> second = bl.Follower(
    ...     cp.Minimize(cp.square(z - y / 2)), [], [z], name="second"
    ... )
    >>> game = bl.Problem(cp.Minimize(0), [], [first, second])
    >>> print(round(float(bl.solve(game, BestResponses())[y]), 5))
    1.33333
    """

    max_steps: int = 500
    tolerance: float = 1e-7

    def accepts(self, form: StandardForm) -> tuple[str, ...]:
        """See the abstract method."""
        if form.integer_followers:
            return form.integer_followers
        if not form.follower_mask.all():
            return ("The leader decides something, which responding in turn would ignore.",)
        return ()

    def run(self, form: StandardForm, request: Request) -> Outcome:
        """See the abstract method."""
        began = time.perf_counter()
        named = ~form.columns.auxiliary
        w = np.zeros(form.n) if request.start is None else request.start.copy()
        for number in range(self.max_steps):
            before = w.copy()
            failed = self._round(form, w)
            seconds = time.perf_counter() - began
            if failed:
                return Outcome(Status.NOT_FOUND, note=failed, seconds=seconds)
            # Epigraphs may have room, and move for no reason.
            move = abs(w - before)[named]
            size = abs(w[named]).max(initial=1.0)
            if move.max(initial=0.0) <= self.tolerance * size:
                note = f"an equilibrium after {number + 1} rounds; there may be others"
                return Outcome(Status.STATIONARY, w, note=note, seconds=seconds)
            if request.time_limit is not None and seconds > request.time_limit:
                break
        seconds = time.perf_counter() - began
        note = "responding in turn did not settle down"
        return Outcome(Status.NOT_FOUND, note=note, seconds=seconds)

    def _round(self, form: StandardForm, w: Array) -> str:
        """Let everybody respond once, in place; return why that failed."""
        for k, follower in enumerate(form.followers):
            found = best_response(form, k, w)
            if found.y is None:
                return f"{follower.name!r} has no response ({found.termination.value})"
            w[follower.columns] = found.y
        return ""
