"""Newton's method on a leader's problem in ``x`` alone, its follower solved at every point."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.linalg import vecdot, vector_norm

from bilevel.adjoints.smooth.stationarity import Stationarity
from bilevel.deprecation import renamed_fields
from bilevel.errors import ProblemError
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
from bilevel.solvers.smooth.iterate import AbstractIterativeSolver, Search
from bilevel.solvers.smooth.kkt_point import KKTPoint, multipliers, polish
from bilevel.solvers.smooth.newton import Newton
from bilevel.solvers.smooth.solver import FOLLOWER_ATOL, SearchReport, Task

#: No step ends at a response with a larger residual.
_FOLLOWED = 1e-6
#: From this violation of the leader's constraints on, Newton's method on all conditions is tried.
_NEAR = 0.1
#: So many steps in a row that are a smaller share of Newton's end the search: it is at a kink,
#: where the follower's active rows change, or at the end of where the follower has a response.
_SHORT = 1e-2
_PATIENCE = 4
#: Steps tried, each a half to a tenth of the last.
_TRIALS = 15
#: How often the multipliers of the leader's constraints are set.
_ROUNDS = 30
#: So many times ``max_steps`` are taken in all rounds together.
_TOTAL = 4
#: Accuracy of the barrier that is asked beyond a kink.
_BARRIER = 1e6
_KINK = (
    "The search ended where the optimality conditions cannot hold at once, such as at a kink, "
    "where the follower's active rows change."
)
#: A start whose conditions fail by less is taken for a stationary point's neighbour.
_KNOWN = 1e-3


@dataclass(frozen=True, eq=False)
class NewtonRound:
    """Newton's method on a batch while the multipliers of the leader's constraints stay.

    Parameters
    ----------
    here
        The decisions reached, with what is known there.
    going
        The instances that take another step.
    small
        Those whose gradient was small: they take one step more, which squares the error.
    falls
        Those whose value has decreased by more than rounding.
    size
        Norm of the gradient at the point before.
    short
        How many of the last steps in a row were short.
    steps
        Steps of each instance.
    count
        Steps of the batch.
    """

    here: LagrangianPoint
    going: Tensor
    small: Tensor
    falls: Tensor
    size: Tensor
    short: Tensor
    steps: Tensor
    count: int = 0


@dataclass(frozen=True, eq=False)
class NewtonState:
    """Where the search for stationary points of a batch is.

    Parameters
    ----------
    st, x, w
        The scalars, and the decisions and follower's variables it begins with.
    penalty
        Multipliers of the leader's constraints, and prices of their violation.
    v
        The follower's co-state.
    worst
        The leader's largest violation after the last round, for each instance.
    steps
        Steps of each instance in all rounds.
    open_
        The instances that need another round.
    round
        The round that goes on; ``None`` before the first.
    rounds
        How many rounds have ended.
    found
        The stationary points after the last round that has ended.
    is_done
        Whether no instance needs another round.
    is_news
        Whether the last step has reached another point.
    kink
        The search that has ended at a kink, from where this one goes on with a barrier.
    """

    st: Stationarity
    x: Tensor
    w: Tensor
    penalty: Penalty
    v: Tensor
    worst: Tensor
    steps: Tensor
    open_: Tensor
    round: NewtonRound | None = None
    rounds: int = 0
    found: KKTPoint | None = None
    is_done: bool = False
    is_news: bool = False
    kink: NewtonState | None = None


@renamed_fields(limit="max_steps")
@dataclass(frozen=True)
class ReducedNewton(AbstractIterativeSolver[NewtonState]):
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
    max_steps
        Most Newton steps of the leader. Where it has constraints: between two updates of their
        multipliers; four times as many in all.

    Notes
    -----
    A local method: where ``F(x, y(x))`` is not convex, the point depends on the start. At a kink,
    where the follower's active rows change, no gradient vanishes: the best point is then sought
    with a log barrier too, and returned as ``FEASIBLE``. A limit, the callback or Ctrl-C end the
    search with the point reached, brought to rounding error where it is near a stationary one. The
    callback is told ``F`` after each step, and no value while the leader's constraints do not hold.

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
    max_steps: int = 100

    def __post_init__(self) -> None:
        if self.max_steps < 1 or not self.atol >= 0:
            raise ProblemError("ReducedNewton needs max_steps >= 1 and atol >= 0.")

    @property
    def step_limit(self) -> float:
        """Infinite: the steps of each instance are counted."""
        return math.inf

    def init(self, task: Task) -> NewtonState:
        """See the abstract method."""
        st = task.stationarity()
        x, y = task.flat_start()
        w = torch.cat([y, y.new_zeros(1, st.follower_size - y.shape[-1])], -1)
        return _begun(st, x, w)

    def step(self, task: Task, state: NewtonState) -> NewtonState:
        """See the abstract method; at a kink, begin another search with a barrier."""
        with torch.no_grad():
            if state.is_done and state.round is not None:
                point = state.round.here
                st = replace(state.st, barrier_parameter=_BARRIER)
                return replace(_begun(st, point.x, point.response.w), kink=state)
            return self._advanced(state)

    def terminate(self, task: Task, state: NewtonState) -> str | None:
        """See the abstract method."""
        return "" if state.is_done and not self._may_need_barrier(state) else None

    def value(self, task: Task, state: NewtonState) -> float | None:
        """See the abstract method."""
        if not state.is_news or state.round is None:
            return None
        point = state.round.here
        st = point.response.st
        if not any(st.sizes[4:]):
            return float(point.value)
        y = point.response.w[:, : st.sizes[1]]
        if task.violation(st, point.x, y) > attainable(FOLLOWER_ATOL, point.x):
            return math.nan
        with torch.no_grad():
            return float(st.instances.value("F", point.x, y))

    def finish(self, task: Task, search: Search[NewtonState]) -> SmoothSolution:
        """Return the best point, judged."""
        state = search.state
        if (
            state.round is not None
            and not state.is_done
            and (state.round.count or not state.rounds)
        ):
            with torch.no_grad():
                state = self._closed(state)
        first = state if state.kink is None else state.kink
        if first.round is None or first.found is None:
            return self._unknown(task, search)
        found = first.found
        norm = float(found.residual)
        note = search.note
        steps = found.steps
        x, w, *_ = found.st.split(found.u)
        at = found.st
        atol = attainable(FOLLOWER_ATOL, x)
        if not norm <= atol:
            # Newton's method on all conditions has left the point that the search had found.
            point = first.round.here
            x, response = point.x, point.response
            if state.kink is not None and state.found is not None:
                steps += state.found.steps
                x, response = self._better(task, first.st, point, state.found)
            w = response.w
            at = response.st
            norm = max(2 * atol, float(vector_norm(point.gradient)))
            note = note or (
                self.used_up.format(steps=found.steps) if self._is_used_up(first) else _KINK
            )
        report = SearchReport(
            method=repr(self),
            norm=norm,
            atol=atol,
            steps=steps,
            seconds=search.seconds,
            note=note,
            trace=search.trace,
            follower_is_minimum=bool(found.follower_is_minimum),
            is_minimum=bool(found.is_minimum),
        )
        return task.judge(x, w[:, : at.sizes[1]], w, at, report)

    def _unknown(self, task: Task, search: Search[NewtonState]) -> SmoothSolution:
        """Return the start, judged: the search was interrupted before anything was known of it."""
        state = search.state
        report = SearchReport(
            method=repr(self),
            norm=math.inf,
            atol=self.atol,
            steps=0,
            seconds=search.seconds,
            note=search.note,
        )
        return task.judge(state.x, state.w[:, : state.st.sizes[1]], state.w, state.st, report)

    def _better(
        self, task: Task, st: Stationarity, point: LagrangianPoint, found: KKTPoint
    ) -> tuple[Tensor, FollowerSolution]:
        """Return the better of a point and of what a barrier, which has no kinks, found from it."""
        with torch.no_grad():
            x, w, *_ = found.st.split(found.u)
            response = self.follower(st, x, w)
            y, old = (one.w[:, : st.sizes[1]] for one in (response, point.response))
            limit = attainable(FOLLOWER_ATOL, x)
            is_good = task.residual(response.st, x, response.w) <= limit
            is_good &= task.violation(st, x, y) <= limit
            was_good = task.violation(st, point.x, old) <= limit
            F, F_old = (float(st.instances.value("F", a, b)) for a, b in ((x, y), (point.x, old)))
        if is_good and (F_old > F or not was_good):
            return x, response
        return point.x, point.response

    def stationary(self, st: Stationarity, x: Tensor, w: Tensor) -> KKTPoint:
        """Return stationary points of a batch, from ``x`` and ``w`` on.

        An instance that is finished stays as it is while others go on: its result does not depend
        on them.
        """
        with torch.no_grad():
            state = _begun(st, x, w)
            while state.found is None or not state.is_done:
                state = self._advanced(state)
            return state.found

    @staticmethod
    def _may_need_barrier(state: NewtonState) -> bool:
        """Return whether a search has ended where a barrier may lead on: at no stationary point."""
        if state.found is None or state.st.barrier_parameter is not None or not state.st.sizes[3]:
            return False
        return not float(state.found.residual) <= attainable(FOLLOWER_ATOL, state.x)

    def _is_used_up(self, state: NewtonState) -> bool:
        """Return whether more steps might have led further."""
        last = 0 if state.round is None else state.round.count
        return last >= self.max_steps or int(state.steps.max()) >= _TOTAL * self.max_steps

    def _advanced(self, state: NewtonState) -> NewtonState:
        """Return the state after a Newton step, or after a round was begun or ended."""
        if state.round is None:
            response = self.follower(state.st, state.x, state.w)
            if any(state.st.sizes[4:]) and state.st.barrier_parameter is None:
                state = self._known(state, response)
            return self._opened(state, state.x, response)
        if bool(state.round.going.any()) and state.round.count < self.max_steps:
            return replace(state, round=self._moved(state.penalty, state.round), is_news=True)
        closed = self._closed(state)
        if closed.is_done:
            return closed
        here = state.round.here
        return self._opened(closed, here.x, here.response)

    def _known(self, state: NewtonState, response: FollowerSolution) -> NewtonState:
        """Return the state with the multipliers of those starts that are stationary already."""
        st = response.st
        x = state.x
        y = response.w[:, : st.sizes[1]]
        v, omega, mu, remaining = multipliers(response, x)
        H = st.instances.vector("H", x, y)
        G = st.instances.vector("G", x, y)
        violation = torch.cat([H.abs(), G], -1).amax(-1)
        found = polish(response, x, v, omega, mu, 0)
        known = torch.maximum(remaining, violation) <= _KNOWN
        known &= response.residual <= _FOLLOWED
        known &= found.is_strict & (found.residual <= attainable(self.atol, x))
        penalty = Penalty(
            torch.where(known[:, None], omega, state.penalty.omega),
            torch.where(known[:, None], mu, state.penalty.mu),
            state.penalty.rho,
        )
        return replace(state, v=v, penalty=penalty, open_=~known)

    def _opened(self, state: NewtonState, x: Tensor, response: FollowerSolution) -> NewtonState:
        """Begin a round at given decisions."""
        here = look(state.penalty, x, response)
        # Where the follower has no response there is no hypergradient to follow.
        going = state.open_ & (response.residual <= attainable(_FOLLOWED, x))
        begun = NewtonRound(
            here,
            going,
            small=torch.zeros_like(going),
            falls=torch.ones_like(going),
            size=torch.full_like(here.value, torch.inf),
            short=torch.zeros_like(here.value),
            steps=torch.zeros(len(x), dtype=torch.int),
        )
        return replace(state, round=self._sized_up(begun), is_news=True)

    def _closed(self, state: NewtonState) -> NewtonState:
        """End the round: set the multipliers anew, and polish."""
        ended = state.round
        if ended is None:
            return state
        point = ended.here
        x = point.x
        is_penalized = any(state.st.sizes[4:])
        steps = state.steps + ended.steps
        v = torch.where(state.open_[:, None], point.v, state.v)
        penalty = state.penalty
        worst = state.worst
        if is_penalized:
            penalty, worst = update(penalty, point, worst, state.open_)
        found = polish(point.response, x, v, penalty.omega, penalty.mu, int(steps.max()))
        fine = found.residual <= attainable(self.atol, x)
        settled = (worst <= _NEAR) & found.is_strict & fine
        many = (steps >= _TOTAL * self.max_steps).to(x.device)
        open_ = state.open_ & (worst > attainable(1e-7, x, 100)) & ~settled & ~many
        rounds = state.rounds + 1
        return replace(
            state,
            penalty=penalty,
            v=v,
            worst=worst,
            steps=steps,
            open_=open_,
            rounds=rounds,
            found=found,
            is_done=not bool(open_.any()) or rounds >= (_ROUNDS if is_penalized else 1),
            is_news=False,
        )

    def _sized_up(self, at: NewtonRound) -> NewtonRound:
        """Return the round with those instances going that need another step."""
        here = at.here
        is_penalized = any(here.response.st.sizes[4:])
        atol = attainable(1e-6 if is_penalized else self.atol, here.x, 10)
        size = vector_norm(here.gradient, dim=-1)
        # Where the value no longer tells, the gradient must.
        going = at.going & (at.falls | (size < at.size))
        # One step more than asked: it squares the error.
        going = going & (size > 0) & size.isfinite() & ~at.small
        return replace(at, going=going, small=at.small | (size <= atol), size=size)

    def _moved(self, penalty: Penalty, at: NewtonRound) -> NewtonRound:
        """Return the round after one more step."""
        here = at.here
        steps = at.steps + at.going.cpu()
        x, response, step = self._searched(penalty, here, at.going)
        short = torch.where(step < _SHORT, at.short + 1, 0)
        going = at.going & (step > 0) & (short < _PATIENCE)
        moved = replace(at, going=going, short=short, steps=steps, count=at.count + 1)
        if not bool(going.any()):
            return moved
        there = look(penalty, x, response)
        falls = there.value < here.value - noise(here.value, 500)
        return self._sized_up(replace(moved, here=there, falls=falls))

    def _searched(
        self, penalty: Penalty, here: LagrangianPoint, going: Tensor
    ) -> tuple[Tensor, FollowerSolution, Tensor]:
        """Return the next decisions, the responses, and the shares of Newton's steps taken."""
        st = here.response.st
        old = here.response
        d = descent(here.S, here.gradient, here.x)
        d = torch.where(going[:, None], d, 0.0)
        drop = vecdot(here.gradient, d)
        step = going.to(d)
        x = here.x
        response = old
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
            response = found.where(good, response)
            moved = moved | good
            if bool((moved | ~going).all()):
                break
            # The minimum of the parabola through what is known, where there is a response.
            bend = value - here.value - step * drop
            share = (-step * drop / (2 * bend)).nan_to_num(0.5).clamp(min=0.1, max=0.5)
            step = torch.where(moved, step, step * torch.where(fine, share, 0.25))
        return x, response, torch.where(moved, step, 0.0)


def _begun(st: Stationarity, x: Tensor, w: Tensor) -> NewtonState:
    """Return the state in which nothing is known of a batch's start."""
    equations, rows = st.sizes[4:]
    count = len(x)
    return NewtonState(
        st,
        x,
        w,
        Penalty(
            x.new_zeros(count, equations), x.new_zeros(count, rows), x.new_full((count,), 10.0)
        ),
        v=torch.zeros_like(w),
        worst=torch.full_like(x.sum(-1), torch.inf),
        steps=torch.zeros(count, dtype=torch.int),
        open_=torch.ones(count, dtype=torch.bool, device=x.device),
    )
