"""DAQP for small programs solved again and again with other bounds."""

from __future__ import annotations

from typing import Any

import daqp
import numpy as np

from bilevel.backends.daqp import _STATUS
from bilevel.backends.farkas import HUGE, Farkas
from bilevel.backends.tree.compact import Compact
from bilevel.backends.tree.session import AbstractSession, NodeAnswer
from bilevel.problem.functions import Array
from bilevel.program import Termination

# DAQP's marks of rows: an equation, or active at a bound when the solve begins.
_EQUATION = 5
_UPPER = 1
_LOWER = 3
# Weight of the proximal term, of the size of the costs. A linear program needs a large one; where a
# curved one is singular, DAQP's own regularization would leave 1e-7 and more in the conditions.
_PROXIMAL = 0.02
_SLIGHT = 1e-5
_RESIDUAL = 1e-7
_PASSES = 3


class DAQPSession(AbstractSession):
    """A dense linear or convex quadratic program.

    A linear program is a sequence of strictly convex ones with a proximal term, which ends at an
    exact vertex. An optimum is checked against its optimality conditions, because a bound rests on
    it, and infeasibility needs multipliers that prove it; what else DAQP says asks for a second
    opinion.
    """

    def __init__(self, compact: Compact) -> None:
        self._constant = compact.constant
        self._count = compact.count
        rows, self._columns = _scaling(compact.A.toarray())
        self._scale = np.concatenate([self._columns, 1.0 / rows])
        outer = self._columns[:, None] * self._columns
        self._P = np.ascontiguousarray(compact.P.toarray() * outer)
        self._c = np.ascontiguousarray(compact.c * self._columns)
        self._A = np.ascontiguousarray(rows[:, None] * compact.A.toarray() * self._columns)
        self._size = max(1.0, float(np.abs(self._c).max(initial=0.0)))
        self._is_linear = not compact.P.nnz
        self._options: dict[str, Any] = {"primal_tol": 1e-10, "dual_tol": 1e-12, "eta_prox": 1e-10}
        self._model: Any = None
        self._farkas = Farkas(self._A)
        self._options["eps_prox"] = (_PROXIMAL if self._is_linear else _SLIGHT) * self._size

    def solve(
        self, low: Array, high: Array, warm: Any = None, cutoff: float = np.inf
    ) -> NodeAnswer:
        """See the abstract method; ``cutoff`` is not used."""
        del cutoff
        sense = np.where(low == high, _EQUATION, 0).astype(np.int32)
        low = np.maximum(low / self._scale, -HUGE)
        high = np.minimum(high / self._scale, HUGE)
        n = self._count
        ask = self._ask_linear if self._is_linear else self._ask_curved
        try:
            y, _, code, info = ask(low, high, sense, warm)
        except Exception:
            return NodeAnswer(Termination.NUMERICAL)
        termination = _STATUS.get(code, Termination.NUMERICAL)
        if termination is Termination.INFEASIBLE and not self._farkas.proves(low, high):
            termination = Termination.NUMERICAL
        if termination is not Termination.OPTIMAL:
            return NodeAnswer(termination)
        entries = np.concatenate([y, self._A @ y])
        lam = info["lam"]
        gradient = self._P @ y
        active = np.where(lam > 0, high, np.where(lam < 0, low, entries))
        wrong = max(
            np.abs(gradient + self._c + lam[:n] + lam[n:] @ self._A).max(initial=0.0) / self._size,
            np.abs(active - entries).max(initial=0.0),
            self._beyond(entries - high, high),
            self._beyond(low - entries, low),
        )
        if wrong > _RESIDUAL:
            return NodeAnswer(Termination.NUMERICAL)
        value = 0.5 * float(y @ gradient) + float(self._c @ y) + self._constant
        return NodeAnswer(termination, entries * self._scale, value, y if self._is_linear else lam)

    def _beyond(self, excess: Array, side: Array) -> float:
        """Return the largest excess, in DAQP's units and relative to the side in the problem's."""
        users = excess * self._scale / np.maximum(1.0, np.abs(side * self._scale))
        return float(np.maximum(excess, users).max(initial=0.0))

    def _ask_linear(self, low: Array, high: Array, sense: Array, warm: Any) -> tuple[Any, ...]:
        near = {} if warm is None else {"primal_start": warm}
        return daqp.solve(self._P, self._c, self._A, high, low, sense, **near, **self._options)

    def _ask_curved(self, low: Array, high: Array, sense: Array, warm: Any) -> tuple[Any, ...]:
        """Start from the active set of the multipliers ``warm``; the factors of ``P`` are kept."""
        if warm is not None:
            active = np.where(warm > 0, _UPPER, np.where(warm < 0, _LOWER, 0))
            sense = np.where(sense == _EQUATION, sense, active).astype(np.int32)
        if self._model is None:
            model = daqp.Model()
            model.settings = self._options
            model.setup(self._P, self._c, self._A, high, low, sense)
            self._model = model
        else:
            self._model.update(bupper=high, blower=low, sense=sense)
        return self._model.solve()


def _scaling(A: Array) -> tuple[Array, Array]:
    """Return factors of rows and columns, powers of two, that bring entries' sizes together."""
    size = np.abs(A)
    rows = np.ones(A.shape[0])
    columns = np.ones(A.shape[1])
    for _ in range(_PASSES):
        rows *= _balance(size * rows[:, None] * columns, axis=1)
        columns *= _balance(size * rows[:, None] * columns, axis=0)
    return rows, columns


def _balance(size: Array, axis: int) -> Array:
    largest = size.max(axis=axis, initial=0.0)
    smallest = np.where(size > 0, size, np.inf).min(axis=axis, initial=np.inf)
    middle = np.sqrt(np.where(largest > 0, largest * np.where(largest > 0, smallest, 1.0), 1.0))
    return np.exp2(-np.round(np.log2(middle)))
