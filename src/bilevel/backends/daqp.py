"""DAQP: small dense quadratic programs by a dual active-set method."""

from __future__ import annotations

import time

import daqp
import numpy as np

from bilevel.backends.backend import AbstractBackend
from bilevel.backends.farkas import HUGE, Farkas
from bilevel.errors import BackendError
from bilevel.problem.functions import Array
from bilevel.program import Feature, Limits, Program, RawAnswer, Termination

_STATUS = {
    1: Termination.OPTIMAL,
    2: Termination.NUMERICAL,
    -1: Termination.INFEASIBLE,
    -2: Termination.NUMERICAL,
    -3: Termination.UNBOUNDED,
    -4: Termination.LIMIT,
    -5: Termination.NUMERICAL,
    -6: Termination.NUMERICAL,
    -7: Termination.LIMIT,
}


class DAQP(AbstractBackend):
    """DAQP: convex QP, exact active sets to machine precision, with multipliers."""

    name = "daqp"
    features = Feature.CONVEX_QUADRATIC
    gives_multipliers = True
    # It calls some programs unbounded that have an optimum.
    verdicts = frozenset({Termination.OPTIMAL, Termination.INFEASIBLE})

    def solve(self, program: Program, limits: Limits, start: Array | None = None) -> RawAnswer:
        """See the abstract method; ``start`` is not used."""
        del start
        rows = program.rows
        identity = np.eye(program.n)
        bounded = np.isfinite(program.lower) | np.isfinite(program.upper)
        matrix = np.vstack([rows.A.toarray(), identity[bounded]])
        upper = np.concatenate([rows.b, program.upper[bounded]])
        free = np.full(len(rows), -np.inf)
        lower = np.concatenate([np.where(rows.equality, rows.b, free), program.lower[bounded]])
        sense = np.where(np.append(rows.equality, np.zeros(bounded.sum(), bool)), 5, 0)
        began = time.perf_counter()
        try:
            v, _, code, info = daqp.solve(
                np.ascontiguousarray(program.objective.P.toarray()),
                np.ascontiguousarray(program.objective.c),
                np.ascontiguousarray(matrix),
                np.clip(upper, -HUGE, HUGE),
                np.clip(lower, -HUGE, HUGE),
                sense.astype(np.int32),
                primal_tol=1e-10,
                dual_tol=1e-12,
                **limits.options,
            )
        except Exception as error:
            raise BackendError(f"DAQP failed: {error}") from error
        seconds = time.perf_counter() - began
        if code not in _STATUS:
            raise BackendError(f"DAQP answered with an unknown exit flag: {code}.")
        termination = _STATUS[code]
        if termination is Termination.INFEASIBLE:
            # DAQP calls some feasible programs infeasible, so this needs a proof.
            free = np.full(program.n, HUGE)
            ends = np.clip([np.append(-free, lower), np.append(free, upper)], -HUGE, HUGE)
            if not Farkas(np.ascontiguousarray(matrix)).proves(*ends):
                termination = Termination.NUMERICAL
        if termination is not Termination.OPTIMAL:
            return RawAnswer(termination, None, -np.inf, None, 0, seconds, str(code))
        duals = np.array(info["lam"])[: len(rows)]
        # DAQP's own value would contain its regularization.
        bound = program.objective.evaluate(np.array(v))
        return RawAnswer(termination, np.array(v), bound, duals, 0, seconds, str(code))
