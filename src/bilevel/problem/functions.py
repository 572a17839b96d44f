"""Polynomial functions of all columns of a bilevel problem, kept as sparse arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from bilevel.problem.cones import Cone, Kind
from bilevel.problem.monomials import NO_CUBIC, NO_PRODUCTS, Array, Monomials, split_once
from bilevel.problem.sparse import widen

__all__ = ["NO_CUBIC", "NO_PRODUCTS", "Array", "Cone", "Kind", "Monomials", "Objective", "Rows"]

# A row with a smaller norm is empty.
_EMPTY = 1e-12
#: An eigenvalue this far below zero, relative to the largest entry, is taken for rounding.
NEARLY = 1e-9


@dataclass(frozen=True)
class Rows:
    r"""Constraint functions ``g(w) = A w + products - b``, each ``<= 0`` or ``== 0``.

    Parameters
    ----------
    A
        Linear part, shape ``(m, n)``.
    b
        Right-hand side, shape ``(m,)``.
    equality
        Whether a row is an equation, shape ``(m,)``.
    products
        Terms of degree two.
    names
        One readable name per row.
    """

    A: sp.csr_array
    b: Array
    equality: Array
    products: Monomials
    names: tuple[str, ...]

    @classmethod
    def empty(cls, n: int) -> Rows:
        """Return no rows over ``n`` columns."""
        none = np.empty(0)
        return cls(sp.csr_array((0, n)), none, none.astype(bool), NO_PRODUCTS, ())

    @classmethod
    def stack(cls, *parts: Rows) -> Rows:
        """Put the rows of several records below each other."""
        parts = tuple(part for part in parts if len(part)) or parts[:1]
        if len(parts) == 1:
            return parts[0]
        offsets = np.cumsum([0] + [len(part) for part in parts])
        shifted = [(o, p.products) for o, p in zip(offsets, parts, strict=False)]
        return cls(
            sp.csr_array(sp.vstack([p.A for p in parts])),
            np.concatenate([p.b for p in parts]),
            np.concatenate([p.equality for p in parts]),
            Monomials(
                np.concatenate([m.row + o for o, m in shifted]),
                np.concatenate([m.factors for _, m in shifted]),
                np.concatenate([m.value for _, m in shifted]),
            ),
            sum((p.names for p in parts), ()),
        )

    def __len__(self) -> int:
        return len(self.b)

    def take(self, mask: Array) -> Rows:
        """Keep the rows of a boolean mask, shape ``(m,)``."""
        if mask.all():
            return self
        names = tuple(name for name, keep in zip(self.names, mask, strict=True) if keep)
        products = self.products.take(mask) if self.products.row.size else self.products
        return Rows(self.A[mask], self.b[mask], self.equality[mask], products, names)

    def evaluate(self, w: Array) -> Array:
        """Return ``g(w)``, shape ``(m,)``."""
        value = self.A @ w - self.b
        if self.products.row.size:
            value += self.products.evaluate(w, len(self))
        return value

    def violation(self, w: Array) -> Array:
        """Return each row's violation at ``w``, rows scaled to unit norm, shape ``(m,)``."""
        value = self.evaluate(w)
        scale = self._scale(w)
        return np.where(self.equality, np.abs(value), np.maximum(value, 0.0)) / scale

    def touches(self, columns: Array) -> Array:
        """Return which rows contain one of ``columns`` (boolean mask ``(n,)``), shape ``(m,)``."""
        touched = abs(self.A) @ columns.astype(float) > 0
        hit = columns[self.products.factors].any(axis=1) if self.products.row.size else []
        touched[self.products.row[hit]] = True
        return touched

    def project(self, free: Array, w: Array) -> Rows:
        """Return the rows over the columns ``free`` only, all others fixed at ``w``."""
        position = _positions(free, len(w))
        fixed = w.copy()
        fixed[free] = 0.0
        A = sp.csr_array(self.A[:, free])
        rhs = self.b - self.A @ fixed
        terms = self.products
        if not terms.row.size:
            return replace(self, A=A, b=rhs)
        inside = position[terms.factors] >= 0
        count = inside.sum(axis=1)
        constant = terms.value[count == 0] * w[terms.factors[count == 0]].prod(axis=1)
        rhs = rhs - np.bincount(terms.row[count == 0], constant, len(self))
        row, column, value = split_once(terms, inside, w)
        A = sp.csr_array(A + sp.coo_array((value, (row, position[column])), shape=A.shape))
        both = count == 2
        kept = Monomials(terms.row[both], position[terms.factors[both]], terms.value[both])
        return Rows(A, rhs, self.equality, kept, self.names)

    def unit(self) -> tuple[Rows, Array]:
        """Return the rows with linear parts of unit norm, and the factors, shape ``(m,)``."""
        norm = np.sqrt(np.asarray(self.A.power(2).sum(axis=1)).ravel())
        factor = 1.0 / np.where(norm > _EMPTY, norm, 1.0)
        A = self.A.copy()
        A.data = A.data * np.repeat(factor, np.diff(A.indptr))
        unit = replace(self, A=A, b=self.b * factor)
        terms = self.products
        if terms.row.size:
            products = replace(terms, value=terms.value * factor[terms.row])
            unit = replace(unit, products=products)
        return unit, factor

    def relaxed(self, tolerance: float) -> Rows:
        """Return rows of unit norm that may be missed by a tolerance, each equation as two rows."""
        rows, _ = self.unit()
        turned = rows.take(rows.equality)
        terms = replace(turned.products, value=-turned.products.value)
        turned = replace(turned, A=-turned.A, b=-turned.b, products=terms)
        both = Rows.stack(rows, turned)
        return replace(both, b=both.b + tolerance, equality=np.zeros(len(both), bool))

    def pad(self, n: int) -> Rows:
        """Return the same rows over ``n`` columns, the new ones with zero coefficients."""
        return replace(self, A=widen(self.A, n))

    def _scale(self, w: Array) -> Array:
        squares = np.asarray(self.A.power(2).sum(axis=1)).ravel()
        if self.products.row.size:
            for factor in range(2):
                slope = self.products.value * w[self.products.factors[:, 1 - factor]]
                squares = squares + np.bincount(self.products.row, slope**2, len(self))
        norm = np.sqrt(squares)
        return np.where(norm > _EMPTY, norm, 1.0)


@dataclass(frozen=True)
class Objective:
    r"""A function ``f(w) = w'Pw/2 + c'w + constant + cubic terms``, always minimised.

    Parameters
    ----------
    P
        Symmetric matrix, shape ``(n, n)``.
    c
        Linear part, shape ``(n,)``.
    constant
        Constant part.
    cubic
        Terms of degree three (a leader variable scaling a follower's quadratic).
    maximize
        Whether the user maximizes ``-f``; values are reported in the user's sense.
    """

    P: sp.csr_array
    c: Array
    constant: float = 0.0
    cubic: Monomials = NO_CUBIC
    maximize: bool = False

    @property
    def sign(self) -> float:
        """Factor between ``f`` and the value in the user's sense."""
        return -1.0 if self.maximize else 1.0

    @cached_property
    def is_linear(self) -> bool:
        """Whether ``f`` is affine."""
        return self.P.nnz == 0 and not self.cubic.row.size

    @cached_property
    def curvature(self) -> float:
        """Smallest eigenvalue of ``P`` relative to its largest entry; zero if none is negative."""
        used = np.flatnonzero(np.diff(self.P.indptr))
        if not len(used):
            return 0.0
        dense = self.P[used][:, used].toarray()
        dense /= abs(dense).max()
        try:
            # A factorization is cheaper than the eigenvalues and mostly suffices.
            np.linalg.cholesky(dense + NEARLY * np.eye(len(used)))
            return 0.0
        except np.linalg.LinAlgError:
            return float(np.linalg.eigvalsh(dense)[0])

    def evaluate(self, w: Array) -> float:
        """Return ``f(w)`` (minimisation sense)."""
        quadratic = 0.5 * float(w @ (self.P @ w)) if self.P.nnz else 0.0
        cubic = float(self.cubic.evaluate(w, 1)[0]) if self.cubic.row.size else 0.0
        return quadratic + float(self.c @ w) + self.constant + cubic

    def size(self, w: Array) -> float:
        """Return the sum of the sizes of all terms of ``f`` at ``w``, which may cancel."""
        v = abs(w)
        quadratic = 0.5 * float(v @ (abs(self.P) @ v)) if self.P.nnz else 0.0
        cubic = replace(self.cubic, value=abs(self.cubic.value))
        return quadratic + float(abs(self.c) @ v) + float(cubic.evaluate(v, 1)[0])

    def project(self, free: Array, w: Array) -> Objective:
        """Return ``f`` over the columns ``free`` only, all others fixed at ``w``.

        Terms with three factors in ``free`` must not exist.
        """
        fixed = w.copy()
        fixed[free] = 0.0
        P = sp.csr_array(self.P[free][:, free])
        c = self.c[free] + (self.P @ fixed)[free]
        constant = self.evaluate(fixed)
        if self.cubic.row.size:
            position = _positions(free, len(w))
            inside = position[self.cubic.factors] >= 0
            _, column, value = split_once(self.cubic, inside, w)
            np.add.at(c, position[column], value)
            twice = inside.sum(axis=1) == 2
            factors = self.cubic.factors[twice]
            kept = inside[twice]
            pair = position[factors[kept].reshape(-1, 2)]
            value = self.cubic.value[twice] * w[factors[~kept]]
            half = sp.coo_array((value, (pair[:, 0], pair[:, 1])), shape=P.shape)
            P = sp.csr_array(P + half + half.T)
        return Objective(P, c, constant, maximize=self.maximize)

    def pad(self, n: int) -> Objective:
        """Return the same function over ``n`` columns."""
        more = n - len(self.c)
        start = np.concatenate([self.P.indptr, np.repeat(self.P.indptr[-1:], more)])
        square = sp.csr_array((self.P.data, self.P.indices, start), shape=(n, n))
        padded = replace(self, P=square, c=np.concatenate([self.c, np.zeros(more)]))
        if "curvature" in vars(self):
            vars(padded)["curvature"] = self.curvature
        return padded


def _positions(own: Array, n: int) -> Array:
    position = np.full(n, -1)
    position[own] = np.arange(len(own))
    return position
