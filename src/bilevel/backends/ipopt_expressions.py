"""Programs as CasADi expressions: matrices and vectors of products, no loop over terms."""

from __future__ import annotations

from typing import Any

import casadi

from bilevel.problem.functions import Kind, Monomials, Objective
from bilevel.program import Program


def sparse(matrix: Any) -> Any:
    """Return a SciPy matrix as CasADi's."""
    return casadi.DM(matrix.tocsc())


def products(terms: Monomials, v: Any, count: int) -> Any:
    """Return the sums of products per row, all at once."""
    if not len(terms):
        return casadi.SX.zeros(count)
    product = v[terms.factors[:, 0].tolist()]
    for column in terms.factors.T[1:]:
        product = product * v[column.tolist()]
    place = casadi.DM.triplet(
        terms.row.tolist(), list(range(len(terms))), casadi.DM(terms.value), count, len(terms)
    )
    return place @ product


def value(objective: Objective, v: Any) -> Any:
    """Return the objective."""
    total = casadi.dot(casadi.DM(objective.c), v)
    if objective.P.nnz:
        total += 0.5 * casadi.dot(v, sparse(objective.P) @ v)
    return total + casadi.sum1(products(objective.cubic, v, 1))


def cones(program: Program, v: Any, t: Any) -> list[Any]:
    """Return smooth rows ``<= 0``, rounded at the apex by 1e-6 at most, by 1e-9 in the end.

    Exponential cones are written ``r <= s log(t / s)``, which neither overflows nor loses
    convexity; ``s`` and ``t`` must be kept positive by their bounds.
    """
    rounding = casadi.fmax(1e-3 * casadi.fmin(t, 1e-3), 1e-9)
    rows = []
    for cone in program.cones:
        value = sparse(cone.A) @ v - cone.b
        if cone.kind is Kind.EXPONENTIAL:
            second = value[1] + rounding
            third = value[2] + rounding
            rows.append(value[0] + second * casadi.log(second / third))
        else:
            length = casadi.sqrt(casadi.sumsqr(value[1:]) + rounding**2)
            rows.append(length - rounding - value[0])
    return rows
