"""Clarabel as the second opinion on a convex quadratic program at some bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from bilevel.backends.clarabel import Clarabel
from bilevel.backends.tree.compact import Compact
from bilevel.backends.tree.session import AbstractSession, NodeAnswer
from bilevel.errors import BackendError
from bilevel.problem.functions import NO_PRODUCTS, Array, Objective, Rows
from bilevel.program import Limits, Program, Termination


class ClarabelSession(AbstractSession):
    """Solves each program afresh."""

    def __init__(self, compact: Compact) -> None:
        self._compact = compact
        self._objective = Objective(compact.P, compact.c, compact.constant)

    def solve(
        self, low: Array, high: Array, warm: Any = None, cutoff: float = np.inf
    ) -> NodeAnswer:
        """See the abstract method; neither ``warm`` nor ``cutoff`` is used."""
        del warm, cutoff
        compact = self._compact
        n = self._compact.count
        least = low[n:]
        most = high[n:]
        above = np.isfinite(most)
        below = np.isfinite(least) & (least < most)
        equality = np.concatenate([(least == most)[above], np.zeros(int(below.sum()), bool)])
        rows = Rows(
            sp.csr_array(sp.vstack([compact.A[above], -compact.A[below]])),
            np.concatenate([most[above], -least[below]]),
            equality,
            NO_PRODUCTS,
            ("row",) * len(equality),
        )
        program = Program(
            tuple(f"v{i}" for i in range(n)),
            low[:n],
            high[:n],
            np.zeros(n, bool),
            self._objective,
            rows,
        )
        try:
            raw = Clarabel().solve(program, Limits())
        except BackendError:
            return NodeAnswer(Termination.NUMERICAL)
        if raw.v is None or raw.termination is not Termination.OPTIMAL:
            return NodeAnswer(raw.termination)
        return NodeAnswer(raw.termination, np.concatenate([raw.v, compact.A @ raw.v]), raw.bound)
