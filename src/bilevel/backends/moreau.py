"""Moreau: conic quadratic programs by an interior-point or an active-set method."""

from __future__ import annotations

import time

import moreau
import numpy as np
import scipy.sparse as sp

from bilevel.backends.backend import AbstractBackend
from bilevel.errors import BackendError
from bilevel.problem.functions import Array, Kind
from bilevel.program import Feature, Limits, Program, RawAnswer, Termination

_STATUS = {
    "Solved": Termination.OPTIMAL,
    "PrimalInfeasible": Termination.INFEASIBLE,
    "DualInfeasible": Termination.UNBOUNDED,
    "MaxIterations": Termination.LIMIT,
    "MaxTime": Termination.LIMIT,
    "CallbackTerminated": Termination.INTERRUPTED,
    "AlmostSolved": Termination.NUMERICAL,
    "AlmostPrimalInfeasible": Termination.NUMERICAL,
    "AlmostDualInfeasible": Termination.NUMERICAL,
    "NumericalError": Termination.NUMERICAL,
    "InsufficientProgress": Termination.NUMERICAL,
    "Unsolved": Termination.NUMERICAL,
}


class Moreau(AbstractBackend):
    """Moreau: LP, convex QP and second-order cones on the CPU, with multipliers."""

    name = "moreau"
    features = Feature.CONVEX_QUADRATIC | Feature.CONES
    gives_multipliers = True
    verdicts = frozenset({Termination.OPTIMAL})

    def solve(self, program: Program, limits: Limits, start: Array | None = None) -> RawAnswer:
        """See the abstract method; ``start`` is not used."""
        del start
        rows = program.rows
        by_sense = np.argsort(~rows.equality, kind="stable")
        identity = sp.eye_array(program.n, format="csr")
        up = np.isfinite(program.upper)
        low = np.isfinite(program.lower)
        parts = [rows.A[by_sense], identity[up], -identity[low]]
        rhs = [rows.b[by_sense], program.upper[up], -program.lower[low]]
        cones = [cone for cone in program.cones if cone.kind is Kind.SECOND_ORDER]
        for cone in cones:
            parts.append(-cone.A)
            rhs.append(-cone.b)
        n_zero = int(rows.equality.sum())
        unknown = set(limits.options) - set(moreau.Settings.model_fields)
        if unknown:
            raise BackendError(f"Moreau does not know the option {sorted(unknown)[0]!r}.")
        began = time.perf_counter()
        try:
            settings = moreau.Settings(device="cpu", verbose=limits.verbose, **limits.options)
            if limits.time_limit is not None:
                settings.time_limit = float(limits.time_limit)
            solver = moreau.Solver(
                sp.csr_array(program.objective.P),
                np.ascontiguousarray(program.objective.c),
                sp.csr_array(sp.vstack(parts)),
                np.concatenate(rhs),
                moreau.Cones(
                    num_zero_cones=n_zero,
                    num_nonneg_cones=len(rows) - n_zero + int(up.sum()) + int(low.sum()),
                    so_cone_dims=[len(cone.b) for cone in cones],
                ),
                settings,
            )
            found = solver.solve()
        except Exception as error:
            raise BackendError(f"Moreau failed: {error}") from error
        seconds = time.perf_counter() - began
        raw = solver.info.status.name
        if raw not in _STATUS:
            raise BackendError(f"Moreau answered with an unknown status: {raw}.")
        if _STATUS[raw] is not Termination.OPTIMAL:
            return RawAnswer(_STATUS[raw], None, -np.inf, None, 0, seconds, raw)
        v = np.clip(np.array(found.x), program.lower, program.upper)
        z = np.array(found.z)
        duals = np.empty(len(rows))
        duals[by_sense] = z[: len(rows)]
        ends = np.cumsum([len(cone.b) for cone in cones])
        first = len(z) - (int(ends[-1]) if len(ends) else 0)
        cone_duals = tuple(np.split(z[first:], ends[:-1])) if len(ends) else ()
        bound = program.objective.evaluate(v)
        return RawAnswer(Termination.OPTIMAL, v, bound, duals, 0, seconds, raw, cone_duals)
