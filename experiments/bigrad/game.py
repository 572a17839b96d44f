"""Linear systems in noise, three controllers, and an adversary who falsifies the state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import clarabel
import numpy as np
import torch
from scipy import sparse
from scipy.linalg import solve_discrete_are
from torch import Tensor, nn

import bilevel as bl
from bilevel.layers import SmoothBilevelLayer

#: State, input, and the 2-norm of the largest falsification.
N, M, SIGMA = 2, 3, 0.5
#: ``"game"`` anticipates what the controller will do, ``"two-step"`` looks at its first answer.
ATTACKS = ("game", "two-step", "none")


@dataclass(frozen=True, eq=False)
class Systems:
    """One system ``x' = A x + B u + w`` per seed, with the cost-to-go ``x'Sx`` of its LQR."""

    A: Tensor
    B: Tensor
    S: Tensor
    seeds: tuple[int, ...]

    def noise(self, trajectories: int, stream: int, horizon: int = 20) -> Tensor:
        """Return initial states ~ N(0, I) and noise ~ N(0, I/4): (trajectories, seeds, T + 1, n).

        Different streams are independent.
        """
        parts = []
        for seed in self.seeds:
            rng = np.random.default_rng((seed, 1 + stream))
            part = rng.standard_normal((trajectories, horizon + 1, N))
            part[:, 1:] /= 2
            parts.append(torch.tensor(part))
        return torch.stack(parts, 1)


def systems(seeds: tuple[int, ...]) -> Systems:
    """Return the systems: A normal, scaled to spectral radius 1, and B normal."""
    A, B, S = [], [], []
    for seed in seeds:
        rng = np.random.default_rng((seed, 0))
        a, b = rng.standard_normal((N, N)), rng.standard_normal((N, M))
        a /= np.abs(np.linalg.eigvals(a)).max()
        A.append(a)
        B.append(b)
        S.append(solve_discrete_are(a, b, np.eye(N), np.eye(M)))
    made = (torch.tensor(np.array(part)) for part in (A, B, S))
    return Systems(*made, seeds)


def cost(x: Tensor, u: Tensor, P: Tensor, Q: Tensor, q: Tensor) -> Tensor:
    """Return the proxy quadratic of the controller (equation 11)."""
    return u @ P @ u + x @ Q @ u + q @ u


def _ball(radius: float) -> Any:
    return lambda point: (point @ point - radius**2).reshape(1)


_EMPTY, _STATE, _INPUT = (torch.zeros(size, dtype=torch.float64) for size in (0, N, M))
GAME = bl.SmoothProblem.max_min(
    lambda eps, u, x, P, Q, q: cost(x + eps, u, P, Q, q),
    G=lambda eps, u, *z: _ball(SIGMA)(eps),
    g=lambda eps, u, *z: _ball(1.0)(u),
)
ALONE = bl.SmoothProblem(
    lambda nothing, u, *z: u @ u,
    lambda nothing, u, *z: cost(z[0], u, *z[1:]),
    g=lambda nothing, u, *z: _ball(1.0)(u),
)


def second_order_cone(eps: Tensor, u: Tensor, x: Tensor, *z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the game's solution by its single-level form, in which the adversary is a norm.

    ``min u'Pu + x'Qu + q'u + sigma |Qu|`` over ``|u| <= 1``; ``eps`` is the norm's dual variable.
    """
    P, Q, q = (part.numpy() for part in z)
    rows = np.zeros((4 + 1 + N, M + 1))
    rows[1:4, :M], rows[4, M], rows[5:, :M] = -np.eye(M), -1, -Q
    right = np.zeros(len(rows))
    right[0] = 1
    quadratic = np.zeros((M + 1, M + 1))
    quadratic[:M, :M] = 2 * P
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    found = clarabel.DefaultSolver(
        sparse.csc_matrix(np.triu(quadratic)), np.append(x.numpy() @ Q + q, SIGMA),
        sparse.csc_matrix(rows), right,
        [clarabel.SecondOrderConeT(1 + M), clarabel.SecondOrderConeT(1 + N)], settings,
    ).solve()  # fmt: skip
    return -torch.tensor(found.z[5:]).to(eps), torch.tensor(found.x[:M]).to(u)


def game_layer(solver: Any = second_order_cone) -> SmoothBilevelLayer:
    """Return the layer of the game; what its solver finds is brought to rounding error."""
    return SmoothBilevelLayer(GAME, start=(_STATE, _INPUT), solver=solver)


class Controller(nn.Module):
    """A controller ``argmin over |u| <= 1 of cost(x + eps, u)`` for every system.

    Parameters
    ----------
    given
        The systems; the weights begin with their LQR.
    saturates
        Whether the input is LQR's feedback instead, shortened to length 1.
    """

    def __init__(self, given: Systems, saturates: bool = False) -> None:
        super().__init__()
        P = torch.eye(M) + given.B.mT @ given.S @ given.B
        Q = 2 * given.A.mT @ given.S @ given.B
        self.L = nn.Parameter(torch.linalg.cholesky(P))
        self.Q = nn.Parameter(Q)
        self.q = nn.Parameter(torch.zeros(len(Q), M, dtype=Q.dtype))
        self.given, self.saturates = given, saturates
        self.game, self.alone = game_layer(), SmoothBilevelLayer(ALONE, start=(_EMPTY, _INPUT))

    def respond(self, x: Tensor, attack: str) -> Tensor:
        """Return the inputs to states ``x`` of shape (trajectories, seeds, n) under an attack."""
        flat = x.reshape(-1, N)
        z = [self.L @ self.L.mT, self.Q, self.q]
        z = [part.expand(len(x), *part.shape).flatten(0, 1) for part in z]
        if attack == "game":
            eps, u = self.game(flat, *z)
            return (self._feedback(flat + eps, *z) if self.saturates else u).reshape(
                *x.shape[:2], M
            )
        u = self._alone(flat, *z)
        if attack == "two-step":
            pull = (z[1] @ u[..., None]).squeeze(-1)
            # The small number keeps the direction differentiable where the input is zero.
            eps = SIGMA * pull / (pull.square().sum(-1, keepdim=True) + 1e-12).sqrt()
            u = self._alone(flat + eps, *z)
        return u.reshape(*x.shape[:2], M)

    def _alone(self, x: Tensor, P: Tensor, Q: Tensor, q: Tensor) -> Tensor:
        return self._feedback(x, P, Q, q) if self.saturates else self.alone(x, P, Q, q)[1]

    def _feedback(self, x: Tensor, P: Tensor, Q: Tensor, q: Tensor) -> Tensor:
        wanted = -torch.linalg.solve(2 * P, (x[:, None] @ Q)[:, 0] + q)
        return wanted / wanted.norm(dim=-1, keepdim=True).clamp(min=1.0)

    def forward(self, noise: Tensor, attack: str) -> Tensor:
        """Return the average cost of each trajectory and seed (equation 10a)."""
        x, total, horizon = noise[:, :, 0], 0.0, noise.shape[2] - 1
        for t in range(horizon):
            u = self.respond(x, attack)
            total = total + x.square().sum(-1) + u.square().sum(-1)
            moved = (self.given.A @ x[..., None] + self.given.B @ u[..., None]).squeeze(-1)
            x = moved + noise[:, :, t + 1]
        return total / horizon
