"""Layers for the same quadratic programs: this library's, Moreau's, ProxQP's and CVXPY's.

Needs PyTorch, and the extra ``peers`` for the others. All work in double precision on one thread,
with their own default settings otherwise. A layer is made once and used for every batch of a size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

from bilevel.layers import FollowerLayer, Report

#: Takes the data, returns answers, and a report where there is one.
Layer = Callable[..., tuple[Tensor, Report | None]]

_FREE = 1e20


@dataclass(frozen=True, eq=False)
class Calls:
    """Several calls forward and backward: median seconds and what the last one found."""

    forward: float
    backward: float
    both: float
    gradients: tuple[np.ndarray, ...]
    report: Report | None


def time_calls(layer: Layer, data: Sequence[np.ndarray], w: np.ndarray, calls: int) -> Calls:
    """Call a layer on the data, differentiate ``w'y``, and time both, after one call before."""
    with alike():
        weights, times = torch.tensor(w), []
        for _ in range(calls + 1):
            leaves = [torch.tensor(part).requires_grad_() for part in data]
            began = time.perf_counter()
            y, report = layer(*leaves)
            middle = time.perf_counter()
            y.backward(weights)
            times.append((middle - began, time.perf_counter() - middle))
    forward, backward = zip(*times[1:], strict=True)
    return Calls(
        median(forward),
        median(backward),
        median(map(sum, times[1:])),
        tuple(leaf.grad.numpy() for leaf in leaves),
        report,
    )


@contextmanager
def alike() -> Iterator[None]:
    """One thread, and double precision also where a peer makes tensors of the default kind.

    One thread is kept: MKL may hang in batched LU factorizations once that is taken back.
    """
    kind = torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(kind)


def make_bilevel(n: int, **options: Any) -> FollowerLayer:
    """Return this library's layer; ``P`` is a parameter."""
    P, y = cp.Parameter((n, n), PSD=True), cp.Variable(n)
    problem, rest = _problem(cp.quad_form(y, P), y)
    return FollowerLayer(problem, [P, *rest], [y], **options)


def make_cvxpylayers(n: int) -> Any:
    """Return CVXPY's layer with its default solver; a root of ``P`` is a parameter.

    ``quad_form`` with a parameter breaks its rules.
    """
    from cvxpylayers.torch import CvxpyLayer

    U, y = cp.Parameter((n, n)), cp.Variable(n)
    problem, rest = _problem(cp.sum_squares(U @ y), y)
    serial = {"n_jobs_forward": 1, "n_jobs_backward": 1}
    return CvxpyLayer(problem, parameters=[U, *rest], variables=[y], solver_args=serial)


def _problem(square: cp.Expression, y: cp.Variable) -> tuple[cp.Problem, list[cp.Parameter]]:
    n, p = y.size, y.size // 5
    shapes = (n, (p, n), p, (n, n), n)
    q, A, b, G, h = rest = [cp.Parameter(shape) for shape in shapes]
    return cp.Problem(cp.Minimize(square / 2 + q @ y), [A @ y == b, G @ y <= h]), rest


@cache
def bilevel_layer(n: int, batch: int) -> Layer:
    """Return this library's layer; the kinds of all gradients are read."""
    del batch
    layer = make_bilevel(n)

    def call(*leaves: Tensor) -> tuple[Tensor, Report]:
        answer = layer.solve(*leaves)
        _ = answer.report.kind, answer.report.margin
        return answer.values[0], answer.report

    return call


@cache
def moreau_layer(n: int, batch: int) -> Layer:
    """Return Moreau's layer for dense matrices; its threads are those of the environment."""
    import moreau
    import moreau.torch

    p = n // 5
    rows = n + p
    solver = moreau.torch.Solver(
        n=n,
        m=rows,
        P_row_offsets=torch.arange(n + 1) * n,
        P_col_indices=torch.arange(n).repeat(n),
        A_row_offsets=torch.arange(rows + 1) * n,
        A_col_indices=torch.arange(n).repeat(rows),
        cones=moreau.Cones(num_zero_cones=p, num_nonneg_cones=n),
        settings=moreau.Settings(device="cpu", batch_size=batch),
    )

    def call(P: Tensor, q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Any:
        matrix, side = torch.cat([A, G], 1), torch.cat([b, h], 1)
        answer = solver.solve(P.reshape(batch, -1), matrix.reshape(batch, -1), q, side)
        return answer.x, None

    return call


@cache
def proxsuite_layer(n: int, batch: int) -> Layer:
    """Return ProxQP's layer, which solves one instance after the other."""
    from proxsuite.torch.qplayer import QPFunction

    solve, lowest = QPFunction(), torch.full((batch, n), -_FREE, dtype=torch.float64)

    def call(P: Tensor, q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Any:
        return solve(P, q, A, b, G, lowest, h)[0], None

    return call


@cache
def cvxpylayers_layer(n: int, batch: int) -> Layer:
    """Return CVXPY's layer; its first argument is a root of ``P``."""
    del batch
    layer = make_cvxpylayers(n)

    def call(*leaves: Tensor) -> tuple[Tensor, None]:
        return layer(*leaves)[0], None

    return call
