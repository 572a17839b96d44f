"""Solving a batch of large sparse quadratic programs, each polished on its active rows."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from bilevel.adjoints.convex.sparse import SparseFactor, SparseResponses
from bilevel.backends import Purpose
from bilevel.errors import BatchFailed
from bilevel.layers.options import Options
from bilevel.layers.result import ACCEPTED, NOT_FINITE, Record, verdict
from bilevel.problem.affine import AffineMatrix
from bilevel.problem.functions import NO_PRODUCTS, Array, Objective, Rows
from bilevel.problem.parametric import ParametricProgram
from bilevel.program import Limits
from bilevel.response.best_response import continuous_program, solve_continuous
from bilevel.status import Status


class SparseSolver:
    """Solves ``min y'H y + q'y`` subject to ``A y <= b``, the first rows equations.

    Parameters
    ----------
    program
        For patterns and the number of equations.
    options
        The backend and what happens to instances without an answer.
    start
        Not used.
    """

    def __init__(self, program: ParametricProgram, options: Options, start: object = None) -> None:
        del start
        self._program = program
        self._options = options
        self._equality = np.arange(program.m) < program.equalities
        self.record: Record | None = None
        self.active: Array | None = None

    def __call__(
        self, H: Array, q: Array, A: Array, b: Array, tolerance: float = 1e-8
    ) -> SparseResponses:
        """Solve a batch; every answer is polished on its active rows and judged."""
        count, (m, n) = len(q), self._program.A.shape
        y = np.zeros((count, n))
        z = np.zeros((count, m))
        active = np.zeros((count, m), bool)
        weak = np.zeros((count, m), bool)
        residual = np.full(count, np.nan)
        margin = np.full(count, np.nan)
        status = [Status.FAILED] * count
        notes = {}
        matrices = []
        for i in range(count):
            one = _One(self._program, H[i], q[i], A[i], b[i], self._equality)
            matrices.append((one.P, one.A))
            status[i], note = one.solve(self._options)
            if note:
                notes[i] = note
            if status[i] is Status.OPTIMAL:
                y[i] = one.y
                z[i] = one.z
                residual[i] = one.residual
                active[i], weak[i], margin[i] = one.activity(tolerance)
        self.record = Record(tuple(status), residual, notes)
        usable = np.array([one is Status.OPTIMAL for one in status])
        if not usable.all():
            if self._options.on_failure == "raise":
                raise BatchFailed(self._program.who, tuple(status), notes)
            y[~usable] = z[~usable] = self._options.fill
        return SparseResponses(y, z, usable, active, weak, margin, matrices)


class _One:
    """One instance."""

    def __init__(
        self,
        program: ParametricProgram,
        H: Array,
        q: Array,
        A: Array,
        b: Array,
        equality: Array,
    ) -> None:
        half = _matrix(program.H, H)
        self.P = sp.csr_array(half + half.T)
        self.A = _matrix(program.A, A)
        self.q = q
        self.b = b
        self.equality = equality
        self.norm = np.maximum(splnorm(self.A), 1e-300)
        self.y = np.zeros_like(q)
        self.z = np.zeros_like(b)
        self.residual = np.inf

    def solve(self, options: Options) -> tuple[Status, str]:
        """Find and polish an answer; return the status and a note."""
        if not all(np.isfinite(p).all() for p in (self.P.data, self.q, self.A.data, self.b)):
            return Status.FAILED, NOT_FINITE
        rows = Rows(self.A, self.b, self.equality, NO_PRODUCTS, ("row",) * len(self.b))
        program = continuous_program(Objective(self.P, self.q), rows)
        limits = Limits(options=dict(options.vendor), verbose=options.verbose)
        raw, route = solve_continuous(program, options.backend or Purpose.CONVEX, limits)
        if raw is None or raw.v is None or raw.duals is None:
            return verdict(np.zeros((0, 0)), raw, route)
        self.y = raw.v
        self.z = raw.duals
        self.residual = self._residual(self.y, self.z)
        for share in (1.0, 1e-4, 1e4):
            if self.residual <= 1e-13:
                break
            self._polish(share)
        if self.residual <= ACCEPTED:
            return Status.OPTIMAL, ""
        return (
            Status.FAILED,
            f"{route} returned a point whose optimality conditions fail by {self.residual:.1e}",
        )

    def activity(self, tolerance: float) -> tuple[Array, Array, float]:
        """Return which rows are active, which are weakly active, and the margin."""
        near = abs(self.b - self.A @ self.y) / self.norm / (1 + abs(self.y).max(initial=0.0))
        force = self.z * self.norm / (1 + abs(self.q).max(initial=0.0))
        active = self.equality | (force > tolerance)
        weak = ~active & (near < tolerance)
        return active, weak, float(np.maximum(near, force)[~self.equality].min(initial=np.inf))

    def factor(self, active: Array) -> SparseFactor:
        """Return the factorized system of the derivative."""
        return SparseFactor(self.P, self.A, active)

    def _polish(self, share: float) -> None:
        slack = self.b - self.A @ self.y
        active = self.equality | (self.z * self.norm > share * slack / self.norm)
        factor = self.factor(active)
        z = np.where(active, self.z, 0.0)
        dy, dz = factor.solve(-(self.P @ self.y + self.q + self.A.T @ z), slack)
        residual = self._residual(self.y + dy, z + dz)
        if residual < self.residual:
            self.y = self.y + dy
            self.z = z + dz
            self.residual = residual

    def _residual(self, y: Array, z: Array) -> float:
        gradient = self.P @ y + self.q + self.A.T @ z
        size = 1 + abs(self.q).max(initial=0.0)
        value = (self.A @ y - self.b) / self.norm
        force = z * self.norm / size
        value /= 1 + abs(y).max(initial=0.0)
        bad = np.maximum(np.maximum(value, -force), np.minimum(-value, force))
        bad = np.where(self.equality, abs(value), bad)
        return float(max(abs(gradient).max(initial=0.0) / size, bad.max(initial=0.0)))


def splnorm(A: sp.csr_array) -> Array:
    """Return the norm of each row."""
    return np.sqrt(np.asarray(A.multiply(A).sum(axis=1)).ravel())


def _matrix(pattern: AffineMatrix, values: Array) -> sp.csr_array:
    return sp.csr_array((values, (pattern.row, pattern.column)), shape=pattern.shape)
