"""Hypergradients of the same logistic regression: this library's, torchopt's, and by hand.

Needs PyTorch, and the extra ``peers`` for torchopt. All begin with the inner solution, work in
double precision on one thread, and multiply with the same matrices.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn.functional import softplus

import bilevel as bl
from benchmarks.hypergradient_data import Matrix, Regression
from benchmarks.layer_peers import alike
from bilevel.adjoints import Implicit
from bilevel.adjoints.smooth import replay

#: What the hypergradient's relative error has to be.
ACCURACY = 1e-8
_STEPS = 1000


class Rows:
    """A matrix that multiplies tensors from the left and is differentiated as often as one likes.

    PyTorch transposes a sparse matrix anew in each backward pass; here both are kept.
    """

    def __init__(self, matrix: Tensor, transposed: Tensor) -> None:
        self._matrix, self._transposed = matrix, transposed

    @classmethod
    def of(cls, matrix: Matrix) -> Rows:
        if isinstance(matrix, np.ndarray):
            whole = torch.from_numpy(matrix)
            return cls(whole, whole.T)
        return cls(_csr(matrix), _csr(matrix.T.tocsr()))

    @property
    def T(self) -> Rows:
        return Rows(self._transposed, self._matrix)

    @property
    def count(self) -> int:
        return self._matrix.shape[0]

    def times(self, v: Tensor) -> Tensor:
        """Multiply where no derivative is asked for."""
        return self._matrix @ v

    def __matmul__(self, v: Tensor) -> Tensor:
        return self._matrix @ v if self._matrix.layout is torch.strided else _Times.apply(self, v)


class _Times(torch.autograd.Function):
    @staticmethod
    def forward(rows: Rows, v: Tensor) -> Tensor:
        return rows.times(v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Rows, Tensor], output: Tensor) -> None:
        ctx.rows = inputs[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, ctx.rows.T @ grad


def _csr(matrix: sparse.csr_array) -> Tensor:
    starts, places = (torch.from_numpy(part.astype(np.int64)) for part in
                      (matrix.indptr, matrix.indices))  # fmt: skip
    return torch.sparse_csr_tensor(starts, places, torch.from_numpy(matrix.data), matrix.shape)


@dataclass(frozen=True, eq=False)
class Subject:
    """A regression as tensors, with its two losses."""

    regression: Regression

    @cached_property
    def A(self) -> Rows:
        return Rows.of(self.regression.A)

    @cached_property
    def V(self) -> Rows:
        return Rows.of(self.regression.V)

    @cached_property
    def x(self) -> Tensor:
        return torch.from_numpy(self.regression.x)

    @cached_property
    def w(self) -> Tensor:
        return torch.from_numpy(self.regression.w)

    def inner(self, x: Tensor, w: Tensor) -> Tensor:
        return softplus(-(self.A @ w)).mean() + (x.exp() * w.square()).sum() / 2

    def outer(self, x: Tensor, w: Tensor) -> Tensor:
        return softplus(-(self.V @ w)).mean()

    def inner_gradient(self, w: Tensor, x: Tensor) -> Tensor:
        return x.exp() * w - self.A.T @ torch.sigmoid(-(self.A @ w)) / self.A.count

    @cached_property
    def problem(self) -> bl.SmoothProblem:
        return bl.SmoothProblem(self.outer, self.inner)

    @cached_property
    def tolerances(self) -> dict[str, float]:
        """The tolerance that gives each method the accuracy, found once and kept."""
        return {}


#: Takes a subject and a relative residual; returns the hypergradient.
Hypergradient = Callable[[Subject, float], Tensor]


def through(subject: Subject, attach: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the gradient of the outer loss in ``x`` through an inner solution."""
    x = subject.x.clone().requires_grad_()
    subject.outer(x, attach(x)).backward()
    assert x.grad is not None
    return x.grad


def implicit(subject: Subject, rtol: float) -> Tensor:
    """This library's."""
    adjoint = Implicit(rtol=rtol)
    return through(subject, lambda x: adjoint.attach(subject.problem, x, subject.w))


def implicit_diagonal(subject: Subject, rtol: float) -> Tensor:
    """This library's, preconditioned with the diagonal of the inner Hessian."""
    diagonal = torch.from_numpy(_diagonal(subject))
    adjoint = Implicit(rtol=rtol, precondition=lambda v: v / diagonal)
    return through(subject, lambda x: adjoint.attach(subject.problem, x, subject.w))


def implicit_unestimated(subject: Subject, rtol: float) -> Tensor:
    """This library's, without an estimate of the diagonal."""
    adjoint = Implicit(rtol=rtol, precondition=torch.clone)
    return through(subject, lambda x: adjoint.attach(subject.problem, x, subject.w))


def implicit_unreplayed(subject: Subject, rtol: float) -> Tensor:
    """This library's, each product taken through autograd."""
    with mock.patch.object(replay, "_LARGEST", 0):
        return implicit(subject, rtol)


def torchopt_of_loss(subject: Subject, rtol: float) -> Tensor:
    """torchopt's, its root function the gradient of the loss as in torchopt's documentation."""
    return _torchopt(subject, torch.func.grad(lambda w, x: subject.inner(x, w)), rtol)


def torchopt_of_gradient(subject: Subject, rtol: float) -> Tensor:
    """torchopt's, with a gradient that is written by hand."""
    return _torchopt(subject, subject.inner_gradient, rtol)


def _torchopt(subject: Subject, gradient: Callable[..., Tensor], rtol: float) -> Tensor:
    import torchopt

    solve = torchopt.linear_solve.solve_cg(rtol=rtol, maxiter=10 * subject.w.numel())
    root = torchopt.diff.implicit.custom_root(gradient, argnums=1, solve=solve)
    solver = root(lambda w, x: w)
    return through(subject, lambda x: solver(subject.w, x))


def by_hand(subject: Subject, rtol: float) -> Tensor:
    """Conjugate gradients with the Hessian in closed form, no autograd."""
    return _by_hand(subject, rtol, None)


def by_hand_diagonal(subject: Subject, rtol: float) -> Tensor:
    """The same, preconditioned with the diagonal."""
    return _by_hand(subject, rtol, torch.from_numpy(_diagonal(subject)))


def _by_hand(subject: Subject, rtol: float, diagonal: Tensor | None) -> Tensor:
    A, V, w, penalty = subject.A, subject.V, subject.w, subject.x.exp()
    share = torch.sigmoid(-A.times(w))
    curvature = share * (1 - share) / A.count
    r = V.T.times(torch.sigmoid(-V.times(w))) / V.count
    q, p = torch.zeros_like(r), r if diagonal is None else r / diagonal
    p = p.clone()
    rz, goal = float(r @ p), rtol**2 * float(r @ r)
    while float(r @ r) > goal:
        Hp = A.T.times(curvature * A.times(p)).addcmul_(penalty, p)
        step = rz / float(p @ Hp)
        q.add_(p, alpha=step)
        r.sub_(Hp, alpha=step)
        z = r if diagonal is None else r / diagonal
        new = float(r @ z)
        p.mul_(new / rz).add_(z)
        rz = new
    return q * penalty * w


def cholesky(subject: Subject, rtol: float) -> Tensor:
    """A factor of the dense Hessian in closed form."""
    del rtol
    one, w, penalty = subject.regression, subject.w, subject.x.exp()
    share = torch.sigmoid(-subject.A.times(w))
    curvature = (share * (1 - share) / subject.A.count).numpy()
    matrix = one.A.T @ (sparse.diags_array(curvature) @ one.A)
    H = torch.from_numpy(matrix.toarray() if sparse.issparse(matrix) else matrix)
    H.diagonal().add_(penalty)
    slope = -subject.V.T.times(torch.sigmoid(-subject.V.times(w))) / subject.V.count
    q = -torch.cholesky_solve(slope[:, None], torch.linalg.cholesky(H))[:, 0]
    return q * penalty * w


def unrolled(subject: Subject, rtol: float) -> Tensor:
    """1,000 gradient steps from the solution, recorded and differentiated by autograd."""
    del rtol
    one = subject.regression
    vector = np.random.default_rng(0).normal(size=one.w.size)
    for _ in range(30):  # the largest eigenvalue; an estimate from below is enough here
        vector = one.product(vector / np.linalg.norm(vector))
    step = 1 / float(np.linalg.norm(vector))

    def steps(x: Tensor) -> Tensor:
        w = subject.w.clone().requires_grad_()
        for _ in range(_STEPS):
            (slope,) = torch.autograd.grad(subject.inner(x, w), w, create_graph=True)
            w = w - step * slope
        return w

    return through(subject, steps)


def _diagonal(subject: Subject) -> np.ndarray:
    """Return the diagonal anew, as a user would have to."""
    one = subject.regression
    A = one.A
    share = torch.sigmoid(-subject.A.times(subject.w)).numpy()
    curvature = share * (1 - share) / subject.A.count
    square = A.multiply(A) if sparse.issparse(A) else A * A
    return square.T @ curvature + np.exp(one.x)


@dataclass(frozen=True)
class Timed:
    """Median seconds of some calls, and the error at the tolerance that they had."""

    seconds: float
    error: float
    rtol: float


def timed(name: str, method: Hypergradient, subject: Subject, calls: int) -> Timed:
    """Time a method at the loosest tolerance, a power of ten, that gives it the accuracy.

    The tolerance is found once for each subject and method.
    """
    with alike(), quiet():
        if name not in subject.tolerances:
            for digits in range(6, 15):
                subject.tolerances[name] = 10.0**-digits
                error = _error(method, subject, subject.tolerances[name])
                if error < ACCURACY or method in (cholesky, unrolled):
                    break
        rtol, times = subject.tolerances[name], []
        error = _error(method, subject, rtol)
        for _ in range(calls):
            began = time.perf_counter()
            method(subject, rtol)
            times.append(time.perf_counter() - began)
        return Timed(median(times), error, rtol)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what PyTorch says of sparse matrices, and torchopt's use of an old package."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse (CSR|invariant)", UserWarning)
        warnings.filterwarnings("ignore", "We've integrated functorch", FutureWarning)
        yield


def _error(method: Hypergradient, subject: Subject, rtol: float) -> float:
    return subject.regression.error(method(subject, rtol).numpy())
