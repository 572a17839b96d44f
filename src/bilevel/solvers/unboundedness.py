"""Whether a leader's value is bounded: a question branch and bound must not be trusted with.

Branch and bound may drop a node whose LP relaxation is unbounded and then claim ``optimal`` or
``infeasible`` (SCIP 10 does, for SOS1 sets, indicators and products alike). So a claim is believed
as it is only if the relaxation cannot be unbounded. Otherwise ``max(F, floor)`` is minimised
instead: its relaxations are bounded, and an optimum above the floor is an optimum of ``F``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from bilevel.backends import Purpose
from bilevel.errors import BilevelError
from bilevel.problem.functions import NO_PRODUCTS, Array, Monomials, Objective, Rows
from bilevel.problem.standard import StandardForm, is_convex
from bilevel.program import Program, RawAnswer, Termination
from bilevel.reformulate.kkt import KKT
from bilevel.response.best_response import solve_continuous

# A value this close to the floor, relative to it, ends on it.
_NEAR = 1e-6


def may_be_unbounded(program: Program) -> bool:
    """Return whether the continuous relaxation has a direction along which ``F`` falls for ever.

    Rows with products are left out, which can only add directions.
    """
    objective = program.objective
    if objective.P.nnz and not is_convex(objective):
        used = np.flatnonzero(np.diff(objective.P.indptr))
        costs = [sign * _unit(program.n, j) for j in used.tolist() for sign in (1.0, -1.0)]
        if any(_falls(program, cost, flat=False) for cost in costs):
            return True
        return bool(objective.c.any()) and _falls(program, objective.c, flat=True)
    return bool(objective.c.any()) and _falls(program, objective.c, flat=True)


def with_floor(program: Program, floor: float) -> Program:
    """Return the program that minimises ``max(F, floor)``; its last column is that value."""
    n = program.n
    objective = program.objective
    coo = objective.P.tocoo()
    factors = np.column_stack([coo.row, coo.col])
    row = Rows(
        sp.csr_array(np.append(objective.c, -1.0)[None, :]),
        np.array([-objective.constant]),
        np.zeros(1, bool),
        Monomials.collect(np.zeros(coo.nnz, int), factors, 0.5 * coo.data),
        ("value",),
    )
    return replace(
        program,
        names=(*program.names, "value"),
        lower=np.append(program.lower, floor),
        upper=np.append(program.upper, np.inf),
        integer=np.append(program.integer, False),
        objective=Objective(sp.csr_array((n + 1, n + 1)), _unit(n + 1, n)),
        rows=Rows.stack(program.rows.pad(n + 1), row),
        cones=tuple(cone.pad(n + 1) for cone in program.cones),
        recipes=(
            *program.recipes,
            (np.array([n]), lambda v: max(objective.evaluate(v[:n]), floor)),
        ),
    )


def settle(
    form: StandardForm,
    program: Program,
    raw: RawAnswer,
    solve: Callable[[Program], RawAnswer],
) -> RawAnswer:
    """Return an answer that may be believed where the relaxation may be unbounded.

    Parameters
    ----------
    form
        The bilevel problem.
    program
        Its reformulation.
    raw
        The backend's answer to it, which is not believed.
    solve
        Solves a program by the same backend.
    """
    value = 0.0 if raw.v is None else program.objective.evaluate(raw.v)
    floor = value - 1e3 * max(1.0, abs(value))
    second = solve(with_floor(program, floor))
    if second.bound <= floor + _NEAR * abs(floor):
        second = replace(second, bound=-np.inf)  # the floor bounds max(F, floor), and not F
    if second.v is None:
        return second
    above = second.v[-1] - floor > _NEAR * abs(floor)
    second = replace(second, v=second.v[:-1])
    if above:
        return second
    if has_ray(form, solve):
        return replace(second, v=None, termination=Termination.UNBOUNDED, bound=-np.inf)
    if raw.termination is Termination.UNBOUNDED:
        return raw
    return replace(second, termination=Termination.LIMIT, bound=-np.inf)


def has_ray(form: StandardForm, solve: Callable[[Program], RawAnswer]) -> bool:
    """Return whether a follower-optimal point and a direction from it prove unboundedness.

    The followers' optimality conditions are a union of polyhedra. ``v + t d`` stays in one of them
    for all ``t >= 0`` if ``d`` is a recession direction of its rows and each product of a
    multiplier and a slack vanishes for ``v``, for ``d`` and across the two.
    """
    if KKT().accepts(form):
        return False
    program = KKT().applied(form).program
    n = program.n
    objective = program.objective
    if program.rows.products.row.size or not is_convex(objective) or not objective.c.any():
        return False
    direction = _recession(program, objective.c, flat=True)
    shifted = replace(direction.rows, A=_shift(direction.rows.A, n))
    mixed = [
        (f"{name}.{i}", pair)
        for name, (a, b) in program.sos1
        for i, pair in enumerate([(a, b), (a, b + n), (a + n, b), (a + n, b + n)])
    ]
    twice = replace(
        program,
        names=(*program.names, *(f"direction {name}" for name in program.names)),
        lower=np.concatenate([program.lower, direction.lower]),
        upper=np.concatenate([program.upper, direction.upper]),
        integer=np.concatenate([program.integer, direction.integer]),
        objective=Objective(sp.csr_array((2 * n, 2 * n)), np.zeros(2 * n)),
        rows=Rows.stack(program.rows.pad(2 * n), shifted),
        cones=tuple(cone.pad(2 * n) for cone in program.cones)
        + tuple(replace(cone, A=_shift(cone.A, n)) for cone in direction.cones),
        sos1=tuple(mixed),
        recipes=(),
    )
    try:
        return solve(twice).v is not None
    except BilevelError:
        return False


def _falls(program: Program, cost: Array, flat: bool) -> bool:
    raw, _ = solve_continuous(_recession(program, cost, flat), Purpose.CONVEX)
    return raw is None or raw.termination is not Termination.INFEASIBLE


def _recession(program: Program, cost: Array, flat: bool) -> Program:
    """Return the directions ``d`` of the relaxation with ``cost'd = -1`` (and ``P d = 0``)."""
    linear = np.ones(len(program.rows), bool)
    linear[program.rows.products.row] = False
    rows = program.rows.take(linear)
    parts = [replace(rows, b=np.zeros(len(rows)))]
    parts.append(_equations(sp.csr_array(cost[None, :]), np.array([-1.0])))
    if flat and program.objective.P.nnz:
        parts.append(_equations(program.objective.P, np.zeros(program.n)))
    n = program.n
    return replace(
        program,
        lower=np.where(np.isfinite(program.lower), 0.0, -np.inf),
        upper=np.where(np.isfinite(program.upper), 0.0, np.inf),
        integer=np.zeros(n, bool),
        objective=Objective(sp.csr_array((n, n)), np.zeros(n)),
        rows=Rows.stack(*parts),
        cones=tuple(replace(cone, b=np.zeros(len(cone.b))) for cone in program.cones),
        sos1=(),
        indicators=(),
        recipes=(),
    )


def _equations(matrix: sp.csr_array, rhs: Array) -> Rows:
    count = len(rhs)
    return Rows(matrix, rhs, np.ones(count, bool), NO_PRODUCTS, ("direction",) * count)


def _shift(A: sp.csr_array, n: int) -> sp.csr_array:
    return sp.csr_array(sp.hstack([sp.csr_array(A.shape), A]))


def _unit(n: int, j: int) -> Array:
    vector = np.zeros(n)
    vector[j] = 1.0
    return vector
