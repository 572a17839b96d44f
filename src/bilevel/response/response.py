"""All followers' responses to one leader decision, and the leader's choice among equal ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from bilevel.backends import Purpose
from bilevel.errors import BackendError
from bilevel.problem.functions import NO_PRODUCTS, Array, Objective, Rows
from bilevel.problem.standard import LEADER, StandardForm
from bilevel.program import Limits, Program, RawAnswer, Termination
from bilevel.response.best_response import (
    FollowerResponse,
    best_response,
    continuous_program,
    follower_program,
    single_point,
    solve_continuous,
    sweep_continuous,
)


@dataclass(frozen=True)
class Response:
    """All followers' responses to one leader decision.

    Parameters
    ----------
    form
        The problem.
    w
        All columns; those of the leader are the decision, those of followers an optimal response.
    responses
        One per follower.
    """

    form: StandardForm
    w: Array
    responses: tuple[FollowerResponse, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every follower has an optimal response with a known face."""
        return all(a.face is not None for a in self.responses)

    def pinned(self) -> Response:
        """Return the same where unknown sets of best responses of conic followers are one point."""
        responses = tuple(
            replace(one, face=single_point(np.asarray(one.y)))
            if one.face is None and follower.cones
            else one
            for follower, one in zip(self.form.followers, self.responses, strict=True)
        )
        return replace(self, responses=responses)

    def extreme(
        self,
        objective: Objective,
        free: Array,
        with_leader_rows: bool,
        tolerance: float = 0.0,
        limits: Limits | None = None,
    ) -> tuple[RawAnswer | None, Array]:
        """Minimise a function over the followers' faces and the leader columns ``free``.

        Parameters
        ----------
        objective
            Over all columns.
        free
            Leader columns that may move too, shape ``(k,)``.
        with_leader_rows
            Whether the leader's constraints must hold.
        tolerance
            How far they may be missed, on rows of unit norm.
        limits
            When to give up.

        Returns
        -------
        tuple
            The raw answer (``None`` where no backend takes the program) and the full columns.
        """
        columns, program = self._program(free, with_leader_rows, tolerance)
        cost = objective.project(columns, self.w).pad(program.n)
        program = replace(program, objective=cost)
        raw, _ = solve_continuous(program, Purpose.EXTREME, limits or Limits())
        return raw, self._point(columns, raw)

    def along(self, costs: Sequence[Array]) -> list[tuple[RawAnswer | None, Array]]:
        """Minimise linear functions over the followers' faces, one after the other.

        Parameters
        ----------
        costs
            Each over all columns, shape ``(n,)``.

        Returns
        -------
        list
            As ``extreme``, for each cost.
        """
        columns, program = self._program(np.empty(0, int), with_leader_rows=False)
        over = [np.append(c[columns], np.zeros(program.n - len(columns))) for c in costs]
        return [(raw, self._point(columns, raw)) for raw in sweep_continuous(program, over)]

    def _point(self, columns: Array, raw: RawAnswer | None) -> Array:
        w = self.w.copy()
        if raw is not None and raw.v is not None:
            w[columns] = raw.v[: len(columns)]
        return w

    def _program(
        self, free: Array, with_leader_rows: bool, tolerance: float = 0.0
    ) -> tuple[Array, Program]:
        """Return the columns that move, and the program of all best responses without an objective.

        See ``extreme``.
        """
        form = self.form
        columns = np.concatenate([*(f.columns for f in form.followers), free]).astype(int)
        n = len(columns)
        parts = []
        offset = 0
        for follower, one in zip(form.followers, self.responses, strict=True):
            parts.append(_shift(one.face, offset, n))
            offset += len(follower.columns)
        cones = ()
        if with_leader_rows:
            value_rows = {f"value[{form.followers[k].name}]" for _, k in form.values}
            keep = np.array([name not in value_rows for name in form.rows.names], bool)
            leader = form.rows.take(keep).project(columns, self.w)
            parts.append(leader.relaxed(tolerance) if tolerance else leader)
            cones = tuple(cone.project(columns, self.w) for cone in form.cones)
        lower = form.columns.lower[columns]
        upper = form.columns.upper[columns]
        for k in sorted({dual.follower for dual in form.dual_variables}):
            rows, low, high = self._multipliers(k, columns, len(lower))
            parts = [part.pad(rows.A.shape[1]) for part in parts] + [rows]
            lower = np.append(lower, low)
            upper = np.append(upper, high)
        total = len(lower)
        program = continuous_program(
            Objective(sp.csr_array((total, total)), np.zeros(total)),
            Rows.stack(*parts) if parts else Rows.empty(len(lower)),
            lower,
            upper,
        )
        integer = np.zeros(len(lower), bool)
        integer[:n] = form.columns.integer[columns]
        cones = tuple(cone.pad(len(lower)) for cone in cones)
        return columns, replace(program, cones=cones, integer=integer)

    def _multipliers(self, k: int, columns: Array, first: int) -> tuple[Rows, Array, Array]:
        """Return the optimal multipliers of follower ``k`` as columns tied to the leader's.

        For an LP or convex QP they are the same set at every best response.
        """
        form = self.form
        one = self.responses[k]
        program = follower_program(form, k, self.w)
        y = one.y
        rows = program.rows
        m = len(rows)
        n = first + len(rows)
        gradient = program.objective.P @ y + program.objective.c
        slack = -rows.evaluate(np.asarray(y))
        transposed = sp.csr_array(rows.A.T)
        blocks = [sp.hstack([sp.csr_array((transposed.shape[0], first)), transposed])]
        rhs = [-gradient]
        place = {int(column): i for i, column in enumerate(columns)}
        for dual in form.dual_variables:
            if dual.follower == k and dual.column in place:
                tie = sp.csr_array(
                    ([1.0, -1.0], ([0, 0], [place[dual.column], first + dual.row])), shape=(1, n)
                )
                blocks.append(tie)
                rhs.append(np.zeros(1))
        total = np.concatenate(rhs)
        ties = Rows(
            sp.csr_array(sp.vstack(blocks)),
            total,
            np.ones(len(total), bool),
            NO_PRODUCTS,
            ("multipliers",) * len(total),
        )
        lower = np.where(rows.equality, -np.inf, 0.0)
        upper = np.where(rows.equality | (slack <= 1e-7), np.inf, np.zeros(m))
        return ties, lower, upper


def _shift(rows: Rows | None, offset: int, n: int) -> Rows:
    if rows is None:
        raise BackendError("A follower's set of best responses is not known.")
    coo = rows.A.tocoo()
    A = sp.csr_array(sp.coo_array((coo.data, (coo.row, coo.col + offset)), shape=(len(rows), n)))
    return replace(rows, A=A)


def respond(form: StandardForm, w: Array, purpose: Purpose = Purpose.FOLLOWER) -> Response | None:
    """Return the followers' responses to the leader columns of ``w``.

    Returns
    -------
    Response or None
        ``None`` where followers depend on each other (an equilibrium is not a sequence of
        responses) or one has no optimal response.
    """
    return None if is_nash(form) else _respond(form, w, purpose)[1]


def _respond(form: StandardForm, w: Array, purpose: Purpose) -> tuple[Termination, Response | None]:
    w = w.copy()
    found = []
    for k, follower in enumerate(form.followers):
        one = best_response(form, k, w, purpose)
        if one.y is None:
            return one.termination, None
        w[follower.columns] = one.y
        found.append(one)
    for column, k in form.values:
        w[column] = form.followers[k].objective.sign * form.followers[k].objective.evaluate(w)
    return Termination.OPTIMAL, Response(form, w, tuple(found))


def is_nash(form: StandardForm) -> bool:
    """Return whether a follower's problem contains another follower's columns."""
    return bool((form.linking_mask & form.follower_mask).any())


def optimistic_completion(form: StandardForm, w: Array) -> Array | None:
    """Return the leader's best point with the followers' responses to the linking columns of ``w``.

    Linking columns of the leader and integers stay; the followers' columns and the leader's other
    continuous columns are chosen again, exactly. ``None`` where that is not possible. A conic
    follower's response is the one that was found, which need not be the only one.
    """
    if is_nash(form):
        return None
    return best_completion(form, w, form.columns.integer)[1]


def best_completion(
    form: StandardForm, w: Array, stays: Array, tolerance: float = 0.0
) -> tuple[Termination, Array | None]:
    """Return the leader's best point at the linking columns of ``w``, or why there is none.

    Followers must not see each other's columns.

    Parameters
    ----------
    form
        The problem.
    w
        A point; its integers are rounded.
    stays
        Which leader columns stay besides the linking ones, shape ``(n,)``; integers among the
        others are chosen again.
    tolerance
        How far the leader's rows, of unit norm, may be missed where they hold for no best response:
        responses are known up to a tolerance.

    Returns
    -------
    tuple
        ``OPTIMAL`` and the point; or ``INFEASIBLE`` (a follower has no response, or the leader's
        constraints fail for all best ones), ``UNBOUNDED``, or a termination that decides nothing.
    """
    columns = form.columns
    ended, response = _respond(form, np.where(columns.integer, np.round(w), w), Purpose.FOLLOWER)
    if response is None:
        without = (Termination.UNBOUNDED, Termination.INFEASIBLE_OR_UNBOUNDED)
        return (Termination.INFEASIBLE if ended in without else ended), None
    response = response.pinned()
    if not response.is_complete:
        return Termination.NUMERICAL, None
    fixed = form.linking_mask | stays
    fixed[[column for column, _ in form.values]] = True
    free = np.flatnonzero((columns.owner == LEADER) & ~fixed)
    raw, best = response.extreme(form.objective, free, with_leader_rows=True)
    if tolerance and raw is not None and raw.termination is Termination.INFEASIBLE:
        raw, best = response.extreme(
            form.objective, free, with_leader_rows=True, tolerance=tolerance
        )
    if raw is None or raw.termination is not Termination.OPTIMAL:
        return (Termination.NUMERICAL if raw is None else raw.termination), None
    return Termination.OPTIMAL, best


def worst_completion(form: StandardForm, w: Array) -> Array | None:
    """Return the point where the followers take the response that is worst for the leader.

    ``None`` where it is not known, or a coupling constraint fails there.
    """
    w = np.where(form.columns.integer, np.round(w), w)
    response = respond(form, w)
    if response is None or not response.is_complete:
        return None
    against = replace(form.objective, P=-form.objective.P, c=-form.objective.c)
    raw, worst = response.extreme(against, np.empty(0, int), with_leader_rows=False)
    if raw is None or raw.termination is not Termination.OPTIMAL:
        return None
    return worst
