"""From a batch of inputs to the matrices of a batch of programs, in torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bilevel.problem.affine import ONE, Affine, Terms
from bilevel.problem.parametric import ParametricProgram


@dataclass(frozen=True)
class Data:
    """``min y'H y + q'y + r`` subject to ``A y + s = b``, batched and dense.

    Parameters
    ----------
    H, q, r, A, b
        Shapes ``(B, n, n)``, ``(B, n)``, ``(B, 1)``, ``(B, m, n)`` and ``(B, m)``.
    """

    H: Tensor
    q: Tensor
    r: Tensor
    A: Tensor
    b: Tensor


class DataMap:
    """Evaluates a program's data at a batch of inputs ``theta``, shape ``(B, p + 1)``.

    The last entry of ``theta`` is the number one. With ``sparse``, ``H`` and ``A`` are the entries
    of the program's patterns.
    """

    def __init__(self, program: ParametricProgram, sparse: bool = False) -> None:
        n = program.n
        m = program.m
        H = program.H
        A = program.A
        blocks: list[tuple[Affine, tuple[int, ...]]] = [
            (H.entries, (len(H.row),)) if sparse else (H.dense(), (n, n)),
            (program.q, (n,)),
            (program.r, (1,)),
            (A.entries, (len(A.row),)) if sparse else (A.dense(), (m, n)),
            (program.b, (m,)),
        ]
        self._squares = []
        for curved in program.curved:
            k = curved.weight.size
            for side in (curved.left, curved.right):
                if side is not None:
                    blocks += [(side.linear.dense(), (k, n)), (side.offset, (k,))]
            blocks.append((curved.weight, (k,)))
            self._squares.append(curved.right is None)
        self._shapes = [shape for _, shape in blocks]
        self._sizes = [vector.size for vector, _ in blocks]
        self._map = _Gather(_concatenate([vector for vector, _ in blocks]))

    def __call__(self, theta: Tensor) -> Data:
        """Return the data, differentiable in ``theta``."""
        parts = self._map(theta).split_with_sizes(self._sizes, dim=-1)
        count = len(theta)
        H, q, r, A, b, *rest = [
            part if len(shape) == 1 else part.view(count, *shape)
            for part, shape in zip(parts, self._shapes, strict=True)
        ]
        for is_square in self._squares:
            left, l0, *rest = rest
            (right, r0), rest = ((left, l0), rest) if is_square else (rest[:2], rest[2:])
            weight, *rest = rest
            H = H + left.mT @ (weight[..., None] * right)
            q = q + _times(left.mT, weight * r0) + _times(right.mT, weight * l0)
            r = r + (weight * l0 * r0).sum(-1, keepdim=True)
        return Data(H, q, r, A, b)


class _Gather:
    """An affine function of a vector as one gathering of its entries."""

    def __init__(self, vector: Affine) -> None:
        terms = vector.terms
        place = np.concatenate([terms.place, np.flatnonzero(vector.constant)])
        # The number one is an entry of its own, after all others.
        source = np.concatenate([terms.source, np.full(len(place) - len(terms.place), ONE)])
        value = np.concatenate([terms.value, vector.constant[vector.constant != 0]])
        count = np.bincount(place, minlength=vector.size)
        self._size = vector.size
        self._is_simple = bool((count <= 1).all())
        if self._is_simple:
            dense = np.zeros(vector.size)
            index = np.full(vector.size, ONE)
            dense[place] = value
            index[place] = source
            value = dense
            source = index
        self._arrays = (value, source, place)
        self._is_unscaled = bool((value == 1).all())
        self._kept: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, theta: Tensor) -> Tensor:
        count, width = theta.shape
        kept = self._kept.get(theta.device)
        if kept is None:
            value, source, place = (torch.from_numpy(a).to(theta.device) for a in self._arrays)
            source = source.where(source != ONE, width - 1)
            kept = self._kept[theta.device] = (value, source[None], place)
        value, source, place = kept
        terms = theta.gather(-1, source if count == 1 else source.expand(count, -1))
        terms = terms if self._is_unscaled else terms * value
        if self._is_simple:
            return terms
        zeros = terms.new_zeros(count, self._size)
        return zeros.scatter_add(-1, place.expand(count, -1), terms)


def _concatenate(vectors: list[Affine]) -> Affine:
    starts = np.cumsum([0] + [vector.size for vector in vectors])
    terms = [v.terms.move(v.terms.place + s) for v, s in zip(vectors, starts, strict=False)]
    return Affine(np.concatenate([v.constant for v in vectors]), Terms.join(*terms))


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]
