"""Clarabel: convex programs by an interior-point method."""

from __future__ import annotations

import time
from typing import Any

import clarabel
import numpy as np
import scipy.sparse as sp

from bilevel.backends.backend import AbstractBackend
from bilevel.errors import BackendError
from bilevel.problem.cones import order
from bilevel.problem.functions import Array, Cone, Kind
from bilevel.program import Feature, Limits, Program, RawAnswer, Termination

_STATUS = {
    "Solved": Termination.OPTIMAL,
    "AlmostSolved": Termination.NUMERICAL,
    "PrimalInfeasible": Termination.INFEASIBLE,
    "AlmostPrimalInfeasible": Termination.NUMERICAL,
    "DualInfeasible": Termination.UNBOUNDED,
    "AlmostDualInfeasible": Termination.NUMERICAL,
    "MaxIterations": Termination.LIMIT,
    "MaxTime": Termination.LIMIT,
    "CallbackTerminated": Termination.INTERRUPTED,
    "NumericalError": Termination.NUMERICAL,
    "InsufficientProgress": Termination.NUMERICAL,
    "Unsolved": Termination.NUMERICAL,
}


class Clarabel(AbstractBackend):
    """Clarabel: LP, convex QP and cones, tolerances 1e-10 (1e-8 at worst with cones)."""

    name = "clarabel"
    features = (
        Feature.CONVEX_QUADRATIC
        | Feature.CONES
        | Feature.EXPONENTIAL_CONES
        | Feature.SEMIDEFINITE_CONES
    )
    gives_multipliers = True

    def solve(self, program: Program, limits: Limits, start: Array | None = None) -> RawAnswer:
        """See the abstract method; ``start`` is not used by an interior-point method."""
        del start
        matrix, rhs, cones = _standard(program)
        quadratic = sp.csc_matrix(sp.triu(program.objective.P))
        began = time.perf_counter()
        # Cones leave less accuracy than an LP or QP, so what fails at 1e-12 is tried again.
        for tolerance in (1e-12, 1e-10, 1e-8) if program.cones else (1e-10,):
            settings = _settings(limits, tolerance)
            try:
                solver = clarabel.DefaultSolver(
                    quadratic, program.objective.c, matrix, rhs, cones, settings
                )
                result = solver.solve()
            except Exception as error:
                raise BackendError(f"Clarabel failed: {error}") from error
            if _STATUS.get(str(result.status)) is not Termination.NUMERICAL:
                break
        seconds = time.perf_counter() - began
        raw = str(result.status)
        if raw not in _STATUS:
            raise BackendError(f"Clarabel answered with an unknown status: {raw}.")
        return _answer(program, result, _STATUS[raw], seconds, raw)


def _settings(limits: Limits, tolerance: float) -> Any:
    settings = clarabel.DefaultSettings()
    settings.verbose = limits.verbose
    if limits.time_limit is not None:
        settings.time_limit = float(limits.time_limit)
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
    for name, value in limits.options.items():
        if not hasattr(settings, name):
            raise BackendError(f"Clarabel does not know the option {name!r}.")
        try:
            setattr(settings, name, value)
        except TypeError as error:
            raise BackendError(f"Clarabel refuses {value!r} for the option {name!r}.") from error
    return settings


def _standard(program: Program) -> tuple[sp.csc_matrix, Array, list[Any]]:
    """Return ``(A, b, cones)`` of ``A v + s = b, s in K``: rows, then bounds, then cones."""
    rows = program.rows
    by_sense = np.argsort(~rows.equality, kind="stable")
    identity = sp.eye_array(program.n, format="csr")
    up = np.isfinite(program.upper)
    low = np.isfinite(program.lower)
    parts = [rows.A[by_sense], identity[up], -identity[low]]
    rhs = [rows.b[by_sense], program.upper[up], -program.lower[low]]
    n_zero = int(rows.equality.sum())
    cones: list[Any] = [
        clarabel.ZeroConeT(n_zero),
        clarabel.NonnegativeConeT(len(rows) - n_zero + int(up.sum()) + int(low.sum())),
    ]
    for cone in program.cones:
        parts.append(-cone.A)
        rhs.append(-cone.b)
        cones.append(_vendor_cone(cone))
    return sp.csc_matrix(sp.vstack(parts)), np.concatenate(rhs), cones


def _vendor_cone(cone: Cone) -> Any:
    if cone.kind is Kind.EXPONENTIAL:
        return clarabel.ExponentialConeT()
    if cone.kind is Kind.SEMIDEFINITE:
        return clarabel.PSDTriangleConeT(order(len(cone.b)))
    return clarabel.SecondOrderConeT(len(cone.b))


def _answer(
    program: Program, result: Any, termination: Termination, seconds: float, raw: str
) -> RawAnswer:
    v = None
    duals = None
    bound = -np.inf
    cone_duals = None
    if termination is Termination.OPTIMAL:
        v = np.array(result.x)
        # The interior point sits 1e-10 outside a bound at times; a bound is meant literally.
        v = np.clip(v, program.lower, program.upper)
        by_sense = np.argsort(~program.rows.equality, kind="stable")
        duals = np.empty(len(program.rows))
        z = np.array(result.z)
        duals[by_sense] = z[: len(by_sense)]
        ends = np.cumsum([len(cone.b) for cone in program.cones])
        start = len(z) - (ends[-1] if len(ends) else 0)
        cone_duals = tuple(np.split(z[start:], ends[:-1])) if len(ends) else ()
        bound = float(result.obj_val_dual) + program.objective.constant
    return RawAnswer(termination, v, bound, duals, 0, seconds, raw, cone_duals)
