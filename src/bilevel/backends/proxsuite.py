"""ProxQP: convex quadratic programs by a proximal augmented Lagrangian method."""

from __future__ import annotations

import time

import numpy as np
from proxsuite import proxqp

from bilevel.backends.backend import AbstractBackend
from bilevel.errors import BackendError
from bilevel.problem.functions import Array
from bilevel.program import Feature, Limits, Program, RawAnswer, Termination

_STATUS = {
    "PROXQP_SOLVED": Termination.OPTIMAL,
    "PROXQP_MAX_ITER_REACHED": Termination.LIMIT,
    "PROXQP_PRIMAL_INFEASIBLE": Termination.INFEASIBLE,
    "PROXQP_DUAL_INFEASIBLE": Termination.UNBOUNDED,
    "PROXQP_SOLVED_CLOSEST_PRIMAL_FEASIBLE": Termination.NUMERICAL,
    "PROXQP_NOT_RUN": Termination.NUMERICAL,
}
_FAR = 1e20


class ProxQP(AbstractBackend):
    """ProxQP: dense convex QP with multipliers, tolerance 1e-10."""

    name = "proxsuite"
    features = Feature.CONVEX_QUADRATIC
    gives_multipliers = True
    # Its verdicts of infeasibility and unboundedness are estimates from a few iterates.
    verdicts = frozenset({Termination.OPTIMAL})

    def solve(self, program: Program, limits: Limits, start: Array | None = None) -> RawAnswer:
        """See the abstract method."""
        rows = program.rows
        equality = program.rows.equality
        A = rows.A.toarray()
        identity = np.eye(program.n)
        bounded = np.isfinite(program.lower) | np.isfinite(program.upper)
        C = np.vstack([A[~equality], identity[bounded]])
        upper = np.concatenate([rows.b[~equality], program.upper[bounded]])
        lower = np.concatenate([np.full((~equality).sum(), -_FAR), program.lower[bounded]])
        began = time.perf_counter()
        try:
            qp = proxqp.dense.QP(program.n, int(equality.sum()), len(upper))
            qp.settings.eps_abs = 1e-10
            qp.settings.eps_rel = 0.0
            # At its default of 1e-4 it calls feasible programs infeasible.
            qp.settings.eps_primal_inf = qp.settings.eps_dual_inf = 1e-12
            qp.settings.verbose = limits.verbose
            for name, value in limits.options.items():
                if not hasattr(qp.settings, name):
                    raise BackendError(f"ProxQP does not know the option {name!r}.")
                setattr(qp.settings, name, value)
            qp.init(
                program.objective.P.toarray(),
                program.objective.c,
                A[equality],
                rows.b[equality],
                C,
                np.clip(lower, -_FAR, _FAR),
                np.clip(upper, -_FAR, _FAR),
            )
            qp.solve() if start is None else qp.solve(start, None, None)
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(f"ProxQP failed: {error}") from error
        seconds = time.perf_counter() - began
        raw = str(qp.results.info.status).rpartition(".")[2]
        if raw not in _STATUS:
            raise BackendError(f"ProxQP answered with an unknown status: {raw}.")
        if _STATUS[raw] is not Termination.OPTIMAL:
            return RawAnswer(_STATUS[raw], None, -np.inf, None, 0, seconds, raw)
        v = np.clip(np.array(qp.results.x), program.lower, program.upper)
        duals = np.empty(len(rows))
        duals[equality] = np.array(qp.results.y)
        duals[~equality] = np.array(qp.results.z)[: (~equality).sum()]
        bound = program.objective.evaluate(v)
        return RawAnswer(Termination.OPTIMAL, v, bound, duals, 0, seconds, raw)
