"""Logistic regressions with one penalty weight per feature, solved, with certified hypergradients.

.. code-block:: text

    minimize over x      mean(log(1 + exp(-v_j'w)))                          on held-out rows
    where w minimizes    mean(log(1 + exp(-a_i'w))) + sum_j exp(x_j) w_j^2 / 2

A row is a label times its features. What is here uses NumPy and SciPy alone and no derivative of
the library: closed forms, Newton's method, and conjugate gradients with refinement.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, cg
from scipy.special import expit

#: Entries of a sparse row that are not zero.
NONZEROS = 20

Matrix = sparse.csr_array | np.ndarray
Product = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Shape:
    """How many weights and training rows; half as many rows are held out."""

    d: int
    rows: int
    is_dense: bool = False

    @property
    def name(self) -> str:
        kind = "dense" if self.is_dense else "sparse"
        return f"d = {self.d:,}, {kind}"


@dataclass(frozen=True, eq=False)
class Regression:
    """A regression, its solution and its hypergradient.

    Parameters
    ----------
    shape
        Its size.
    A, V
        Training rows and held-out rows.
    x, w
        Logarithms of the penalty weights, and the weights that are optimal for them.
    residual
        Norm of the inner gradient at ``w``.
    seconds
        What finding ``w`` took.
    """

    shape: Shape
    A: Matrix
    V: Matrix
    x: np.ndarray
    w: np.ndarray
    residual: float
    seconds: float

    @classmethod
    def draw(cls, shape: Shape, seed: int = 0) -> Regression:
        """Return a random regression; the penalties differ by a factor of ``e`` or so."""
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=shape.d)
        A, V = (_rows(shape, count, truth, rng) for count in (shape.rows, shape.rows // 2))
        x = rng.normal(size=shape.d) - np.log(shape.rows)
        began = time.perf_counter()
        w, residual = _solve(A, np.exp(x))
        return cls(shape, A, V, x, w, residual, time.perf_counter() - began)

    @cached_property
    def penalty(self) -> np.ndarray:
        """The penalty weights ``exp(x)``."""
        return np.exp(self.x)

    @cached_property
    def curvature(self) -> np.ndarray:
        """The second derivative of each training row's loss, over their number."""
        return _curvature(self.A, self.w)

    @cached_property
    def diagonal(self) -> np.ndarray:
        """The diagonal of the inner Hessian."""
        return _diagonal(self.A, self.curvature, self.penalty)

    @cached_property
    def slope(self) -> np.ndarray:
        """The gradient of the held-out loss in ``w``."""
        return -(self.V.T @ expit(-(self.V @ self.w))) / self.V.shape[0]

    def product(self, v: np.ndarray) -> np.ndarray:
        """Return the inner Hessian times a vector."""
        return self.A.T @ (self.curvature * (self.A @ v)) + self.penalty * v

    @cached_property
    def adjoint(self) -> np.ndarray:
        """The solution of ``H q = -slope``, by conjugate gradients, refined until exact."""
        return _exact(self.product, -self.slope, self.diagonal)

    @cached_property
    def hypergradient(self) -> np.ndarray:
        """The gradient of the held-out loss in ``x``."""
        return self.adjoint * self.penalty * self.w

    @cached_property
    def bound(self) -> float:
        """A bound on the hypergradient's relative error: ``H`` is at least the least penalty."""
        rest = np.linalg.norm(self.product(self.adjoint) + self.slope) / self.penalty.min()
        most = abs(self.penalty * self.w).max()
        return float(most * rest / np.linalg.norm(self.hypergradient))

    def error(self, found: np.ndarray) -> float:
        """Return the relative error of a hypergradient."""
        true = self.hypergradient
        return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def _rows(shape: Shape, count: int, truth: np.ndarray, rng: np.random.Generator) -> Matrix:
    if shape.is_dense:
        features: Matrix = rng.normal(size=(count, shape.d)) / np.sqrt(shape.d / NONZEROS)
    else:
        places = rng.integers(0, shape.d, size=count * NONZEROS)
        starts = np.arange(0, count * NONZEROS + 1, NONZEROS)
        entries = rng.normal(size=count * NONZEROS)
        features = sparse.csr_array((entries, places, starts), (count, shape.d))
        features.sum_duplicates()
    labels = np.sign(features @ truth + rng.normal(size=count))
    return labels[:, None] * features if shape.is_dense else sparse.diags_array(labels) @ features


def _curvature(A: Matrix, w: np.ndarray) -> np.ndarray:
    share = expit(-(A @ w))
    return share * (1 - share) / A.shape[0]


def _diagonal(A: Matrix, curvature: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    square = A.multiply(A).T if sparse.issparse(A) else (A * A).T
    return square @ curvature + penalty


def _solve(A: Matrix, penalty: np.ndarray) -> tuple[np.ndarray, float]:
    """Newton's method; the steps are halved until the loss falls."""
    w, count = np.zeros(A.shape[1]), A.shape[0]

    def loss(w: np.ndarray) -> float:
        return np.logaddexp(0, -(A @ w)).mean() + (penalty * w * w).sum() / 2

    def gradient(w: np.ndarray) -> np.ndarray:
        return -(A.T @ expit(-(A @ w))) / count + penalty * w

    first = np.linalg.norm(gradient(w))
    for _ in range(50):
        g = gradient(w)
        if np.linalg.norm(g) <= 1e-13 * first:
            break
        D = _curvature(A, w)
        step = _cg(
            lambda v, D=D: A.T @ (D * (A @ v)) + penalty * v, -g, _diagonal(A, D, penalty), 1e-4
        )
        now, t = loss(w), 1.0
        while loss(w + t * step) > now + 1e-14 * abs(now) and t > 1e-6:
            t /= 2
        w = w + t * step
    return w, float(np.linalg.norm(gradient(w)))


def _exact(product: Product, b: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
    q = np.zeros_like(b)
    for _ in range(3):
        q = q + _cg(product, b - product(q), diagonal, 1e-10)
    return q


def _cg(product: Product, b: np.ndarray, diagonal: np.ndarray, rtol: float) -> np.ndarray:
    H = LinearOperator((b.size, b.size), matvec=product, dtype=float)
    M = LinearOperator((b.size, b.size), matvec=lambda v: v / diagonal, dtype=float)
    return cg(H, b, rtol=rtol, M=M, maxiter=100 * b.size)[0]
