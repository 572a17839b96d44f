"""Newton's method on a leader's problem in ``x`` alone, its follower solved at every point."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.linalg import vecdot, vector_norm

from bilevel.adjoints.smooth.stationarity import Stationarity
from bilevel.problem.precision import attainable
from bilevel.smooth_solution import SmoothSolution
from bilevel.solvers.smooth.augmented_lagrangian import (
    LagrangianPoint,
    Penalty,
    descent,
    inside,
    look,
    update,
)
from bilevel.solvers.smooth.follower_solution import FollowerSolution, noise
from bilevel.solvers.smooth.kkt_point import KKTPoint, multipliers, polish
from bilevel.solvers.smooth.newton import Newton
from bilevel.solvers.smooth.solver import ANSWERED, AbstractSmoothSolver, Task

#: No step ends at a follower's answer with a larger residual.
_FOLLOWED = 1e-6
#: From this violation of the leader's constraints on, Newton's method on all conditions is tried.
_NEAR = 0.1
#: So many steps in a row that are a smaller share of Newton's end the search: it is at a kink,
#: where the follower's active rows change, or at the end of where the follower has an answer.
_SHORT = 1e-2
_PATIENCE = 4
#: Steps tried, each a half to a tenth of the last.
_TRIALS = 15
#: Accuracy of the barrier that is asked beyond a kink.
_BARRIER = 1e6
_LATE = "The time limit was met."
_KINK = (
    "The search ended where the optimality conditions cannot hold at once, such as at a kink, "
    "where the follower's active rows change."
)
#: A start whose conditions fail by less is taken for a stationary point's neighbour.
_KNOWN = 1e-3


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
    A local method: where ``F(x, y(x))`` is not convex, the point depends on the start. At a kink,
    where the follower's active rows change, no gradient vanishes: the best point is then sought
    with a log barrier too, and returned as ``FEASIBLE``.

    Examples
    --------
    >>> import bilevel as bl, torch
    >>> problem = bl.SmoothProblem(
    ...     F=lambda x, y: (x - 3) ** 2 + y**2,
    ...     f=lambda x, y: (y - x) ** 2,
    ...     G=lambda x, y: x - 1,
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
        with torch.no_grad():
            end = math.inf if task.time_limit is None else began + task.time_limit
            found, point = self._search(st, x, w, end)
        norm = float(found.residual)
        note = ""
        x, w, *_ = found.st.split(found.u)
        at = found.st
        atol = attainable(ANSWERED, x)
        if not norm <= atol:
            # Newton's method on all conditions has left the point that the search had found.
            is_late = time.perf_counter() >= end
            x, answered = self._beyond(task, st, point, end)
            w = answered.w
            at = answered.st
            note = _LATE if is_late else _KINK
            norm = max(2 * atol, float(vector_norm(point.gradient)))
        return task.judge(
            x,
            w[:, : st.sizes[1]],
            w,
            at,
            norm=norm,
            atol=atol,
            note=note,
            is_answer=bool(found.follower_is_minimum),
            is_minimum=bool(found.is_minimum),
            method=repr(self),
            steps=found.iterations,
            seconds=time.perf_counter() - began,
        )

    def stationary(self, st: Stationarity, x: Tensor, w: Tensor) -> KKTPoint:
        """Return stationary points of a batch, from ``x`` and ``w`` on.

        An instance that is finished stays as it is while others go on: its result does not depend
        on them.
        """
        with torch.no_grad():
            return self._search(st, x, w)[0]

    def _beyond(
        self, task: Task, st: Stationarity, point: LagrangianPoint, end: float
    ) -> tuple[Tensor, FollowerSolution]:
        """Return the best of a point and of what a barrier, which has no kinks, finds from it."""
        best = point.x, point.answered
        if st.barrier_parameter is not None or not st.sizes[3] or time.perf_counter() >= end:
            return best
        with torch.no_grad():
            found, _ = self._search(
                replace(st, barrier_parameter=_BARRIER), point.x, point.answered.w, end
            )
            x, w, *_ = found.st.split(found.u)
            answered = self.follower(st, x, w)
            y, old = (one.w[:, : st.sizes[1]] for one in (answered, point.answered))
            limit = attainable(ANSWERED, x)
            is_good = task.residual(answered.st, x, answered.w) <= limit
            is_good &= task.violation(st, x, y) <= limit
            was_good = task.violation(st, point.x, old) <= limit
            F, F_old = (float(st.instances.value("F", a, b)) for a, b in ((x, y), (point.x, old)))
            return (x, answered) if is_good and (F_old > F or not was_good) else best

    def _search(
        self, st: Stationarity, x: Tensor, w: Tensor, end: float = math.inf
    ) -> tuple[KKTPoint, LagrangianPoint]:
        """Return stationary points, and those of the leader's problem that they were sought from.

        The second ones are answers of the follower in any case.
        """
        count, (_, _, _, _, equations, rows) = len(x), st.sizes
        penalty = Penalty(
            x.new_zeros(count, equations), x.new_zeros(count, rows), x.new_full((count,), 10.0)
        )
        is_penalized = bool(equations + rows)
        atol = attainable(1e-6 if is_penalized else self.atol, x, 10)
        answered = self.follower(st, x, w)
        v = torch.zeros_like(w)
        worst = torch.full_like(x.sum(-1), torch.inf)
        steps = torch.zeros(count, dtype=torch.int)
        open_ = torch.ones(count, dtype=torch.bool, device=x.device)
        if is_penalized and st.barrier_parameter is None:
            v, penalty, open_ = self._known(answered, x, penalty)
        for _ in range(30 if is_penalized else 1):
            point, used = self._minimize(penalty, x, answered, open_, atol, end)
            x = point.x
            answered = point.answered
            steps = steps + used
            v = torch.where(open_[:, None], point.v, v)
            if is_penalized:
                penalty, worst = update(penalty, point, worst, open_)
            found = polish(answered, x, v, penalty.omega, penalty.mu, int(steps.max()))
            fine = found.residual <= attainable(self.atol, x)
            settled = (worst <= _NEAR) & found.is_strict & fine
            many = (steps >= 4 * self.limit).to(x.device)
            open_ = open_ & (worst > attainable(1e-7, x, 100)) & ~settled & ~many
            if not bool(open_.any()) or time.perf_counter() >= end:
                break
        return found, point

    def _known(
        self, answered: FollowerSolution, x: Tensor, penalty: Penalty
    ) -> tuple[Tensor, Penalty, Tensor]:
        """Return multipliers where the start is stationary already, and where it is not."""
        st = answered.st
        y = answered.w[:, : answered.st.sizes[1]]
        v, omega, mu, left = multipliers(answered, x)
        H = st.instances.vector("H", x, y)
        G = st.instances.vector("G", x, y)
        violation = torch.cat([H.abs(), G], -1).amax(-1)
        found = polish(answered, x, v, omega, mu, 0)
        known = (torch.maximum(left, violation) <= _KNOWN) & (answered.residual <= _FOLLOWED)
        known &= found.is_strict & (found.residual <= attainable(self.atol, x))
        begun = Penalty(
            torch.where(known[:, None], omega, penalty.omega),
            torch.where(known[:, None], mu, penalty.mu),
            penalty.rho,
        )
        return v, begun, ~known

    def _minimize(
        self,
        penalty: Penalty,
        x: Tensor,
        answered: FollowerSolution,
        going: Tensor,
        atol: float,
        end: float,
    ) -> tuple[LagrangianPoint, Tensor]:
        here = look(penalty, x, answered)
        steps = torch.zeros(len(x), dtype=torch.int)
        small = torch.zeros_like(going)
        last = torch.full_like(here.value, torch.inf)
        # Where the follower has no answer there is no hypergradient to follow.
        falls = torch.ones_like(going)
        short = torch.zeros_like(here.value)
        going = going & (answered.residual <= attainable(_FOLLOWED, x))
        for _ in range(self.limit):
            size = vector_norm(here.gradient, dim=-1)
            # Where the value no longer tells, the gradient must.
            going = going & (falls | (size < last))
            last = size
            # One step more than asked: it squares the error.
            going = going & (size > 0) & size.isfinite() & ~small
            small |= size <= atol
            if not bool(going.any()) or time.perf_counter() >= end:
                break
            steps += going.cpu()
            x, answered, step = self._advance(penalty, here, going)
            short = torch.where(step < _SHORT, short + 1, 0)
            going = going & (step > 0) & (short < _PATIENCE)
            if not bool(going.any()):
                break
            there = look(penalty, x, answered)
            falls = there.value < here.value - noise(here.value, 500)
            here = there
        return here, steps

    def _advance(
        self, penalty: Penalty, here: LagrangianPoint, going: Tensor
    ) -> tuple[Tensor, FollowerSolution, Tensor]:
        """Return the next decisions, their answers, and the shares of Newton's steps taken."""
        st = here.answered.st
        old = here.answered
        d = descent(here.S, here.gradient, here.x)
        d = torch.where(going[:, None], d, 0.0)
        drop = vecdot(here.gradient, d)
        step = going.to(d)
        x = here.x
        answered = old
        moved = torch.zeros_like(going)
        for _ in range(_TRIALS):
            asked = going & ~moved
            there = here.x + step[:, None] * d
            guess = old.w + (here.slope @ (step[:, None] * d)[..., None]).squeeze(-1)
            found = self.follower(st, there, inside(st, guess, old.w), asked)
            value = penalty(st, there, found.w[:, : st.sizes[1]])
            fine = asked & (found.residual <= attainable(_FOLLOWED, there))
            good = (value <= here.value + 1e-4 * step * drop + noise(here.value, 500)) & fine
            x = torch.where(good[:, None], there, x)
            answered = found.where(good, answered)
            moved = moved | good
            if bool((moved | ~going).all()):
                break
            # The minimum of the parabola through what is known, where there is an answer.
            bend = value - here.value - step * drop
            share = (-step * drop / (2 * bend)).nan_to_num(0.5).clamp(min=0.1, max=0.5)
            step = torch.where(moved, step, step * torch.where(fine, share, 0.25))
        return x, answered, torch.where(moved, step, 0.0)
