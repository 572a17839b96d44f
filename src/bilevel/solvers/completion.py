"""From a backend's point, right within tolerances, to one whose followers' responses are exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bilevel.backends import Purpose
from bilevel.certificates import certify
from bilevel.problem.functions import Array
from bilevel.problem.standard import StandardForm
from bilevel.program import Program
from bilevel.reformulate.kkt import KKT
from bilevel.reformulate.reformulation import Reformulated
from bilevel.response.best_response import solve_continuous
from bilevel.response.nearest import nearest_feasible, nearest_point
from bilevel.response.response import optimistic_completion, worst_completion
from bilevel.solution import Tolerances
from bilevel.structure import Stance, Structure


def complete(
    form: StandardForm, reformed: Reformulated, w: Array, multipliers: tuple[Array, ...]
) -> tuple[Array, bool]:
    """Return an exact point near a backend's, and whether it may prove anything.

    Parameters
    ----------
    form
        The problem.
    reformed
        The program the backend solved.
    w, multipliers
        Its point.

    Returns
    -------
    tuple
        All columns, and ``False`` where only the backend's own point is known: its value shares
        the error of the backend's bound, so the two together prove nothing.

    Notes
    -----
    The followers are solved exactly at the backend's decision. Where one is nearly indifferent
    there, its exact response may be another one that is as good for it within tolerances, but worse
    for the leader; then the decision is moved to where the backend's answer is exactly optimal.
    """
    finish = worst_completion if form.stance is Stance.PESSIMISTIC else optimistic_completion
    better = finish(form, w)
    if better is None and (near := nearest_feasible(form, w)) is not None:
        better = finish(form, near)
    rounded = np.where(form.columns.integer, np.round(w), w)
    if better is not None and not _loses(form, better, rounded):
        return better, True
    near = on_pattern(form, w, multipliers)
    moved = None if near is None else finish(form, near)
    if moved is not None:
        if better is None or form.objective.evaluate(moved) < form.objective.evaluate(better):
            better = moved
        if not _loses(form, better, rounded) or reformed.tolerant:
            return better, True
    if better is None:
        return rounded, not reformed.tolerant
    if certify(form, rounded, Tolerances()).accepted:
        return rounded, False
    return better, True


def on_pattern(form: StandardForm, w: Array, multipliers: tuple[Array, ...]) -> Array | None:
    """Return the nearest point where each follower's response is optimal in a given pattern.

    Of every slack and its multiplier the smaller one becomes zero; what remains of the followers'
    optimality conditions is linear. Integers stay.

    Returns
    -------
    numpy.ndarray or None
        ``None`` for pessimistic problems, without multipliers, or if a product remains.
    """
    pattern = _pattern(form, w, multipliers)
    if pattern is None:
        return None
    near = nearest_point(pattern.program, w)
    return None if near is None else near[: form.n]


def best_on_pattern(
    form: StandardForm, w: Array, multipliers: tuple[Array, ...]
) -> tuple[Array, tuple[Array, ...]] | None:
    """Return the leader's best point, and multipliers, where responses keep the pattern of a point.

    ``None`` also where the leader's objective is not convex or falls for ever on that pattern.
    """
    pattern = _pattern(form, w, multipliers)
    if pattern is None:
        return None
    raw, _ = solve_continuous(pattern.program, Purpose.ACTIVE_SET)
    return None if raw is None or raw.v is None else pattern.invert(raw.v)


def _pattern(form: StandardForm, w: Array, multipliers: tuple[Array, ...]) -> Reformulated | None:
    rows = [len(follower.rows) for follower in form.followers]
    if form.stance is Stance.PESSIMISTIC or [len(lam) for lam in multipliers] != rows:
        return None
    reformed = KKT().applied(form)
    program = reformed.program
    if program.rows.products.row.size or program.cones:
        return None
    return replace(reformed, program=_fixed(program, reformed.embed(w, multipliers)))


def _fixed(program: Program, v: Array) -> Program:
    """Return the program with the smaller column of every pair at zero and integers fixed."""
    lower = program.lower.copy()
    upper = program.upper.copy()
    for _, pair in program.sos1:
        smaller = min(pair, key=lambda column: v[column])
        upper[smaller] = min(upper[smaller], 0.0)
    integer = program.integer
    lower[integer] = upper[integer] = np.round(v[integer])
    return replace(program, lower=lower, upper=upper, sos1=(), integer=np.zeros(program.n, bool))


def _loses(form: StandardForm, better: Array, rounded: Array) -> bool:
    """Return whether an exact point is worth clearly less to the leader than a backend's.

    Where cones curve a follower, a gap of 1e-8 leaves 1e-4 and more to the response, hence to
    ``F``.
    """
    value = form.objective.evaluate(rounded)
    tolerance = 1e-3 if Structure.FOLLOWER_CONIC in form.structure else 1e-5
    return form.objective.evaluate(better) - value > tolerance * max(1.0, abs(value))
