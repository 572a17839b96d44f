"""Newton's method on a leader's problem in ``x`` alone, its follower solved at every point."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.linalg import vecdot, vector_norm

from bilevel.adjoints.linear import direct, quotient
from bilevel.adjoints.stationarity import Hessian, Stationarity, gradients
from bilevel.smooth_solution import SmoothSolution
from bilevel.solvers.smooth.follower import Answered, Newton
from bilevel.solvers.smooth.solver import ANSWERED, AbstractSmoothSolver, Task
from bilevel.solvers.smooth.stationary import Stationary, polish

_LONGEST = 10.0


@dataclass(frozen=True, eq=False)
class _Point:
    """A leader's decisions with what is known there."""

    x: Tensor
    answered: Answered
    value: Tensor
    gradient: Tensor = field(repr=False)
    S: Tensor = field(repr=False)
    slope: Tensor = field(repr=False)
    v: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class _Penalty:
    """The augmented Lagrangian of the leader's constraints."""

    omega: Tensor
    mu: Tensor
    rho: Tensor

    def __call__(self, st: Stationarity, x: Tensor, y: Tensor) -> Tensor:
        value, rho = st.instances.value("F", x, y), self.rho[:, None]
        if st.sizes[4]:
            H = st.instances.vector("H", x, y)
            value = value + (self.omega * H + rho / 2 * H**2).sum(-1)
        if st.sizes[5]:
            G = st.instances.vector("G", x, y)
            pushed = (G + self.mu / rho).clamp(min=0)
            value = value + (rho / 2 * (pushed**2 - (self.mu / rho) ** 2)).sum(-1)
        return value


@dataclass(frozen=True)
class ReducedNewton(AbstractSmoothSolver):
    """Newton's method on ``F(x, y(x))``, for batches of problems of up to some hundred variables.

    The leader's constraints enter by an augmented Lagrangian; at its end Newton's method on all
    optimality conditions at once, on the active rows or on the barrier's equations, brings the
    point to rounding error. Indefinite second derivatives are turned positive, so that a minimum is
    found and not a saddle.

    Parameters
    ----------
    follower
        Solves the follower.
    atol
        Norm of the optimality conditions at which a point is stationary.
    limit
        Most Newton steps of the leader.

    Notes
    -----
    A local method: where ``F(x, y(x))`` is not convex, the point depends on the start.

    Examples
    --------
    >>> import bilevel as bl, torch
    >>> problem = bl.SmoothProblem(
    ...     F=lambda x, y: (x - 3) ** 2 + y**2, f=lambda x, y: (y - x) ** 2, G=lambda x, y: x - 1
    ... )
    >>> start = (torch.tensor(0.0, dtype=torch.float64),) * 2
    >>> solution = bl.solve(problem, bl.ReducedNewton(), start=start)
    >>> print(solution.status.name, round(solution.x.item(), 9))
    STATIONARY 1.0
    """

    follower: Newton = field(default_factory=Newton)
    atol: float = 1e-9
    limit: int = 100

    def run(self, task: Task) -> SmoothSolution:
        """Solve one problem."""
        began = time.perf_counter()
        st, (x, y) = task.stationarity(), task.flat_start()
        w = torch.cat([y, y.new_zeros(1, st.follower_size - y.shape[-1])], -1)
        found = self.stationary(st, x, w)
        x, w, *_ = found.st.split(found.u)
        return task.judge(
            x, w[:, : st.sizes[1]], w, found.st, norm=float(found.residual), atol=ANSWERED,
            is_answer=bool(found.follower_is_minimum), is_minimum=bool(found.is_minimum),
            method=repr(self), steps=found.iterations, seconds=time.perf_counter() - began,
        )  # fmt: skip

    def stationary(self, st: Stationarity, x: Tensor, w: Tensor) -> Stationary:
        """Return stationary points of a batch, from ``x`` and ``w`` on."""
        with torch.no_grad():
            count, (_, _, _, _, equations, rows) = len(x), st.sizes
            penalty = _Penalty(
                x.new_zeros(count, equations), x.new_zeros(count, rows), x.new_full((count,), 10.0)
            )
            constrained, worst, steps = bool(equations + rows), None, 0
            for _ in range(30 if constrained else 1):
                point, used = self._minimize(st, penalty, x, w, 1e-6 if constrained else self.atol)
                x, w, steps = point.x, point.answered.w, steps + used
                if not constrained:
                    break
                penalty, violation, worst = _update(st, penalty, point, worst)
                if bool((violation <= 1e-7).all()) or steps >= 4 * self.limit:
                    break
            return self._finish(point, penalty, steps)

    def _finish(self, point: _Point, penalty: _Penalty, steps: int) -> Stationary:
        return polish(point.answered, point.x, point.v, penalty.omega, penalty.mu, steps)

    def _minimize(
        self, st: Stationarity, penalty: _Penalty, x: Tensor, w: Tensor, atol: float
    ) -> tuple[_Point, int]:
        here, k = self._look(st, penalty, x, w), 0
        small = torch.zeros_like(here.value, dtype=torch.bool)
        while k < self.limit:
            k += 1
            size = vector_norm(here.gradient, dim=-1)
            going = (size > 0) & size.isfinite() & ~small
            small |= size <= atol
            if not bool(going.any()):
                break
            there, moved = self._advance(st, penalty, here, going)
            if not bool(moved.any()):
                break
            here = there
        return here, k

    def _advance(
        self, st: Stationarity, penalty: _Penalty, here: _Point, going: Tensor
    ) -> tuple[_Point, Tensor]:
        d = _descent(here.S, here.gradient, here.x)
        drop, step = vecdot(here.gradient, d), going.to(d)
        noise = 1e-13 * (1 + here.value.abs())
        for _ in range(30):
            x = here.x + step[:, None] * d
            guess = here.answered.w + (here.slope @ (step[:, None] * d)[..., None]).squeeze(-1)
            answered = self.follower(st, x, _inside(st, guess, here.answered.w))
            value = penalty(st, x, answered.w[:, : st.sizes[1]])
            fine = answered.residual <= 1e-6
            good = (value <= here.value + 1e-4 * step * drop + noise) & fine
            if bool((good | ~going).all()):
                break
            step = torch.where(good, step, step / 2)
        moved = good & going
        x = torch.where(moved[:, None], x, here.x)
        w = torch.where(moved[:, None], answered.w, here.answered.w)
        return self._look(st, penalty, x, w), moved

    def _look(self, st: Stationarity, penalty: _Penalty, x: Tensor, w: Tensor) -> _Point:
        """Return value, gradient and second derivative of the leader's problem in ``x``."""
        answered = self.follower(st, x, w)
        at, w, n = answered.st, answered.w, st.sizes[0]

        def whole(u: Tensor) -> Tensor:
            x, w, v = u.split([n, at.follower_size, at.follower_size], -1)
            (K,) = gradients(at.follower(x, w), (w,))
            return penalty(at, x, w[:, : at.sizes[1]]) - vecdot(v, K)

        nothing = torch.zeros_like(w)
        K_w = Hessian(lambda w: at.follower(x, w), w).dense()
        F_w = Hessian(lambda w: penalty(at, x, w[:, : at.sizes[1]]), w).gradient.detach()
        v = direct(K_w, F_w).x
        H = Hessian(whole, torch.cat([x, w, v if v.numel() else nothing], -1))
        matrix, gradient = H.dense(), H.gradient.detach()[:, :n]
        side = matrix[:, n:, :n]
        inner = quotient(matrix[:, n:, n:], side)
        S = matrix[:, :n, :n] - side.mT @ inner
        value = penalty(at, x, w[:, : at.sizes[1]])
        return _Point(x, answered, value, gradient, S, -inner[:, : at.follower_size], v)


def _descent(S: Tensor, g: Tensor, x: Tensor) -> Tensor:
    """Return Newton's direction with positive curvatures, no longer than ``10 (1 + |x|)``."""
    if not g.shape[-1]:
        return g
    finite = S.isfinite().flatten(1).all(-1)
    size, V = torch.linalg.eigh(torch.where(finite[:, None, None], S, torch.eye(S.shape[-1]).to(S)))
    size = size.abs()
    size = torch.maximum(size, 1e-8 * size.amax(-1, keepdim=True).clamp(min=1e-8))
    d = -(V @ ((V.mT @ g[..., None]) / size[..., None])).squeeze(-1)
    most = _LONGEST * (1 + vector_norm(x, dim=-1, keepdim=True))
    return d * (most / vector_norm(d, dim=-1, keepdim=True).clamp(min=1e-300)).clamp(max=1.0)


def _inside(st: Stationarity, guess: Tensor, old: Tensor) -> Tensor:
    """Return a guess whose multipliers of inequalities are those of the last point."""
    first = st.sizes[1] + st.sizes[2]
    return torch.cat([guess[:, :first], old[:, first:]], -1) if st.sizes[3] else guess


def _update(
    st: Stationarity, penalty: _Penalty, point: _Point, worst: Tensor | None
) -> tuple[_Penalty, Tensor, Tensor]:
    x, y = point.x, point.answered.w[:, : st.sizes[1]]
    H, G = st.instances.vector("H", x, y), st.instances.vector("G", x, y)
    rho = penalty.rho[:, None]
    slack = torch.maximum(G, -penalty.mu / rho)
    violation = torch.cat([H.abs(), slack.abs()], -1).amax(-1)
    slow = torch.zeros_like(violation, dtype=torch.bool) if worst is None else violation > worst / 4
    new = _Penalty(
        penalty.omega + rho * H,
        (penalty.mu + rho * G).clamp(min=0),
        torch.where(slow, (10 * penalty.rho).clamp(max=1e8), penalty.rho),
    )
    return new, violation, violation
