"""Total gradients of whole smooth problems against finite differences of full re-solves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel.adjoints import Implicit
from bilevel.layers import SmoothBilevelLayer

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

_N, _P = 4, 3
_STEP = 1e-3


@dataclass(frozen=True)
class Total:
    """Small problems with a quadratic and a curved follower: sizes ``n = 4``, ``m``, ``p = 3``."""

    kind: str
    m: int

    @property
    def name(self) -> str:
        return f"{self.kind}, m = {self.m}"

    def losses(self) -> tuple[Loss, Loss, Tensor]:
        """Return leader's and follower's loss and the input."""
        g = torch.Generator().manual_seed(7)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        def definite(n: int) -> Tensor:
            root = draw(n, n)
            return root @ root.T / n + torch.eye(n, dtype=torch.float64)

        A, B, C, D = definite(_N), definite(self.m), draw(_N, _P), draw(self.m, _P)
        E, Q, z = draw(self.m, _N) / 2, draw(_N, self.m) / 2, draw(_P)
        if self.kind == "QP-QP":
            return (
                lambda x, y, z: x @ A @ x / 2 + x @ Q @ y + y.square().sum() + x @ C @ z,
                lambda x, y, z: y @ B @ y / 2 + y @ E @ x + y @ D @ z,
                z,
            )
        return (
            lambda x, y, z: (
                x @ A @ x / 2 + (y - z.sum()).square().sum() / 2 + (x @ C @ z + y @ D @ z).sin()
            ),
            lambda x, y, z: (
                y @ B @ y / 2
                + (y**4).sum() / 4
                + (y @ D @ z) ** 2 * x.square().sum() / 10
                + y @ E @ x.sin()
                + y @ D @ z
            ),
            z,
        )

    def error(self, method: str) -> float:
        """Return the relative error of the derivative of both levels' answers in ``z``.

        Differences are of fourth order, each end a full solve.
        """
        F, f, z = self.losses()
        start = torch.zeros(_N).double(), torch.zeros(self.m).double()
        adjoint = Implicit(method, rtol=1e-12)
        layer = SmoothBilevelLayer(F, f, start=start, in_dims=None, adjoint=adjoint)

        def answer(z: Tensor) -> Tensor:
            return torch.cat([part.reshape(-1) for part in layer(z)])

        leaf = z.clone().requires_grad_()
        out = answer(leaf)
        found = torch.stack([torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in out])
        columns = []
        with torch.no_grad():
            for unit in torch.eye(_P, dtype=torch.float64) * _STEP:
                near, far = (answer(z + k * unit) - answer(z - k * unit) for k in (1, 2))
                columns.append((8 * near - far) / (12 * _STEP))
        true = torch.stack(columns, -1)
        return float(torch.linalg.norm(found - true) / torch.linalg.norm(true))


TOTALS = tuple(Total(kind, m) for kind in ("QP-QP", "nonlinear") for m in (4, 6))
