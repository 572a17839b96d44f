"""Projections onto dual cones and their derivatives, batched, in torch.

A vector ``v`` belongs to a product of cones: first equations (whose dual cone is everything), then
inequalities, then ``ConeBlock``s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bilevel.adjoints.convex.exponential import project_dual
from bilevel.problem.cones import Kind, order, triangle
from bilevel.problem.parametric import ConeBlock, ParametricProgram


def project(v: Tensor, program: ParametricProgram) -> Tensor:
    """Return the projection onto the dual cone, shape ``(B, m)``."""
    first = program.equalities
    second = program.equalities + program.inequalities
    parts = [v[:, :first], v[:, first:second].clamp_min(0.0)]
    parts += [_PROJECT[block.kind](v[:, block.start : block.stop]) for block in program.cones]
    return torch.cat(parts, -1)


def derivative(v: Tensor, program: ParametricProgram) -> Tensor:
    """Return the Jacobian of the projection, shape ``(B, m, m)``; symmetric.

    At a kink it is that of one side.
    """
    first = program.equalities
    second = program.equalities + program.inequalities
    D = v.new_zeros(len(v), v.shape[-1], v.shape[-1])
    plain = torch.cat([torch.ones_like(v[:, :first]), (v[:, first:second] > 0).to(v.dtype)], -1)
    blocks: list[tuple[slice, Tensor]] = [(slice(0, second), torch.diag_embed(plain))]
    for block in program.cones:
        place = slice(block.start, block.stop)
        blocks.append((place, _DERIVE[block.kind](v[:, place])))
    rows = []
    for place, matrix in blocks:
        before = D[:, place, : place.start]
        after = D[:, place, place.stop :]
        rows.append(torch.cat([before, matrix, after], -1))
    return torch.cat(rows, -2)


def distance_to_kink(v: Tensor, program: ParametricProgram) -> Tensor:
    """Return how far ``v`` is from a point where the projection has no derivative, ``(B,)``.

    Infinite for the exponential cone, where it is not known.
    """
    first = program.equalities
    second = program.equalities + program.inequalities
    parts = [v.new_full((len(v), 1), torch.inf), v[:, first:second].abs()]
    for block in program.cones:
        part = v[:, block.start : block.stop]
        if block.kind is Kind.SECOND_ORDER:
            size = torch.linalg.vector_norm(part[:, 1:], dim=-1)
            parts.append((size - part[:, 0].abs()).abs()[:, None])
        elif block.kind is Kind.SEMIDEFINITE:
            parts.append(torch.linalg.eigvalsh(_matrix(part)).abs())
    return torch.cat(parts, -1).amin(-1)


def orders(cones: Sequence[ConeBlock]) -> int | None:
    """Return how often answers can be differentiated; ``None``: any number of times."""
    return None if all(block.kind is Kind.SECOND_ORDER for block in cones) else 1


def _soc(v: Tensor) -> Tensor:
    t = v[:, :1]
    x = v[:, 1:]
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    half = 0.5 * (1 + t / size.clamp_min(1e-300))
    outside = torch.cat([half * size, half * x], -1)
    inside = size <= t
    return torch.where(inside, v, torch.where(size <= -t, torch.zeros_like(v), outside))


def _soc_derivative(v: Tensor) -> Tensor:
    t = v[:, :1]
    x = v[:, 1:]
    k = x.shape[-1]
    square = x.square().sum(-1, keepdim=True)
    is_zero = square == 0
    size = torch.where(is_zero, torch.ones_like(square), square).sqrt()
    u = x / size
    ratio = t / size
    unit = torch.eye(k, dtype=v.dtype, device=v.device)
    corner = (1 + ratio)[..., None] * unit - ratio[..., None] * u[:, :, None] * u[:, None, :]
    top = torch.cat([torch.ones_like(t), u], -1)[:, None, :]
    middle = 0.5 * torch.cat([top, torch.cat([u[:, :, None], corner], -1)], -2)
    whole = torch.eye(k + 1, dtype=v.dtype, device=v.device).expand(len(v), -1, -1)
    size = torch.where(is_zero, torch.zeros_like(size), size)
    inside = (size <= t)[..., None]
    outside = (size <= -t)[..., None]
    return torch.where(inside, whole, torch.where(outside, torch.zeros_like(whole), middle))


def _matrix(v: Tensor) -> Tensor:
    n = order(v.shape[-1])
    row, column = triangle(n)
    scale = torch.from_numpy(np.where(row == column, 1.0, np.sqrt(0.5))).to(v)
    M = v.new_zeros(len(v), n, n)
    M[:, row, column] = v * scale
    M[:, column, row] = v * scale
    return M


def _vector(M: Tensor) -> Tensor:
    row, column = triangle(M.shape[-1])
    scale = torch.from_numpy(np.where(row == column, 1.0, np.sqrt(2.0))).to(M)
    return M[..., row, column] * scale


def _psd(v: Tensor) -> Tensor:
    values, Q = torch.linalg.eigh(_matrix(v))
    return _vector((Q * values.clamp_min(0.0)[:, None, :]) @ Q.mT)


def _psd_derivative(v: Tensor) -> Tensor:
    values, Q = torch.linalg.eigh(_matrix(v))
    a = values[:, :, None]
    b = values[:, None, :]
    # Divided differences of max(., 0).
    gap = a - b
    near = gap.abs() <= 1e-12 * (1 + a.abs())
    divided = (a.clamp_min(0.0) - b.clamp_min(0.0)) / torch.where(near, torch.ones_like(gap), gap)
    divided = torch.where(near, (a > 0).to(v.dtype).expand_as(gap), divided)
    k = v.shape[-1]
    basis = _matrix(torch.eye(k, dtype=v.dtype, device=v.device))
    turned = Q.mT[:, None] @ basis @ Q[:, None]
    back = Q[:, None] @ (divided[:, None] * turned) @ Q.mT[:, None]
    return _vector(back).mT


def _exp(v: Tensor) -> Tensor:
    points = [project_dual(row)[0] for row in v.numpy(force=True)]
    return torch.from_numpy(np.array(points)).to(v)


def _exp_derivative(v: Tensor) -> Tensor:
    slopes = [project_dual(row)[1] for row in v.numpy(force=True)]
    return torch.from_numpy(np.array(slopes)).to(v)


_PROJECT = {Kind.SECOND_ORDER: _soc, Kind.SEMIDEFINITE: _psd, Kind.EXPONENTIAL: _exp}
_DERIVE = {
    Kind.SECOND_ORDER: _soc_derivative,
    Kind.SEMIDEFINITE: _psd_derivative,
    Kind.EXPONENTIAL: _exp_derivative,
}
