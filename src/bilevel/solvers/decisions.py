"""The leader's integer decisions that a search has met: each is judged exactly, once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from bilevel.problem.functions import NO_PRODUCTS, Array, Rows
from bilevel.problem.standard import LEADER, StandardForm
from bilevel.program import Progress, Termination
from bilevel.reformulate.reformulation import Reformulated
from bilevel.reformulate.tangents import Outer
from bilevel.response.response import best_completion
from bilevel.solvers.solver import Recorder, Request

# How far a square may be missed by a relaxation's point, and by a candidate.
_LOOSE = 1e-4
_CLOSE = 1e-6
# By how much a coupling row may be missed: a tenth of what a certificate admits.
_MISSED = 1e-7


class Decisions:
    """Rows for a search over ``max(F, floor)``, from exact responses to the decisions it meets.

    A decision is excluded as soon as it is judged, and a row asks for a better value than the best
    one known. So a search has no feasible point in the end, and that is the proof.

    Parameters
    ----------
    form
        The problem, whose linking columns of the leader are bounded integers.
    reformed
        Its strong-duality program.
    shape
        The same with squares, and a last column for ``max(F, floor)``.
    request
        Says how much better is better.
    recorder
        Told about progress.
    """

    def __init__(
        self,
        form: StandardForm,
        reformed: Reformulated,
        shape: Outer,
        request: Request,
        recorder: Recorder,
    ) -> None:
        self._form = form
        self._shape = shape
        self._request = request
        self._recorder = recorder
        self._linking = np.flatnonzero(form.linking_mask & (form.columns.owner == LEADER))
        self._bits = reformed.bits
        self._excluded: dict[tuple[float, ...], Rows] = {}
        self._found: dict[str, Rows] = {}
        self.best: Array | None = None
        self.undecided = False
        self.is_unbounded = False

    @property
    def value(self) -> float:
        """The best value known, infinite if there is none."""
        return np.inf if self.best is None else self._form.objective.evaluate(self.best)

    @property
    def cutoff(self) -> float:
        """What every other decision must come below to be of interest."""
        tolerance = self._request.atol + self._request.rtol * max(1.0, abs(self.value))
        return self.value - 0.5 * tolerance

    def __call__(self, v: Array, is_candidate: bool) -> Rows:
        """Return rows that a point of the search violates; see ``Program.cuts``."""
        shape = self._shape
        short = shape.violated(v, _CLOSE if is_candidate else _LOOSE)
        rows = shape.tangents(v, short)
        if not is_candidate:
            return rows
        return self._keep(Rows.stack(rows, self.consider(v[: self._form.n])))

    def consider(self, w: Array) -> Rows:
        """Judge the decision of a point unless it is known; return rows that exclude it."""
        form = self._form
        key = tuple(np.round(w[self._linking]))
        if key in self._excluded:
            return self._excluded[key]
        w = w.copy()
        w[self._linking] = key
        ended, best = best_completion(form, w, np.zeros(form.n, bool), _MISSED)
        self.is_unbounded |= ended is Termination.UNBOUNDED
        self.undecided |= ended not in (
            Termination.OPTIMAL,
            Termination.INFEASIBLE,
            Termination.UNBOUNDED,
        )
        parts = [self._exclusion(key)]
        if best is not None:
            shape = self._shape
            parts.append(shape.tangents(shape.at(best), np.ones(len(shape.base), bool)))
            if form.objective.evaluate(best) < self.value:
                self.best = best
                parts.append(self._below(self.cutoff))
        if self.is_unbounded:
            parts.append(self._below(shape_floor(self._shape) - 1.0))
        self._excluded[key] = parts[0]
        return self._keep(Rows.stack(*parts))

    def with_found(self, rows: Rows) -> Rows:
        """Return rows and below them all that were found so far, and have not been taken yet."""
        found = list(self._found.values())
        self._found = {}
        return Rows.stack(rows, *found)

    def progress(self, moment: Progress) -> bool | None:
        """Tell the recorder; the search itself has no incumbent."""
        value = None if self.best is None else self.value
        bound = moment.bound
        if bound is not None and value is not None:
            bound = min(bound, value)
        return self._recorder(replace(moment, incumbent=value, bound=bound))

    def _keep(self, rows: Rows) -> Rows:
        names = np.array(rows.names)
        self._found |= {name: rows.take(names == name) for name in rows.names}
        return rows

    def _exclusion(self, key: tuple[float, ...]) -> Rows:
        """Return the row that at least one binary of the decision must change."""
        columns = []
        values = []
        for c, x in zip(self._linking.tolist(), key, strict=True):
            if c in self._bits:
                bits = self._bits[c]
                offset = round(x - self._bits[c].low)
                columns += [b for _, b in bits.parts]
                values += [offset >> p & 1 for p in range(len(bits.parts))]
            elif self._form.columns.lower[c] < self._form.columns.upper[c]:
                columns.append(c)
                values.append(round(x))
        if not columns:
            return self._below(shape_floor(self._shape) - 1.0)
        signs = np.where(np.array(values) > 0, 1.0, -1.0)
        name = f"not[{','.join(f'{x:g}' for x in key)}]"
        return _row(columns, signs, float(sum(values)) - 1.0, self._shape.program.n, name)

    def _below(self, value: float) -> Rows:
        n = self._shape.program.n
        return _row([n - 1], np.ones(1), value, n, f"below[{value:.17g}]")


def shape_floor(shape: Outer) -> float:
    """Return the floor of a program's last column."""
    return float(shape.program.lower[-1])


def _row(columns: list[int], values: Array, rhs: float, n: int, name: str) -> Rows:
    A = sp.csr_array((values, (np.zeros(len(columns), int), columns)), shape=(1, n))
    return Rows(A, np.array([rhs]), np.zeros(1, bool), NO_PRODUCTS, (name,))
