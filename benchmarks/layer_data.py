"""Random quadratic programs for layers, and the exact gradients of their answers.

The reference knows nothing of the library: an interior-point answer names the active rows, a dense
system of their equations is solved and refined in extended precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import clarabel
import numpy as np
import scipy.sparse as sp

Array = np.ndarray

#: An instance is called degenerate where a change of this size, relative, may change which rows
#: are active.
DEGENERATE = 1e-6
#: A gradient that is further off must be flagged.
ASKED_ERROR = 1e-6
#: A gradient that is further off is called wrong, whoever gives it.
WRONG_ERROR = 1e-3
_TIGHT = 1e-12


@dataclass(frozen=True, eq=False)
class Programs:
    """A batch of ``min y'P y/2 + q'y : A y = b, G y <= h`` and weights ``w`` of a loss ``w'y``."""

    P: Array
    q: Array
    A: Array
    b: Array
    G: Array
    h: Array
    w: Array

    @classmethod
    def draw(cls, n: int, batch: int, seed: int) -> Programs:
        """Return feasible programs with ``n`` inequalities and ``n / 5`` equations."""
        rng, p = np.random.default_rng([n, batch, seed]), n // 5
        root = rng.normal(size=(batch, n, n)) / np.sqrt(n)
        A, G = rng.normal(size=(batch, p, n)), rng.normal(size=(batch, n, n))
        inside = rng.normal(size=(batch, n, 1))
        return cls(
            root @ root.swapaxes(1, 2) + 0.1 * np.eye(n),
            rng.normal(size=(batch, n)),
            A,
            (A @ inside)[..., 0],
            G,
            (G @ inside)[..., 0] + abs(rng.normal(size=(batch, n))),
            rng.normal(size=(batch, n)),
        )

    @property
    def data(self) -> tuple[Array, ...]:
        """What a layer takes."""
        return self.P, self.q, self.A, self.b, self.G, self.h

    @property
    def through_roots(self) -> tuple[Array, ...]:
        """What a layer takes that knows ``P`` by its root."""
        return self.roots, *self.data[1:]

    @property
    def roots(self) -> Array:
        """Upper triangular ``U`` with ``P = U'U``."""
        return np.ascontiguousarray(np.linalg.cholesky(self.P).swapaxes(1, 2))

    def __len__(self) -> int:
        return len(self.q)

    def head(self, count: int) -> Programs:
        """Return the first programs."""
        return Programs(*(part[:count] for part in (*self.data, self.w)))

    @cached_property
    def reference(self) -> Reference:
        """Answers and gradients, exact but for the last digits."""
        return solve(self, _active_rows(self))


@dataclass(frozen=True, eq=False)
class Reference:
    """Exact responses of a batch.

    ``margin`` is the smallest of ``max(slack, multiplier)`` over the inequalities, on rows of unit
    norm, relative to the answer and to the objective's gradient; ``gradients`` are those of ``w'y``
    in the order of ``Programs.data``.
    """

    y: Array
    z: Array
    active: Array
    margin: Array
    gradients: tuple[Array, ...]

    @property
    def is_degenerate(self) -> Array:
        return self.margin <= DEGENERATE

    def errors(self, gradients: Sequence[Array], roots: Array | None = None) -> Array:
        """Return each instance's error over all its data, relative, in the Euclidean norm.

        The gradient of a symmetric matrix counts by its symmetric part; with ``roots`` the first
        one is that of ``U``. Fewer instances than there are may be given.
        """
        first, *rest = gradients
        P, *others = (part[: len(first)] for part in self.gradients)
        if roots is None:
            first = (first + first.swapaxes(1, 2)) / 2
        else:
            P = 2 * roots[: len(first)] @ P
        off = [g - r for g, r in zip((first, *rest), (P, *others), strict=True)]
        return _norm(off) / _norm([P, *others])


def flags(report: Any) -> Array | None:
    """Return which gradients a layer's report warns of; ``None`` without a report."""
    if report is None:
        return None
    kinds = np.array([not kind.is_exact for kind in report.kind])
    return kinds | (report.margin.numpy() <= DEGENERATE)


def judge_gradients(
    errors: Array, degenerate: Array, flagged: Array | None
) -> tuple[str, dict[str, Any]]:
    """Return the outcome of a batch of gradients and its figures.

    Excused are gradients that are flagged, without a report the degenerate ones. An error that is
    no number counts as infinite.
    """
    errors = np.where(np.isfinite(errors), errors, np.inf)
    excused = degenerate if flagged is None else flagged
    wrong = int((errors[~excused] > WRONG_ERROR).sum())
    extra = {
        "instances": len(errors),
        "median_error": float(np.median(errors)),
        "largest_error": float(errors[~degenerate].max(initial=0.0)),
        "wrong": wrong,
        "degenerate": int(degenerate.sum()),
    }
    if flagged is not None:
        above = errors > ASKED_ERROR
        extra["flagged"] = int(flagged.sum())
        extra["above"] = int(above.sum())
        extra["above_unflagged"] = int((above & ~flagged).sum())
    return "wrong" if wrong else "solved", extra


def tighten(programs: Programs, seed: int) -> Programs:
    """Return programs with the same answers, each close to a change of its active rows.

    An inactive row is moved to within 1e-4 to 1e-15 of the answer, or, in every second program, the
    multiplier of an active one is made that small. A solver's digits may not tell on which side it
    is; the reference knows.
    """
    found, every = programs.reference, np.arange(len(programs))
    active, size = found.active, 10.0 ** -np.random.default_rng(seed).uniform(4, 15, len(programs))
    slack = programs.h - (programs.G @ found.y[..., None])[..., 0]
    q, h = programs.q.copy(), programs.h.copy()
    is_forced = (every % 2 == 1) & active.any(-1)
    k = np.flatnonzero(is_forced)
    row = np.where(active, found.z, np.inf).argmin(-1)[k]
    q[k] += programs.G[k, row] * (found.z[k, row] - size[k])[:, None]
    k = np.flatnonzero(~is_forced & ~active.all(-1))
    row = np.where(active, np.inf, slack).argmin(-1)[k]
    h[k, row] += size[k] - slack[k, row]
    tight = replace(programs, q=q, h=h)
    tight.__dict__["reference"] = solve(tight, active)
    return tight


def solve(programs: Programs, active: Array) -> Reference:
    """Return the answers whose active inequalities are known.

    Raises
    ------
    ArithmeticError
        If the optimality conditions fail there.
    """
    P, q, A, b, G, h = programs.data
    (count, n), p, m = q.shape, b.shape[1], h.shape[1]
    rows = G * active[..., None]
    off = np.where(active, 0.0, 1.0)[..., None] * np.eye(m)
    K = np.concatenate(
        [
            np.concatenate([P, A.swapaxes(1, 2), rows.swapaxes(1, 2)], -1),
            np.concatenate([A, np.zeros((count, p, p + m))], -1),
            np.concatenate([rows, np.zeros((count, m, p)), off], -1),
        ],
        1,
    )
    point = _solve_refined(K, np.concatenate([-q, b, h * active], -1))
    adjoint = _solve_refined(K, np.concatenate([programs.w, np.zeros_like(point[:, n:])], -1))
    (y, nu, z), (dy, dnu, dz) = (
        np.split(vector, (n, n + p), axis=-1) for vector in (point, adjoint)
    )
    norm = np.linalg.norm(G, axis=-1)
    slack = (h - (G @ y[..., None])[..., 0]) / norm / (1 + abs(y).max(-1, keepdims=True))
    force = z * norm / (1 + abs(q).max(-1, keepdims=True))
    inactive, forced = np.where(active, 0.0, slack), np.where(active, force, 0.0)
    if min(inactive.min(), forced.min()) < -_TIGHT:
        raise ArithmeticError("The reference's active rows are not those of the optimum.")
    gradients = (
        -(_outer(dy, y) + _outer(y, dy)) / 2,
        -dy,
        -(_outer(nu, dy) + _outer(dnu, y)),
        dnu,
        -(_outer(z, dy) + _outer(dz, y)),
        dz,
    )
    return Reference(y, z, active, np.where(active, forced, inactive).min(-1), gradients)


def _solve_refined(K: Array, rhs: Array) -> Array:
    x = np.zeros(rhs.shape, np.longdouble)
    for _ in range(4):
        residual = rhs - (K.astype(np.longdouble) @ x[..., None])[..., 0]
        x += np.linalg.solve(K, residual.astype(float)[..., None])[..., 0]
    return x.astype(float)


def _active_rows(programs: Programs) -> Array:
    """Return which inequalities are active, by Clarabel."""
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    found = []
    for P, q, A, b, G, h in zip(*programs.data, strict=True):
        cones = [clarabel.ZeroConeT(len(b)), clarabel.NonnegativeConeT(len(h))]
        matrices = sp.csc_array(np.triu(P)), q, sp.csc_array(np.vstack([A, G])), np.append(b, h)
        answer = clarabel.DefaultSolver(*matrices, cones, settings).solve()
        norm = np.linalg.norm(G, axis=-1)
        slack, force = np.array(answer.s[len(b) :]) / norm, np.array(answer.z[len(b) :]) * norm
        found.append(force > slack)
    return np.array(found)


def _outer(left: Array, right: Array) -> Array:
    return left[..., None] * right[:, None, :]


def _norm(parts: Sequence[Array]) -> Array:
    return np.sqrt(sum((part**2).reshape(len(part), -1).sum(-1) for part in parts))
