"""Valid inequalities that join a linear follower's response and its multipliers at the root."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from bilevel import backends
from bilevel.problem.functions import NO_PRODUCTS, Array, Objective, Rows
from bilevel.problem.sparse import widen
from bilevel.problem.standard import FollowerForm, StandardForm
from bilevel.program import Limits, Program, Termination

# Products of multipliers and others' columns; beyond this the linear program costs too much.
_LARGEST = 2000
# Weights below this, and residuals of equations above it, are relative to the largest entry.
_TINY = 1e-12


@dataclass(frozen=True)
class LinearFollower:
    r"""The parts of ``min {d'y : C x + B y <= b (or ==)}``, its others' columns in a box.

    Parameters
    ----------
    own, linking
        Columns of ``y`` and of ``x``, those of others that occur in the rows.
    B, C, b, equality
        The rows.
    d
        The cost.
    low, high
        Bounds of ``x``.
    """

    own: Array
    linking: Array
    B: Array
    C: Array
    b: Array
    equality: Array
    d: Array
    low: Array
    high: Array

    @staticmethod
    def of(form: StandardForm, follower: FollowerForm) -> LinearFollower | None:
        """Return a follower's parts, or ``None`` where it is not of this kind."""
        own = follower.columns
        rows = follower.rows
        if not follower.is_linear or rows.products.row.size or follower.objective.P[own].nnz:
            return None
        others = np.ones(form.n, bool)
        others[own] = False
        touched = np.zeros(form.n, bool)
        touched[rows.A.indices] = True
        linking = np.flatnonzero(others & touched)
        low = form.columns.lower[linking]
        high = form.columns.upper[linking]
        if not len(linking) or not (np.isfinite(low) & np.isfinite(high)).all():
            return None
        B = rows.A[:, own].toarray()
        C = rows.A[:, linking].toarray()
        d = follower.objective.c[own]
        return LinearFollower(own, linking, B, C, rows.b, rows.equality, d, low, high)

    def row(self, weights: Array, multipliers: Array, n: int) -> Rows | None:
        r"""Return the inequality of weights ``a``, shape ``(ny, nx)``; ``None`` if it has none.

        Strong duality plus ``x_j`` times ``a_j'(B'lam + d) = 0`` is

            d'y + lam'b - sum_ij V_ij lam_i x_j - sum_j (d'a_j) x_j = 0      V = C + B a

        and ``V_ij x_j <= phi_ij``, its largest value over the bounds of ``x_j``, so that

            d'y + lam'(b - sum_j phi_j) - sum_j (d'a_j) x_j <= 0

        Rows that are equations have multipliers of any sign: their ``V`` must vanish.
        """
        V = self.C + self.B @ weights
        size = max(1.0, float(np.abs(self.C).max()), float(np.abs(weights).max(initial=0.0)))
        if np.abs(V[self.equality]).max(initial=0.0) > _TINY * size:
            return None
        phi = np.where(V > 0, V * self.high, V * self.low).sum(axis=1)
        linear = np.zeros(n)
        linear[self.own] = self.d
        linear[self.linking] -= self.d @ weights
        linear[multipliers] += self.b - np.where(self.equality, 0.0, phi)
        A = sp.csr_array(linear[None, :] / max(1.0, float(np.abs(linear).max())))
        return Rows(A, np.zeros(1), np.zeros(1, bool), NO_PRODUCTS, ("primal-dual",))


def root_inequalities(
    form: StandardForm, k: int, multipliers: Array, program: Program
) -> tuple[Rows, ...]:
    r"""Return the primal-dual inequality of follower ``k`` and the strongest of its kin, if any.

    With all weights zero ``LinearFollower.row`` is the inequality of Kleinert et al.,

        d'y + lam'(b - chi) <= 0        chi_i = max of (C x)_i over the leader's box

    without which the relaxation's multipliers have no influence on its response before pairs are
    decided. The best weights for the leader's objective are multipliers of one linear program, in
    which ``W_ij`` stands for ``lam_i x_j``:

        B'W_j + d x_j = 0     low_j lam <= W_j <= high_j lam     d'y + lam'b = sum_ij C_ij W_ij

    Parameters
    ----------
    form
        The problem.
    k
        Index of the follower.
    multipliers
        Columns of its multipliers.
    program
        The optimality conditions, without pairs' sets a relaxation of the problem.

    Notes
    -----
    There are none for followers with a quadratic objective, products with other columns, or where
    the box is not finite; the second needs a linear leader and at most 2000 products ``W``.

    References
    ----------
    Kleinert, Labbe, Plein and Schmidt (2021), *Optimization Letters* 15; the products are the first
    level of Sherali and Adams (1990), *SIAM Journal on Discrete Mathematics* 3.
    """
    parts = LinearFollower.of(form, form.followers[k])
    if parts is None:
        return ()
    zero = parts.row(np.zeros((len(parts.own), len(parts.linking))), multipliers, program.n)
    found = [] if zero is None else [zero]
    if not program.objective.P.nnz and parts.C.size <= _LARGEST:
        weights = _best_weights(parts, multipliers, program)
        best = None if weights is None else parts.row(weights, multipliers, program.n)
        found += [] if best is None else [best]
    return tuple(found)


def _best_weights(parts: LinearFollower, multipliers: Array, program: Program) -> Array | None:
    """Return weights that prove the bound of the linear program, or ``None`` if zero is best."""
    lifted, places, duality = _lifted(parts, multipliers, program)
    raw = backends.get("highs").solve(lifted, Limits())
    if raw.termination is not Termination.OPTIMAL or raw.duals is None:
        return None
    scale = raw.duals[duality]
    weights = raw.duals[places].reshape(len(parts.own), len(parts.linking))
    if abs(scale) <= _TINY or np.abs(weights).max() <= 1e-9 * abs(scale):
        return None
    weights = -weights / scale
    equations = parts.equality
    if equations.any():
        # The solver's tolerance is taken off: there V must vanish.
        E = parts.B[equations]
        weights = weights - np.linalg.pinv(E) @ (parts.C[equations] + E @ weights)
    return weights


def _lifted(
    parts: LinearFollower, multipliers: Array, program: Program
) -> tuple[Program, Array, int]:
    """Return the linear program in ``U = W - low lam``, and where its two kinds of rows are."""
    m, nx = parts.C.shape
    n = program.n
    count = m * nx
    names = (*program.names, *(f"U{i}" for i in range(count)))
    sign = np.repeat(parts.equality, nx)
    every = np.eye(nx)
    # B'U_j + d (x_j - low_j) = 0, ordered by the follower's columns, then by x
    shift = np.zeros((len(parts.own) * nx, n))
    shift[:, parts.linking] = np.kron(parts.d[:, None], every)
    stationary = sp.hstack([sp.csr_array(shift), sp.kron(sp.csr_array(parts.B.T), every)])
    # U_ij <= (high_j - low_j) lam_i for inequalities
    kept = np.flatnonzero(~sign)
    width = np.tile(parts.high - parts.low, m)
    above = sp.coo_array(
        (
            np.concatenate([np.ones(len(kept)), -width[kept]]),
            (
                np.tile(np.arange(len(kept)), 2),
                np.concatenate([n + kept, np.repeat(multipliers, nx)[kept]]),
            ),
        ),
        shape=(len(kept), n + count),
    )
    dual = np.zeros(n + count)
    dual[parts.own] = parts.d
    dual[multipliers] += parts.b - parts.C @ parts.low
    dual[n:] = -parts.C.ravel()
    A = sp.csr_array(
        sp.vstack([widen(program.rows.A, n + count), stationary, above, dual[None, :]])
    )
    first = len(program.rows)
    second = len(parts.own) * nx
    b = np.concatenate(
        [program.rows.b, np.kron(parts.d, parts.low), np.zeros(len(kept)), np.zeros(1)]
    )
    equality = np.concatenate(
        [program.rows.equality, np.ones(second, bool), np.zeros(len(kept), bool), [True]]
    )
    rows = Rows(A, b, equality, NO_PRODUCTS, ("row",) * len(b))
    lifted = replace(
        program,
        names=names,
        lower=np.concatenate([program.lower, np.where(sign, -np.inf, 0.0)]),
        upper=np.concatenate([program.upper, np.full(count, np.inf)]),
        integer=np.zeros(n + count, bool),
        objective=Objective(
            sp.csr_array((n + count, n + count)),
            np.concatenate([program.objective.c, np.zeros(count)]),
        ),
        rows=rows,
        sos1=(),
        recipes=(),
    )
    return lifted, first + np.arange(second), len(b) - 1
