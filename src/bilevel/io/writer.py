"""A bilevel problem as an MPS file and its companion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from bilevel.errors import UnsupportedProblem
from bilevel.io.linear import FOLLOWER_OBJECTIVE, Division, LinearProgram
from bilevel.problem.functions import Array, Rows
from bilevel.problem.problem import Problem
from bilevel.problem.standard import StandardForm
from bilevel.structure import Stance

_OBJECTIVE = "objective"


def from_problem(problem: Problem) -> tuple[LinearProgram, Division]:
    """Return a bilevel problem as a linear program and what in it belongs to the follower.

    Raises
    ------
    UnsupportedProblem
        If it is not linear, not optimistic or has several followers.
    """
    form = problem.compile()
    if reasons := _reasons(form):
        raise UnsupportedProblem(
            f"MPS and AUX files cannot hold this problem: {'; '.join(reasons)}."
        )
    follower = form.followers[0]
    columns = form.columns
    own = ~np.isin(np.arange(form.n), follower.columns)
    lower, upper, kept = _follower_bounds(problem, form)
    lower = np.where(own, columns.lower, lower)
    upper = np.where(own, columns.upper, upper)
    rows = Rows.stack(form.rows, kept)
    names = _unique(columns.names, ())
    sign = form.objective.sign
    mine = follower.objective.sign
    program = LinearProgram(
        columns=names,
        rows=_unique(rows.names, (_OBJECTIVE, FOLLOWER_OBJECTIVE)),
        cost=sign * form.objective.c,
        constant=sign * form.objective.constant,
        maximize=form.objective.maximize,
        A=rows.A,
        row_lower=np.where(rows.equality, rows.b, -np.inf),
        row_upper=rows.b,
        lower=lower,
        upper=upper,
        integer=columns.integer,
        free={},
    )
    division = Division(
        ~own,
        np.arange(len(rows)) >= len(form.rows),
        mine * follower.objective.c,
        mine * follower.objective.constant,
        follower.objective.maximize,
    )
    if division.constant or division.cost[own].any():
        program = replace(program, free={FOLLOWER_OBJECTIVE: (division.cost, division.constant)})
    return program, division


def _reasons(form: StandardForm) -> list[str]:
    reasons = []
    if len(form.followers) > 1:
        names = ", ".join(repr(follower.name) for follower in form.followers)
        reasons.append(f"there are several followers ({names}); write one problem for each")
    if form.stance is Stance.PESSIMISTIC:
        reasons.append(
            "the files mean the optimistic problem; write problem.replace(stance='optimistic')"
        )
    if not form.objective.is_linear:
        reasons.append("the leader's objective is not linear; write a linear one")
    if form.rows.products.row.size:
        name = form.rows.names[int(form.rows.products.row[0])]
        reasons.append(f"row {name} of the leader multiplies variables; write a linear one")
    if form.cones:
        reasons.append("the leader has a second-order cone; write linear constraints")
    if (crossed := form.columns.lower > form.columns.upper).any():
        name = form.columns.names[int(np.flatnonzero(crossed)[0])]
        reasons.append(f"the bounds of {name} leave no value; give it one")
    if form.dual_variables or form.values:
        reasons.append(
            "the leader uses multipliers or the value of a follower; write its optimality "
            "conditions, or leave them out"
        )
    for follower in form.followers:
        if follower.objective.P.nnz or follower.objective.cubic.row.size:
            reasons.append(
                f"the objective of follower {follower.name!r} is not linear; write a linear one"
            )
        if follower.rows.products.row.size:
            name = follower.rows.names[int(follower.rows.products.row[0])]
            reasons.append(
                f"row {name} of follower {follower.name!r} multiplies variables; write a linear one"
            )
    return reasons


def _follower_bounds(problem: Problem, form: StandardForm) -> tuple[Array, Array, Rows]:
    """Return bounds of the follower's columns, and its rows without those that state them.

    A follower's bounds are compiled to its last rows, because each has a multiplier.
    """
    rows = form.followers[0].rows
    lower = np.full(form.n, -np.inf)
    upper = np.full(form.n, np.inf)
    bounds = [problem.leaves[v.id].bounds for v in problem.followers[0].variables]
    count = int(sum(np.isfinite(side).sum() for pair in bounds for side in pair))
    last = np.arange(len(rows)) >= len(rows) - count
    single = (np.diff(rows.A.indptr) == 1) & ~rows.equality
    if not count or not single[last].all():
        return lower, upper, rows
    part = sp.csr_array(rows.A[last])
    place = part.indices
    bound = rows.b[last] / part.data
    np.minimum.at(upper, place[part.data > 0], bound[part.data > 0])
    np.maximum.at(lower, place[part.data < 0], bound[part.data < 0])
    return lower, upper, rows.take(~last)


def _unique(names: Sequence[str], taken: Sequence[str]) -> tuple[str, ...]:
    """Return names without blanks, none twice and none that could be read as a number."""
    seen = set(taken)
    result = []
    for name in names:
        plain = "_".join(name.split()) or "_"
        plain = f"_{plain}" if plain.isdigit() else plain
        other = plain
        number = 1
        while other in seen:
            number += 1
            other = f"{plain}_{number}"
        seen.add(other)
        result.append(other)
    return tuple(result)


def mps_text(program: LinearProgram, name: str) -> str:
    """Return a linear program as a free MPS file."""
    sense = ["OBJSENSE", "    MAX"] if program.maximize else []
    equal = program.row_lower == program.row_upper
    kinds = [" E  " if flag else " L  " for flag in equal]
    functions = {_OBJECTIVE: (program.cost, program.constant), **program.free}
    comments = [
        f"* {row} constant {_text(value)}" for row, (_, value) in program.free.items() if value
    ]
    lines = [*comments, f"NAME {name}", *sense, "ROWS", *(f" N  {row}" for row in functions)]
    lines += [kind + row for kind, row in zip(kinds, program.rows, strict=True)]
    lines += ["COLUMNS", *_columns(program, functions), "RHS"]
    if program.constant:
        lines.append(f"    RHS {_OBJECTIVE} {_text(-program.constant)}")
    lines += [
        f"    RHS {row} {_text(value)}"
        for row, value in zip(program.rows, program.row_upper, strict=True)
        if value
    ]
    return "\n".join([*lines, "BOUNDS", *_bounds(program), "ENDATA", ""])


def _columns(program: LinearProgram, functions: dict[str, tuple[Array, float]]) -> Iterator[str]:
    A = sp.csc_array(program.A)
    marked = False
    for j, (name, whole) in enumerate(zip(program.columns, program.integer, strict=True)):
        if whole != marked:
            marked = whole
            yield f"    MARKER 'MARKER' {chr(39)}{'INTORG' if whole else 'INTEND'}{chr(39)}"
        part = slice(A.indptr[j], A.indptr[j + 1])
        entries = [(row, cost[j]) for row, (cost, _) in functions.items() if cost[j]]
        entries += [
            (program.rows[i], value) for i, value in zip(A.indices[part], A.data[part], strict=True)
        ]
        for row, value in entries or [(_OBJECTIVE, 0.0)]:
            yield f"    {name} {row} {_text(value)}"
    if marked:
        yield "    MARKER 'MARKER' 'INTEND'"


def _bounds(program: LinearProgram) -> Iterator[str]:
    for name, low, high, whole in zip(
        program.columns, program.lower, program.upper, program.integer, strict=True
    ):
        if low == high:
            yield f" FX BOUND {name} {_text(low)}"
        elif np.isinf(low) and np.isinf(high):
            yield f" FR BOUND {name}"
        else:
            if np.isinf(low):
                yield f" MI BOUND {name}"
            elif low:
                yield f" LO BOUND {name} {_text(low)}"
            if np.isfinite(high):
                yield f" UP BOUND {name} {_text(high)}"
            elif whole:
                # Without any bound, an integer column would be read as binary.
                yield f" PL BOUND {name}"


def aux_text(division: Division) -> str:
    """Return a companion in the form that all readers know: keys of two letters, numbers."""
    columns = np.flatnonzero(division.columns)
    rows = np.flatnonzero(division.rows)
    lines = [f"N {len(columns)}", f"M {len(rows)}"]
    lines += [f"LC {j}" for j in columns] + [f"LR {i}" for i in rows]
    lines += [f"LO {_text(value)}" for value in division.cost[columns]]
    return "\n".join([*lines, f"OS {-1 if division.maximize else 1}", ""])


def _text(value: float) -> str:
    """Return a number so that reading it gives the very same one."""
    return repr(float(value) + 0.0).removesuffix(".0")
