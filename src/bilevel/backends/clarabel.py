"""Clarabel: convex programs by an interior-point method."""

from __future__ import annotations

import time
from typing import Any

import clarabel
import numpy as np
import scipy.sparse as sp

from bilevel.backends.backend import AbstractBackend
from bilevel.errors import BackendError
from bilevel.problem.functions import Array
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
    """Clarabel: LP, convex QP and second-order cones, tolerances 1e-10, with multipliers."""

    name = "clarabel"
    features = Feature.CONVEX_QUADRATIC | Feature.CONES

    def solve(self, program: Program, limits: Limits, start: Array | None = None) -> RawAnswer:
        """See the abstract method; ``start`` is not used by an interior-point method."""
        del start
        matrix, rhs, cones = _standard(program)
        settings = clarabel.DefaultSettings()
        settings.verbose = limits.verbose
        if limits.time_limit is not None:
            settings.time_limit = float(limits.time_limit)
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
        for name, value in limits.options.items():
            if not hasattr(settings, name):
                raise BackendError(f"Clarabel does not know the option {name!r}.")
            try:
                setattr(settings, name, value)
            except TypeError as error:
                raise BackendError(
                    f"Clarabel refuses {value!r} for the option {name!r}."
                ) from error
        quadratic = sp.csc_matrix(sp.triu(program.objective.P))
        began = time.perf_counter()
        try:
            solver = clarabel.DefaultSolver(
                quadratic, program.objective.c, matrix, rhs, cones, settings
            )
            result = solver.solve()
        except Exception as error:
            raise BackendError(f"Clarabel failed: {error}") from error
        seconds = time.perf_counter() - began
        raw = str(result.status)
        if raw not in _STATUS:
            raise BackendError(f"Clarabel answered with an unknown status: {raw}.")
        return _answer(program, result, _STATUS[raw], seconds, raw)


def _standard(program: Program) -> tuple[sp.csc_matrix, Array, list[Any]]:
    """Return ``(A, b, cones)`` of ``A v + s = b, s in K``: rows, then bounds, then cones."""
    rows = program.rows
    order = np.argsort(~rows.equality, kind="stable")
    identity = sp.eye_array(program.n, format="csr")
    up, low = np.isfinite(program.upper), np.isfinite(program.lower)
    parts = [rows.A[order], identity[up], -identity[low]]
    rhs = [rows.b[order], program.upper[up], -program.lower[low]]
    n_zero = int(rows.equality.sum())
    cones: list[Any] = [
        clarabel.ZeroConeT(n_zero),
        clarabel.NonnegativeConeT(len(rows) - n_zero + int(up.sum()) + int(low.sum())),
    ]
    for cone in program.cones:
        parts.append(-cone.A)
        rhs.append(-cone.b)
        cones.append(clarabel.SecondOrderConeT(len(cone.b)))
    return sp.csc_matrix(sp.vstack(parts)), np.concatenate(rhs), cones


def _answer(
    program: Program, result: Any, termination: Termination, seconds: float, raw: str
) -> RawAnswer:
    v, duals, bound = None, None, -np.inf
    if termination is Termination.OPTIMAL:
        v = np.array(result.x)
        # The interior point sits 1e-10 outside a bound at times; a bound is meant literally.
        v = np.clip(v, program.lower, program.upper)
        order = np.argsort(~program.rows.equality, kind="stable")
        duals = np.empty(len(program.rows))
        duals[order] = np.array(result.z)[: len(order)]
        bound = float(result.obj_val_dual) + program.objective.constant
    return RawAnswer(termination, v, bound, duals, 0, seconds, raw)
