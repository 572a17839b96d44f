"""Solving a batch of cone programs, each polished by Newton's method on its residual map."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from bilevel.adjoints.convex.cone import ConicResponses, jacobian, residual
from bilevel.adjoints.convex.projections import derivative, project
from bilevel.backends import Purpose
from bilevel.errors import BatchFailed
from bilevel.layers.options import Options
from bilevel.layers.result import ACCEPTED, NOT_FINITE, Record, verdict
from bilevel.problem.cones import Cone
from bilevel.problem.functions import NO_PRODUCTS, Array, Objective, Rows
from bilevel.problem.parametric import ParametricProgram
from bilevel.program import Limits, Program
from bilevel.response.best_response import continuous_program, solve_continuous
from bilevel.status import Status

_STEPS = 12
_EXACT = 1e-14


class ConicSolver:
    """Solves ``min y'P y / 2 + q'y`` subject to ``A y + s = b``, ``s`` in a product of cones.

    Parameters
    ----------
    program
        For the cones.
    options
        The backend and what happens to instances without an answer.
    start
        Not used: an interior-point method starts where it likes.
    """

    def __init__(self, program: ParametricProgram, options: Options, start: object = None) -> None:
        del start
        self._program = program
        self._options = options
        self.record: Record | None = None
        self.active: Array | None = None

    def __call__(
        self, H: Array, q: Array, A: Array, b: Array, tolerance: float = 1e-8
    ) -> ConicResponses:
        """Solve a batch; see ``bilevel.adjoints.adjoint.Solve``. The tolerance is not needed."""
        del tolerance
        count = len(H)
        P = H + H.swapaxes(1, 2)
        y = np.zeros_like(q)
        v = np.zeros_like(b)
        status = [Status.FAILED] * count
        notes = {}
        residuals = np.full(count, np.nan)
        for i in range(count):
            y[i], v[i], residuals[i], status[i], notes[i] = self._one(P[i], q[i], A[i], b[i])
        notes = {i: note for i, note in notes.items() if note}
        self.record = Record(tuple(status), residuals, notes)
        usable = np.array([one is Status.OPTIMAL for one in status])
        if self._options.on_failure == "raise" and not usable.all():
            raise BatchFailed(self._program.who, tuple(status), notes)
        z = project(torch.from_numpy(v), self._program).numpy()
        if not usable.all():
            for part in (y, z, v):
                part[~usable] = self._options.fill
        return ConicResponses(y, z, v, usable)

    def _one(
        self, P: Array, q: Array, A: Array, b: Array
    ) -> tuple[Array, Array, float, Status, str]:
        nothing = (np.zeros_like(q), np.zeros_like(b), np.nan)
        if not all(np.isfinite(part).all() for part in (P, q, A, b)):
            return *nothing, Status.FAILED, NOT_FINITE
        options = self._options
        limits = Limits(options=dict(options.vendor), verbose=options.verbose)
        program = self._as_program(P, q, A, b)
        raw, route = solve_continuous(program, options.backend or Purpose.CONIC, limits)
        if raw is None or raw.v is None or raw.duals is None or raw.cone_duals is None:
            return *nothing, *verdict(P, raw, route)
        z = np.concatenate([raw.duals, *raw.cone_duals])
        y, v, error = self._polish(P, q, A, b, raw.v, z)
        if error <= ACCEPTED:
            return y, v, error, Status.OPTIMAL, ""
        why = f"{route} returned a point whose optimality conditions fail by {error:.1e}"
        return *nothing, Status.FAILED, why

    def _as_program(self, P: Array, q: Array, A: Array, b: Array) -> Program:
        program = self._program
        linear = program.equalities + program.inequalities
        rows = Rows(
            sp.csr_array(A[:linear]),
            b[:linear],
            np.arange(linear) < program.equalities,
            NO_PRODUCTS,
            program.row_names[:linear],
        )
        cones = tuple(
            Cone(sp.csr_array(-A[c.start : c.stop]), -b[c.start : c.stop], f"cone{i}", kind=c.kind)
            for i, c in enumerate(program.cones)
        )
        return continuous_program(Objective(sp.csr_array(P), q), rows, cones=cones)

    def _polish(
        self, P: Array, q: Array, A: Array, b: Array, y: Array, z: Array
    ) -> tuple[Array, Array, float]:
        """Take Newton steps on the residual map while it becomes smaller."""
        data = tuple(torch.from_numpy(part)[None] for part in (P, q, A, b))
        w = torch.from_numpy(np.concatenate([y, z - (b - A @ y)]))[None]
        best = w
        error = self._error(data, w)
        for _ in range(_STEPS):
            if error <= _EXACT:
                break
            N, J = self._linearize(data, best)
            step = torch.linalg.lstsq(J, -N[..., None], driver="gelsd").solution[..., 0]
            for length in (1.0, 0.5, 0.1):
                other = best + length * step
                found = self._error(data, other)
                if found < error:
                    best = other
                    error = found
                    break
            else:
                break
        n = len(q)
        point = best[0].numpy()
        return point[:n].copy(), point[n:].copy(), error

    def _linearize(self, data: tuple[Tensor, ...], w: Tensor) -> tuple[Tensor, Tensor]:
        P, q, A, b = data
        y = w[:, : q.shape[-1]]
        v = w[:, q.shape[-1] :]
        z = project(v, self._program)
        return residual(P, q, A, b, y, v, z), jacobian(P, A, derivative(v, self._program))

    def _error(self, data: tuple[Tensor, ...], w: Tensor) -> float:
        P, q, A, b = data
        n = q.shape[-1]
        y = w[:, :n]
        v = w[:, n:]
        z = project(v, self._program)
        N = residual(P, q, A, b, y, v, z)[0]
        top = 1 + max(float(q.abs().max()), float((A[0].T @ z[0]).abs().max()))
        side = 1 + max(float(y.abs().max()), float(b.abs().max()) if len(b[0]) else 0.0)
        return max(
            float(N[:n].abs().max()) / top, float(N[n:].abs().max()) / side if len(N) > n else 0.0
        )
