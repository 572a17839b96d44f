"""One follower's best response at fixed values of all other columns, and the face of all of them.

The set of best responses of an LP or convex QP follower is a polyhedron: the feasible points that
are complementary to one optimal multiplier (and, for a QP, have the same gradient). With cones it
is known only where it is a single point.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from bilevel import backends
from bilevel.backends import AbstractBackend, Purpose
from bilevel.backends.backend import VERDICTS
from bilevel.errors import BackendError, UnsupportedProblem
from bilevel.problem.cones import interior
from bilevel.problem.functions import NO_PRODUCTS, Array, Cone, Objective, Rows
from bilevel.problem.standard import StandardForm, is_strictly_convex
from bilevel.program import Limits, Program, RawAnswer, Termination
from bilevel.response.duality import weak_bound

_TIGHT = 1e-9
# Costs may differ by so many orders of tolerances; what rounding leaves of them says nothing.
_LEVELS = 4
_ROUNDING = 1e-11
# A conic response is known to about 1e-8 in its value: less curvature leaves its place open.
_CURVED = 1e-6
_SILENT = Limits()


@dataclass(frozen=True)
class FollowerResponse:
    """One follower's response with its face of equally good responses.

    Parameters
    ----------
    termination
        ``OPTIMAL``, or why there is no response.
    y
        An optimal point in the follower's own columns.
    value
        ``f`` there (minimisation sense).
    multipliers
        Optimal multipliers of all rows.
    face
        Rows over the own columns that describe all optimal points.
    route
        The backend used.
    bound
        Lower bound on the follower's value: ``value`` where an LP or QP was solved, and what
        the multipliers prove by weak duality where there are cones.
    cone_multipliers
        Optimal multipliers of all cones.
    """

    termination: Termination
    y: Array | None
    value: float
    multipliers: Array | None
    face: Rows | None
    route: str
    bound: float = np.nan
    cone_multipliers: tuple[Array, ...] = ()


def follower_program(form: StandardForm, k: int, w: Array) -> Program:
    """Return follower ``k``'s problem over its own columns, everything else fixed at ``w``."""
    follower = form.followers[k]
    own = follower.columns
    return continuous_program(
        follower.objective.project(own, w),
        follower.rows.project(own, w),
        cones=tuple(cone.project(own, w) for cone in follower.cones),
    )


def continuous_program(
    objective: Objective,
    rows: Rows,
    lower: Array | None = None,
    upper: Array | None = None,
    cones: tuple[Cone, ...] = (),
) -> Program:
    """Return a program without integers over the columns of ``objective``."""
    n = len(objective.c)
    return Program(
        tuple(f"v{i}" for i in range(n)),
        np.full(n, -np.inf) if lower is None else lower,
        np.full(n, np.inf) if upper is None else upper,
        np.zeros(n, bool),
        objective,
        rows,
        cones,
    )


def solve_continuous(
    program: Program, asked: Purpose | str | AbstractBackend, limits: Limits = _SILENT
) -> tuple[RawAnswer | None, str]:
    """Solve by the first backend that accepts the program and reaches a verdict.

    Parameters
    ----------
    program
        What is solved; its rows are scaled to unit norm before.
    asked
        What for, which says the backends and their order; or one backend.
    limits
        As for a backend's ``solve``.

    Returns
    -------
    tuple
        The response, the last one where none is a verdict, and the name of the backend that gave
        it; ``None`` where no backend accepts the program, and the names of those asked.
    """
    last = None
    tried = []
    # Backends measure violations in absolute terms; a certificate measures them on unit rows.
    rows, factor = program.rows.unit()
    program = replace(program, rows=rows)
    for backend in backends.serving(asked):
        tried.append(backend.name)
        if backend.missing(program):
            continue
        try:
            response = backend.solve(program, limits)
        except BackendError:
            continue
        if response.duals is not None:
            response = replace(response, duals=response.duals * factor)
        last = (response, backend.name)
        if response.termination in backend.verdicts:
            return last
    return last or (None, " or ".join(tried))


def sweep_continuous(program: Program, costs: Sequence[Array]) -> list[RawAnswer | None]:
    """Solve one linear program for several costs; those without a verdict by the next route."""
    rows, _ = program.rows.unit()
    unit = replace(program, rows=rows)
    found: list[RawAnswer | None] = [None] * len(costs)
    with suppress(BackendError):
        found = list(next(backends.serving(Purpose.CONVEX)).sweep(unit, costs, _SILENT))
    for number, (cost, raw) in enumerate(zip(costs, found, strict=True)):
        if raw is None or raw.termination not in VERDICTS:
            objective = Objective(sp.csr_array((program.n, program.n)), cost)
            twin = replace(program, objective=objective)
            found[number] = solve_continuous(twin, Purpose.CONVEX)[0]
    return found


def best_response(
    form: StandardForm,
    k: int,
    w: Array,
    purpose: Purpose = Purpose.FOLLOWER,
    admit: bool = False,
) -> FollowerResponse:
    """Solve follower ``k`` with all other columns fixed at ``w``.

    With ``admit`` its rows and cones are relaxed by what its own columns of ``w`` violate, so that
    they are feasible: a decision may lie outside the follower's domain by a tolerance.

    Raises
    ------
    UnsupportedProblem
        If a follower has integer variables: what is solved here is continuous.
    """
    if form.integer_followers:
        raise UnsupportedProblem(form.integer_followers)
    own = form.followers[k].columns
    program = follower_program(form, k, w)
    if admit:
        excess = program.rows.evaluate(w[own])
        excess = np.where(program.rows.equality, excess, np.maximum(excess, 0.0))
        rows = replace(program.rows, b=program.rows.b + excess)
        cones = tuple(
            replace(cone, b=cone.b - cone.violation(w[own]) * interior(cone))
            for cone in program.cones
        )
        program = replace(program, rows=rows, cones=cones)
    raw, route = solve_continuous(program, purpose)
    if raw is None or raw.v is None or raw.termination is not Termination.OPTIMAL:
        ended = Termination.NUMERICAL if raw is None else raw.termination
        return FollowerResponse(ended, None, np.nan, None, None, route)
    if purpose is Purpose.FOLLOWER and not program.cones and not program.objective.P.nnz:
        raw, tight = _by_levels(program, raw)
    else:
        tight = _tight(program, raw)
    y = np.asarray(raw.v)
    value = program.objective.evaluate(y)
    face = _face(program, raw, tight, ~form.columns.auxiliary[own])
    bound = value
    cones = raw.cone_duals or ()
    if program.cones and raw.duals is not None:
        bound = min(value, weak_bound(program, y, raw.duals, cones))
        route = f"{route} with weak duality"
    return FollowerResponse(Termination.OPTIMAL, y, value, raw.duals, face, route, bound, cones)


def single_point(y: Array) -> Rows:
    """Return the rows that fix all of a follower's own columns."""
    return _equations(sp.csr_array(sp.eye_array(len(y))), y, "this response")


def _tight(program: Program, raw: RawAnswer) -> Array:
    """Return the rows with a multiplier, which every best response meets with equality."""
    rows = program.rows
    if raw.duals is None or raw.v is None:
        return rows.equality
    slack = -rows.evaluate(raw.v)
    scale = max(1.0, float(abs(raw.duals).max(initial=0.0)))
    return rows.equality | ((raw.duals > _TIGHT * scale) & (slack < 1e-6))


def _by_levels(program: Program, raw: RawAnswer) -> tuple[RawAnswer, Array]:
    """Return a linear program's answer also in costs far below its largest, and its tight rows.

    A vendor's tolerance is absolute: beside a cost of 1e4 it decides nothing for one of 1e-5. So
    rows with large multipliers are held, and what the costs still say on the face that is left is
    asked for on its own scale, until they say nothing beyond rounding.
    """
    rows, norms = program.rows, program.rows.unit()[1]
    if raw.duals is None or raw.v is None:
        return raw, rows.equality
    size = abs(rows.A)
    tight = _tight(program, raw)
    duals = raw.duals
    for _ in range(_LEVELS):
        held = np.where(tight, duals, 0.0)
        left = program.objective.c + rows.A.T @ held
        noise = _ROUNDING * (abs(program.objective.c) + size.T @ abs(held))
        left[abs(left) <= noise] = 0.0
        level = float(abs(left).max(initial=0.0))
        if level == 0.0:
            break
        face = replace(
            program,
            rows=replace(rows, equality=tight),
            objective=Objective(program.objective.P, left / level),
        )
        below, _ = solve_continuous(face, Purpose.FOLLOWER)
        if below is None or below.duals is None or below.termination is not Termination.OPTIMAL:
            break
        found = below.duals * level
        strength = below.duals / norms
        more = ~tight & (strength > _TIGHT * max(1.0, float(abs(strength).max(initial=0.0))))
        duals = held + found
        raw = replace(raw, v=below.v, duals=duals)
        if not more.any():
            break
        tight = tight | more
    return raw, tight


def _face(program: Program, raw: RawAnswer, tight: Array, named: Array) -> Rows | None:
    if raw.duals is None or raw.v is None:
        return None
    if program.cones:
        return (
            single_point(raw.v) if is_strictly_convex(program.objective, named, _CURVED) else None
        )
    rows = program.rows
    P = program.objective.P
    parts = [replace(rows, equality=tight)]
    if P.nnz:
        used = np.flatnonzero(np.diff(P.indptr))
        matrix = sp.csr_array(P[used])
        parts.append(_equations(matrix, matrix @ raw.v, "same gradient"))
    return Rows.stack(*parts)


def _equations(matrix: sp.csr_array, rhs: Array, name: str) -> Rows:
    count = len(rhs)
    return Rows(matrix, rhs, np.ones(count, bool), NO_PRODUCTS, (name,) * count)
