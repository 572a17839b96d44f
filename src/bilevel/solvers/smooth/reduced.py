"""Newton's method on a leader's problem in ``x`` alone, its follower solved at every point."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.linalg import vecdot, vector_norm

from bilevel.adjoints.linear import direct, quotient
from bilevel.adjoints.stationarity import Hessian, Stationarity, gradients
from bilevel.problem.precision import attainable
from bilevel.smooth_solution import SmoothSolution
from bilevel.solvers.smooth.answered import Answered, noise
from bilevel.solvers.smooth.follower import Newton
from bilevel.solvers.smooth.solver import ANSWERED, AbstractSmoothSolver, Task
from bilevel.solvers.smooth.stationary import Stationary, multipliers, polish

_LONGEST = 10.0
#: No step ends at a follower's answer with a larger residual.
_FOLLOWED = 1e-6
#: From this violation of the leader's constraints on, Newton's method on all conditions is tried.
_NEAR = 0.1
#: A start whose conditions fail by less is taken for a stationary point's neighbour.
_KNOWN = 1e-3


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
            x, w[:, : st.sizes[1]], w, found.st, norm=float(found.residual),
            atol=attainable(ANSWERED, x), is_answer=bool(found.follower_is_minimum),
            is_minimum=bool(found.is_minimum), method=repr(self), steps=found.iterations,
            seconds=time.perf_counter() - began,
        )  # fmt: skip

    def stationary(self, st: Stationarity, x: Tensor, w: Tensor) -> Stationary:
        """Return stationary points of a batch, from ``x`` and ``w`` on.

        An instance that is finished stays as it is while others go on: its result does not depend
        on them.
        """
        with torch.no_grad():
            count, (_, _, _, _, equations, rows) = len(x), st.sizes
            penalty = _Penalty(
                x.new_zeros(count, equations), x.new_zeros(count, rows), x.new_full((count,), 10.0)
            )
            is_penalized = bool(equations + rows)
            atol = attainable(1e-6 if is_penalized else self.atol, x, 10)
            answered, v = self.follower(st, x, w), torch.zeros_like(w)
            worst, steps = (
                torch.full_like(x.sum(-1), torch.inf),
                torch.zeros(count, dtype=torch.int),
            )
            open_ = torch.ones(count, dtype=torch.bool, device=x.device)
            if is_penalized and st.t is None:
                v, penalty, open_ = self._known(answered, x, penalty)
                if not bool(open_.any()):
                    return polish(answered, x, v, penalty.omega, penalty.mu, 0)
            for _ in range(30 if is_penalized else 1):
                point, used = self._minimize(penalty, x, answered, open_, atol)
                x, answered, steps = point.x, point.answered, steps + used
                v = torch.where(open_[:, None], point.v, v)
                if not is_penalized:
                    break
                penalty, worst = _update(penalty, point, worst, open_)
                found = polish(answered, x, v, penalty.omega, penalty.mu, int(steps.max()))
                fine = found.residual <= attainable(self.atol, x)
                settled = (worst <= _NEAR) & found.is_strict & fine
                many = (steps >= 4 * self.limit).to(x.device)
                open_ = open_ & (worst > attainable(1e-7, x, 100)) & ~settled & ~many
                if not bool(open_.any()):
                    return found
            return polish(answered, x, v, penalty.omega, penalty.mu, int(steps.max()))

    def _known(
        self, answered: Answered, x: Tensor, penalty: _Penalty
    ) -> tuple[Tensor, _Penalty, Tensor]:
        """Return multipliers where the start is stationary already, and where it is not."""
        st, y = answered.st, answered.w[:, : answered.st.sizes[1]]
        v, omega, mu, left = multipliers(answered, x)
        H, G = st.instances.vector("H", x, y), st.instances.vector("G", x, y)
        violation = torch.cat([H.abs(), G], -1).amax(-1)
        found = polish(answered, x, v, omega, mu, 0)
        known = (torch.maximum(left, violation) <= _KNOWN) & (answered.residual <= _FOLLOWED)
        known &= found.is_strict & (found.residual <= attainable(self.atol, x))
        begun = _Penalty(
            torch.where(known[:, None], omega, penalty.omega),
            torch.where(known[:, None], mu, penalty.mu),
            penalty.rho,
        )
        return v, begun, ~known

    def _minimize(
        self, penalty: _Penalty, x: Tensor, answered: Answered, going: Tensor, atol: float
    ) -> tuple[_Point, Tensor]:
        here, steps = _look(penalty, x, answered), torch.zeros(len(x), dtype=torch.int)
        small, last = torch.zeros_like(going), torch.full_like(here.value, torch.inf)
        # Where the follower has no answer there is no hypergradient to follow.
        falls = torch.ones_like(going)
        going = going & (answered.residual <= attainable(_FOLLOWED, x))
        for _ in range(self.limit):
            size = vector_norm(here.gradient, dim=-1)
            # Where the value no longer tells, the gradient must.
            going = going & (falls | (size < last))
            last = size
            # One step more than asked: it squares the error.
            going = going & (size > 0) & size.isfinite() & ~small
            small |= size <= atol
            if not bool(going.any()):
                break
            steps += going.cpu()
            x, answered, going = self._advance(penalty, here, going)
            if not bool(going.any()):
                break
            there = _look(penalty, x, answered)
            falls = there.value < here.value - noise(here.value, 500)
            here = there
        return here, steps

    def _advance(
        self, penalty: _Penalty, here: _Point, going: Tensor
    ) -> tuple[Tensor, Answered, Tensor]:
        st, old = here.answered.st, here.answered
        d = _descent(here.S, here.gradient, here.x)
        d = torch.where(going[:, None], d, 0.0)
        drop, step = vecdot(here.gradient, d), going.to(d)
        x, answered, moved = here.x, old, torch.zeros_like(going)
        for _ in range(30):
            asked = going & ~moved
            there = here.x + step[:, None] * d
            guess = old.w + (here.slope @ (step[:, None] * d)[..., None]).squeeze(-1)
            found = self.follower(st, there, _inside(st, guess, old.w), asked)
            value = penalty(st, there, found.w[:, : st.sizes[1]])
            fine = asked & (found.residual <= attainable(_FOLLOWED, there))
            good = (value <= here.value + 1e-4 * step * drop + noise(here.value, 500)) & fine
            x, answered = torch.where(good[:, None], there, x), found.where(good, answered)
            moved = moved | good
            if bool((moved | ~going).all()):
                break
            # The minimum of the parabola through what is known, where there is an answer.
            bend = value - here.value - step * drop
            share = (-step * drop / (2 * bend)).nan_to_num(0.5).clamp(min=0.1, max=0.5)
            step = torch.where(moved, step, step * torch.where(fine, share, 0.25))
        return x, answered, moved


def _look(penalty: _Penalty, x: Tensor, answered: Answered) -> _Point:
    """Return value, gradient and second derivative of the leader's problem in ``x``."""
    at, w, n = answered.st, answered.w, x.shape[-1]

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
    penalty: _Penalty, point: _Point, worst: Tensor, open_: Tensor
) -> tuple[_Penalty, Tensor]:
    st, x = point.answered.st, point.x
    y = point.answered.w[:, : st.sizes[1]]
    H, G = st.instances.vector("H", x, y), st.instances.vector("G", x, y)
    rho = penalty.rho[:, None]
    slack = torch.maximum(G, -penalty.mu / rho)
    violation = torch.cat([H.abs(), slack.abs()], -1).amax(-1)
    slow = violation > worst / 4
    new = _Penalty(
        torch.where(open_[:, None], penalty.omega + rho * H, penalty.omega),
        torch.where(open_[:, None], (penalty.mu + rho * G).clamp(min=0), penalty.mu),
        torch.where(open_ & slow, (10 * penalty.rho).clamp(max=1e8), penalty.rho),
    )
    return new, torch.where(open_, violation, worst)
