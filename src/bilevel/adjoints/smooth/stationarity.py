"""Scalars whose stationary points are the responses of a follower, and of a whole smooth problem.

Every optimality condition here is the gradient of a scalar. Every linear system of a derivative is
therefore symmetric, and every product with it one pass through autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vecdot

from bilevel.adjoints.smooth.replay import Replayed
from bilevel.errors import UnsupportedDerivative
from bilevel.problem.smooth import Instances, leaves_behind

Scalar = Callable[[Tensor], Tensor]

#: An inequality with less slack than this may be active.
ACTIVE = 1e-6


@dataclass(frozen=True, eq=False)
class Stationarity:
    r"""The scalars of a smooth problem at given inputs.

    With ``w = (y, nu, lam)`` the follower's is, for active rows ``A`` and the others ``I``,

    .. code-block:: text

        f + nu'h + lam'g_A - |lam_I|^2 / 2
        f + nu'h + lam'g + sum(log lam) / t        under a barrier of parameter t: lam_i g_i = -1/t

    and the leader's, in ``u = (x, w, v, omega, mu)``, is ``F`` with its own constraints in the same
    form, less ``v'`` times the follower's gradient in ``w``. Where ``f = -F``, the leader's is
    minus the follower's with the leader's constraints, and no ``v`` is needed.

    Parameters
    ----------
    instances
        The functions.
    active_g, active_G
        The active rows of either level, shape ``(B, k)``; without meaning under a barrier.
    sizes
        How many entries ``x``, ``y``, ``nu``, ``lam``, ``omega`` and ``mu`` have.
    barrier_parameter
        How accurate the log barrier is that stands in place of the inequalities: each multiplier
        times its slack is one over it. ``None``: the active rows instead.

    References
    ----------
    Alesiani (2023), *Implicit Bilevel Optimization: Differentiating through Bilevel Optimization
    Programming* (BIGRAD), AAAI, Theorems 1 and 2, appendices A.1 and A.3, in symmetric form.
    """

    instances: Instances
    active_g: Tensor
    active_G: Tensor
    sizes: tuple[int, int, int, int, int, int]
    barrier_parameter: float | None = None

    @classmethod
    def of(
        cls, instances: Instances, x: Tensor, y: Tensor, barrier_parameter: float | None = None
    ) -> Stationarity:
        """Return the scalars, no row being active."""
        with torch.no_grad():
            h, g, H, G = (instances.vector(name, x, y) for name in "hgHG")
        n, m, p, k, equations, rows = (part.shape[-1] for part in (x, y, h, g, H, G))
        none_g, none_G = (torch.zeros_like(part, dtype=torch.bool) for part in (g, G))
        return cls(instances, none_g, none_G, (n, m, p, k, equations, rows), barrier_parameter)

    def at(self, z: Sequence[Any]) -> Stationarity:
        """Return the same at other inputs."""
        return replace(self, instances=self.instances.at(z))

    def recover(self, x: Tensor, y: Tensor) -> tuple[Stationarity, Tensor]:
        """Return the scalars with the rows that are active at ``y``, and ``y`` with multipliers.

        The multipliers are those that satisfy stationarity best. A row with a negative one is not
        active.
        """
        m, p, k = self.sizes[1:4]
        if not p + k:
            return self, y
        with torch.no_grad():
            g = self.instances.vector("g", x, y)
        st = replace(self, active_g=g >= -ACTIVE, barrier_parameter=None)
        w = y
        for _ in range(k + 1):
            w = torch.cat([y, y.new_zeros(len(y), p + k)], -1)
            H = Hessian(lambda w, st=st: st.follower(x, w), w)
            jacobian = H.dense()[:, :m, m:]
            rhs = -H.gradient.detach()[:, :m, None]
            found = torch.linalg.lstsq(jacobian, rhs, driver="gelsd").solution[..., 0]
            w[:, m:] = found
            negative = st.active_g & (w[:, m + p :] < -ACTIVE)
            if not bool(negative.any()):
                break
            worst = torch.where(st.active_g, w[:, m + p :], torch.inf).argmin(-1, keepdim=True)
            drop = torch.zeros_like(negative).scatter_(-1, worst, True) & negative
            st = replace(st, active_g=st.active_g & ~drop)
        return st, w

    @property
    def follower_size(self) -> int:
        """How many entries ``w`` has."""
        return sum(self.sizes[1:4])

    def follower(self, x: Tensor, w: Tensor) -> Tensor:
        """Return the follower's scalar, shape ``(B,)``."""
        if not any(self.sizes[2:4]):  # a split's derivative copies
            return self.instances.value("f", x, w)
        y, nu, lam = w.split(self.sizes[1:4], -1)
        value = self.instances.value("f", x, y)
        if self.sizes[2]:
            value = value + vecdot(nu, self.instances.vector("h", x, y))
        if self.sizes[3]:
            value = value + self._rows(lam, self.instances.vector("g", x, y), self.active_g)
        return value

    def leader(self, u: Tensor) -> Tensor:
        """Return the leader's scalar, shape ``(B,)``."""
        x, w, v, omega, mu = self.split(u)
        y = w[..., : self.sizes[1]]
        if self.instances.problem.zero_sum:
            value = -self.follower(x, w)
        else:
            value = self.instances.value("F", x, y)
            if not w.requires_grad:
                w = w.detach().requires_grad_()
            (K,) = gradients(self.follower(x, w), (w,))
            value = value - vecdot(v, K)
        if self.sizes[4]:
            value = value + vecdot(omega, self.instances.vector("H", x, y))
        if self.sizes[5]:
            value = value + self._rows(mu, self.instances.vector("G", x, y), self.active_G)
        return value

    def split(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return ``x, w, v, omega, mu``."""
        k = self.follower_size
        co = 0 if self.instances.problem.zero_sum else k
        x, w, v, omega, mu = u.split([self.sizes[0], k, co, self.sizes[4], self.sizes[5]], -1)
        return x, w, v, omega, mu

    def _rows(self, multiplier: Tensor, row: Tensor, active: Tensor) -> Tensor:
        if self.barrier_parameter is not None:
            return (multiplier * row + multiplier.log() / self.barrier_parameter).sum(-1)
        return torch.where(active, multiplier * row, -(multiplier**2) / 2).sum(-1)


def gradients(value: Tensor, of: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of a sum, which can be differentiated again; zero where unrelated."""
    if not value.requires_grad:
        return tuple(torch.zeros_like(one) for one in of)
    return torch.autograd.grad(
        value.sum(), of, create_graph=True, allow_unused=True, materialize_grads=True
    )


class Hessian:
    """Products with the second derivative of a sum of scalars, one for each row of ``u``.

    Parameters
    ----------
    scalar
        Function of ``(B, n)`` that returns ``(B,)``, row ``i`` of one depending on row ``i`` of the
        other alone.
    u
        Where, shape ``(B, n)``.
    """

    def __init__(self, scalar: Scalar, u: Tensor) -> None:
        if torch.is_inference_mode_enabled():
            raise UnsupportedDerivative(
                "Smooth problems are solved by derivatives, which torch.inference_mode() forbids; "
                "use torch.no_grad()."
            )
        self.u = u.detach().requires_grad_()
        with torch.enable_grad():
            (self.gradient,) = gradients(scalar(self.u), (self.u,))
        self._product = Replayed(partial(_product, self.gradient, self.u))

    def __call__(self, v: Tensor) -> Tensor:
        """Return the products with the rows of ``v``, which may be overwritten."""
        return self._product(v)

    def dense(self) -> Tensor:
        """Return the matrices, shape ``(B, n, n)``."""
        count, n = self.u.shape
        unit = torch.eye(n, dtype=self.u.dtype, device=self.u.device)
        if not self.gradient.requires_grad:
            return torch.zeros(count, n, n).to(unit)
        vectors = unit.unsqueeze(1).expand(n, count, n)
        try:
            found = _product(self.gradient, self.u, vectors, batched=True)
        except RuntimeError:  # an operation that autograd cannot map over vectors
            found = torch.stack([_product(self.gradient, self.u, one) for one in vectors])
        found = found.transpose(0, 1)
        return (found + found.mT) / 2

    def along(self, of: Sequence[Tensor], v: Tensor) -> tuple[Tensor | None, ...]:
        """Return the derivatives of ``v'gradient`` in other tensors; ``None`` where unrelated."""
        if not self.gradient.requires_grad or not of:
            return (None,) * len(of)
        return torch.autograd.grad(self.gradient, of, v, retain_graph=True, allow_unused=True)

    def leaves(self) -> list[Tensor]:
        """Return the leaves on which the gradient depends, ``u`` among them."""
        return leaves_behind(self.gradient)


def _product(gradient: Tensor, u: Tensor, v: Tensor, batched: bool = False) -> Tensor:
    """Return ``v'gradient`` differentiated in ``u``."""
    if not gradient.requires_grad:
        return torch.zeros_like(v)
    (found,) = torch.autograd.grad(
        gradient,
        u,
        v,
        retain_graph=True,
        is_grads_batched=batched,
        allow_unused=True,
        materialize_grads=not batched,
    )
    if found is None:
        return torch.zeros_like(v)
    # A gradient that is u itself hands v through, which an iteration would then overwrite.
    return found.clone() if found.data_ptr() == v.data_ptr() else found.contiguous()
