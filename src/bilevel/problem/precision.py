"""What tolerances mean where numbers are not of double precision."""

from __future__ import annotations

import torch
from torch import Tensor


def attainable(tolerance: float, like: Tensor, units: float = 1000.0) -> float:
    """Return a tolerance, or so many units of rounding of a tensor's dtype where that is more.

    Tolerances are written for double precision; no solver can meet them in single precision.

    Examples
    --------
    >>> import torch
    >>> from bilevel.problem.precision import attainable
    >>> attainable(1e-6, torch.ones(1, dtype=torch.float64))
    1e-06
    >>> print(f"{attainable(1e-6, torch.ones(1)):.1e}")
    1.2e-04
    """
    return max(tolerance, units * torch.finfo(like.dtype).eps)
