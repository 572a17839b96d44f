"""Solving a batch of quadratic programs, and judging every answer by its optimality conditions."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from bilevel.adjoints.convex import kernels, saddle
from bilevel.adjoints.convex.kkt import QuadraticResponses
from bilevel.backends import Purpose, routes
from bilevel.backends.daqp_batch import solve_distances
from bilevel.errors import BatchFailed
from bilevel.layers.options import Options
from bilevel.layers.result import ACCEPTED, NOT_FINITE, Record, verdict
from bilevel.problem.functions import Array, Monomials, Objective, Rows
from bilevel.problem.parametric import ParametricProgram
from bilevel.program import Limits, RawAnswer
from bilevel.response.best_response import continuous_program, solve_continuous
from bilevel.status import Status

#: An answer with a larger residual is polished.
_POLISHED = 1e-12


class QuadraticSolver:
    """Solves ``min y'P y / 2 + q'y`` subject to ``A y <= b``, the first rows equations.

    Without a named backend, DAQP solves the whole batch where ``P`` is positive definite, and what
    the library uses for a single follower the rest; a named one solves instance by instance.

    Parameters
    ----------
    program
        For the number of equations.
    options
        The backend and what happens to instances without an answer.
    start
        Rows to begin with, shape ``(B, m)``; ignored for another batch size.
    """

    def __init__(
        self, program: ParametricProgram, options: Options, start: Array | None = None
    ) -> None:
        self._program = program
        self._equalities = program.equalities
        self._options = options
        self._start = start
        self._limits = Limits(options=dict(options.vendor), verbose=options.verbose)
        self.record: Record | None = None
        self.active: Array | None = None

    def __call__(
        self, H: Array, q: Array, A: Array, b: Array, tolerance: float = 1e-8
    ) -> QuadraticResponses:
        """Solve a batch; every answer is judged, and polished or refused if it is not exact."""
        half = saddle.half(H, q, A)
        count = len(H)
        equalities = self._equalities
        notes: dict[int, str] = {}
        if self._options.backend in (None, "daqp") and not self._options.vendor:
            start = self._start if self._start is not None and len(self._start) == count else None
            u, z, solved = solve_distances(
                half.W, half.v, b, equalities, start, torch.get_num_threads()
            )
            y, judged, worst, is_kinked = kernels.finish(
                H, q, A, b, half.U, u, z, equalities, tolerance
            )
            if worst <= _POLISHED and solved.all() and half.regular.all():
                residual, active, weak, margin = judged
                self.active = active
                self.record = Record((Status.OPTIMAL,) * count, residual, notes)
                return QuadraticResponses(y, z, solved, active, weak, margin, half, True, is_kinked)
            solved &= half.regular
        else:
            y = np.zeros_like(q)
            z = np.zeros_like(b)
            solved = np.zeros(count, bool)
            judged = kernels.judge(H, q, A, b, y, z, equalities, tolerance)
        good = solved & (judged[0] <= ACCEPTED)
        status = [Status.OPTIMAL] * count
        named = self._options.backend
        for i in np.flatnonzero(~good | (judged[0] > _POLISHED)).tolist():
            one = _One(H[i] + H[i].T, q[i], A[i], b[i], equalities)
            known = (y[i], z[i]) if good[i] else None
            y[i], z[i], status[i], note = one.improve(known, named, self._limits)
            if note:
                notes[i] = note
        residual, active, weak, margin = kernels.judge(H, q, A, b, y, z, equalities, tolerance)
        usable = np.array([one is Status.OPTIMAL for one in status])
        residual[~usable] = margin[~usable] = np.nan
        weak[~usable] = False
        self.record = Record(tuple(status), residual, notes)
        self.active = active
        if not usable.all():
            if self._options.on_failure == "raise":
                raise BatchFailed(self._program.who, tuple(status), notes)
            y[~usable] = z[~usable] = self._options.fill
        return QuadraticResponses(
            y, z, usable, active, weak, margin, half, bool(usable.all()), bool(weak.any())
        )


class _One:
    """One instance that needs more than the batch."""

    def __init__(self, P: Array, q: Array, A: Array, b: Array, equalities: int) -> None:
        self.P = P
        self.q = q
        self.A = A
        self.b = b
        self.equalities = equalities

    def improve(
        self, known: tuple[Array, Array] | None, backend: str | None, limits: Limits
    ) -> tuple[Array, Array, Status, str]:
        """Return a polished answer, or what is known instead of one."""
        if known is not None:
            y, z, _ = self._polish(*known)
            return y, z, Status.OPTIMAL, ""
        nothing = (np.zeros_like(self.q), np.zeros_like(self.b))
        if not all(np.isfinite(part).all() for part in (self.P, self.q, self.A, self.b)):
            return *nothing, Status.FAILED, NOT_FINITE
        raw = None
        route = backend or ""
        if np.linalg.eigvalsh(self.P)[:1].min(initial=0.0) >= -1e-9 * abs(self.P).max(initial=0.0):
            raw, found = self._solve(backend or Purpose.ACTIVE_SET, limits)
            route = found if raw is not None else route
        if raw is None or raw.v is None or raw.duals is None:
            return *nothing, *verdict(self.P, raw, route)
        y, z, residual = self._polish(raw.v, raw.duals)
        # A route may be inaccurate on a program that another one solves.
        others = () if backend or residual <= ACCEPTED else routes(Purpose.ACTIVE_SET)
        for other in others:
            if residual <= ACCEPTED:
                break
            if other == route:
                continue
            raw, _ = self._solve(other, limits)
            if raw is not None and raw.v is not None and raw.duals is not None:
                found = self._polish(raw.v, raw.duals)
                y, z, residual = min((y, z, residual), found, key=lambda one: one[2])
        if residual <= ACCEPTED:
            return y, z, Status.OPTIMAL, ""
        why = f"{route} returned a point whose optimality conditions fail by {residual:.1e}"
        return *nothing, Status.FAILED, why

    def _solve(self, asked: Purpose | str, limits: Limits) -> tuple[RawAnswer | None, str]:
        m = len(self.b)
        equality = np.arange(m) < self.equalities
        rows = Rows(sp.csr_array(self.A), self.b, equality, Monomials.empty(), ("row",) * m)
        program = continuous_program(Objective(sp.csr_array(self.P), self.q), rows)
        return solve_continuous(program, asked, limits)

    def _polish(self, y: Array, z: Array) -> tuple[Array, Array, float]:
        """Solve the optimality conditions on the rows that look active; keep what is better."""
        best = (y, z, self._residual(y, z))
        norm = np.maximum(np.linalg.norm(self.A, axis=-1), 1e-300)
        for share in (1.0, 1e-4, 1e4):
            if best[2] <= _POLISHED:
                break
            active = z * norm > share * (self.b - self.A @ y) / norm
            active[: self.equalities] = True
            A = self.A[active]
            n = len(y)
            K = np.block([[self.P, A.T], [A, np.zeros((len(A), len(A)))]])
            rhs = np.append(-self.q, self.b[active])
            point = np.append(y, z[active])
            for _ in range(2):
                point = point + np.linalg.lstsq(K, rhs - K @ point, rcond=None)[0]
            other = np.zeros_like(z)
            other[active] = point[n:]
            residual = self._residual(point[:n], other)
            if residual < best[2]:
                best = (point[:n], other, residual)
        return best

    def _residual(self, y: Array, z: Array) -> float:
        H, q, A, b, y, z = (part[None] for part in (self.P / 2, self.q, self.A, self.b, y, z))
        return float(kernels.judge(H, q, A, b, y, z, self.equalities, 1e-8)[0][0])
