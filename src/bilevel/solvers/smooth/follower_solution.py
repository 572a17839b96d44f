"""The record of a follower's responses to a batch of decisions, and what its makers share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bilevel.adjoints.smooth.inertia import inertia
from bilevel.adjoints.smooth.stationarity import Stationarity
from bilevel.problem.precision import attainable

#: Up to this many unknowns matrices are built.
DENSE = 256
#: A multiplier that is no larger does not hold its row.
_WEAK = 1e-7
INDEFINITE = (
    "the follower's second derivative is not positive definite on what its active constraints "
    "leave: no minimum of f, or one of many, or constraints that depend on each other"
)


@dataclass(frozen=True, eq=False)
class FollowerSolution:
    """A follower's responses to a batch of decisions.

    Parameters
    ----------
    st
        The scalars with the rows that are active at the responses.
    w
        ``(y, nu, lam)``, shape ``(B, k)``.
    residual
        Norm of the optimality conditions, shape ``(B,)``; infinite where ``f`` is not finite.
    is_minimum
        Where the second derivative is positive definite on what active constraints leave.
    margin
        Smallest ``max(lam_i, -g_i)``, shape ``(B,)``.
    steps
        Of the batch.
    """

    st: Stationarity
    w: Tensor
    residual: Tensor
    is_minimum: Tensor
    margin: Tensor
    steps: int

    def where(self, mask: Tensor, other: FollowerSolution) -> FollowerSolution:
        """Return these responses for some instances and the other's elsewhere."""
        active = torch.where(mask[:, None], self.st.active_g, other.st.active_g)
        return FollowerSolution(
            replace(self.st, active_g=active),
            torch.where(mask[:, None], self.w, other.w),
            torch.where(mask, self.residual, other.residual),
            torch.where(mask, self.is_minimum, other.is_minimum),
            torch.where(mask, self.margin, other.margin),
            max(self.steps, other.steps),
        )

    def put(self, rows: Tensor, others: FollowerSolution) -> FollowerSolution:
        """Return these responses with those of instances ``rows`` replaced."""

        def placed(own: Tensor, new: Tensor) -> Tensor:
            return own.index_put((rows,), new)

        return FollowerSolution(
            replace(self.st, active_g=placed(self.st.active_g, others.st.active_g)),
            placed(self.w, others.w),
            placed(self.residual, others.residual),
            placed(self.is_minimum, others.is_minimum),
            placed(self.margin, others.margin),
            self.steps + others.steps,
        )


def taken(st: Stationarity, rows: Tensor) -> Stationarity:
    """Return the scalars of some instances; ``rows`` holds their numbers."""
    if not st.instances.is_batched:
        return st
    z = st.instances.taken(st.instances.z, rows)
    active = {name: getattr(st, name)[rows] for name in ("active_g", "active_G")}
    return replace(st, instances=st.instances.at(z), **active)


def second_order(st: Stationarity, w: Tensor, matrix: Tensor) -> Tensor:
    """Return where the follower's second-order condition holds, shape ``(B,)``.

    The second derivative is positive definite on what equations, and active rows with a positive
    multiplier, leave: weakly active rows do not help.

    Parameters
    ----------
    st, w
        The scalars with the active rows, and the responses.
    matrix
        Second derivatives of the follower's scalar, shape ``(B, k, k)``.
    """
    m, p, k = st.sizes[1:4]
    if k and st.barrier_parameter is None:
        weak = st.active_g & (w[:, m + p :] <= attainable(_WEAK, w))
        free = torch.nn.functional.pad(weak, (m + p, 0))
        kept = ~(free.unsqueeze(-1) | free.unsqueeze(-2))
        matrix = torch.where(kept, matrix, 0.0) - torch.diag_embed(free.to(matrix))
    negative, positive = inertia(matrix)
    return (negative == p + k) & (positive == m)


def finite(A: Tensor) -> Tensor:
    """Return matrices, with the unit matrix in place of each that has an entry not finite."""
    good = A.isfinite().flatten(1).all(-1)
    if bool(good.all()):
        return A
    return torch.where(good[:, None, None], A, torch.eye(A.shape[-1]).to(A))


def noise(value: Tensor, factor: float) -> Tensor:
    """Return by how much values may differ by rounding alone."""
    return factor * torch.finfo(value.dtype).eps * (1 + value.abs())
