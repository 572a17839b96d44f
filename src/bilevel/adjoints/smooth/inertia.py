"""Signs of eigenvalues, which tell a minimum from what is none."""

from __future__ import annotations

import torch
from torch import Tensor


def is_definite(A: Tensor) -> Tensor:
    """Return where symmetric matrices are positive definite and not singular to rounding.

    The scale of the unknowns does not matter.

    Parameters
    ----------
    A
        Shape ``(B, n, n)``.

    Examples
    --------
    >>> import torch
    >>> from bilevel.adjoints.smooth.inertia import is_definite
    >>> is_definite(
    ...     torch.tensor([[[1e-9, 0.0], [0.0, 1e9]], [[1.0, 1.0], [1.0, 1.0]]])
    ... ).tolist()
    [True, False]
    """
    d = A.diagonal(dim1=-2, dim2=-1)
    scale = d.clamp(min=torch.finfo(A.dtype).tiny).rsqrt()
    scaled = A * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    scaled.diagonal(dim1=-2, dim2=-1).sub_(_rounding(A))
    return (d > 0).all(-1) & (torch.linalg.cholesky_ex(scaled.nan_to_num()).info == 0)


def inertia(A: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many eigenvalues are negative, and how many positive, beyond rounding.

    The scale of the unknowns does not matter.

    Parameters
    ----------
    A
        Symmetric, shape ``(B, n, n)``.

    Examples
    --------
    >>> import torch
    >>> from bilevel.adjoints.smooth.inertia import inertia
    >>> [one.item() for one in inertia(torch.tensor([[[2.0, 1e-9], [1e-9, 0.0]]]))]
    [1, 1]
    """
    A = A.nan_to_num()
    for _ in range(5):
        size = A.abs().amax(-1).sqrt()
        size = torch.where(size > 0, size, 1.0)
        A = A / size.unsqueeze(-1) / size.unsqueeze(-2)
    values = torch.linalg.eigvalsh(A)
    least = _rounding(A) * values.abs().amax(-1, keepdim=True)
    return (values < -least).sum(-1), (values > least).sum(-1)


def _rounding(A: Tensor) -> float:
    return 10 * A.shape[-1] * torch.finfo(A.dtype).eps
