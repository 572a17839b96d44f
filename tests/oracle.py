"""Ground truth that shares no line with the library: it enumerates, and calls scipy.

``Game`` holds a small bilevel problem as plain arrays. ``problem`` writes it in CVXPY for the
library; ``optimum`` enumerates all complementarity patterns, one MILP each; ``worst`` enumerates
the leader's integer decisions and solves the follower's LP three times at each.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import cvxpy as cp
import numpy as np
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

import bilevel as bl
from bilevel.program import Program

UNBOUNDED = -np.inf
NOTHING = np.inf


@dataclass(frozen=True)
class Game:
    """``min F'(x, y) + price'lam`` s.t. ``G (x, y) <= g``, ``low <= x <= high`` and

    ``y in argmin y'Qy/2 + (c + D x)'y  s.t.  A y + B x <= b`` (``==`` where ``equality``).
    """

    F: np.ndarray
    low: np.ndarray
    high: np.ndarray
    integer: np.ndarray
    c: np.ndarray
    A: np.ndarray
    B: np.ndarray
    b: np.ndarray
    Q: np.ndarray
    D: np.ndarray
    equality: np.ndarray
    G: np.ndarray
    g: np.ndarray
    price: np.ndarray
    maximize_leader: bool = False
    maximize_follower: bool = False
    stance: str = field(default="optimistic")

    @property
    def sign(self) -> float:
        """Factor from the library's leader value to ``F``."""
        return -1.0 if self.maximize_leader else 1.0

    def problem(self, stance: str = "optimistic") -> bl.Problem:
        """Return the game as a fresh CVXPY problem; a maximized level states ``-F`` or ``-f``."""
        x = cp.hstack(
            [cp.Variable(name=f"x{i}", integer=bool(flag)) for i, flag in enumerate(self.integer)]
        )
        y = cp.Variable(len(self.c), name="y")
        f = (self.c + self.D @ x) @ y + 0.5 * cp.quad_form(y, cp.psd_wrap(self.Q))
        rows = [
            self.A[i] @ y + self.B[i] @ x == self.b[i]
            if self.equality[i]
            else self.A[i] @ y + self.B[i] @ x <= self.b[i]
            for i in range(len(self.b))
        ]
        sense = cp.Maximize(-f) if self.maximize_follower else cp.Minimize(f)
        follower = bl.Follower(sense, rows, variables=[y], name="answerer")
        F = self.F @ cp.hstack([x, y])
        for i in np.flatnonzero(self.price):
            F = F + self.price[i] * follower.dual(rows[i])
        leading = [x >= self.low, x <= self.high]
        leading += [self.G[k] @ cp.hstack([x, y]) <= self.g[k] for k in range(len(self.g))]
        sense = cp.Maximize(-F) if self.maximize_leader else cp.Minimize(F)
        return bl.Problem(sense, leading, followers=[follower], stance=stance)

    def optimum(self) -> float:
        """Return the optimistic optimum of ``F``, ``UNBOUNDED`` or ``NOTHING``."""
        return min((self._pattern(active) for active in self._patterns()), default=NOTHING)

    def _patterns(self):
        choices = [(True,) if flag else (True, False) for flag in self.equality]
        opposed = self._opposed()
        for active in itertools.product(*choices):
            if not any(active[i] and active[j] for i, j in opposed):
                yield active

    def _opposed(self) -> list[tuple[int, int]]:
        """Return pairs of parallel rows that cannot be active together."""
        pairs = itertools.combinations(range(len(self.b)), 2)
        return [
            (i, j)
            for i, j in pairs
            if (self.A[i] == -self.A[j]).all()
            and (self.B[i] == -self.B[j]).all()
            and self.b[i] + self.b[j] > 0
        ]

    def _pattern(self, active) -> float:
        ny, m = len(self.c), len(self.b)
        active = np.array(active, bool)
        cost = np.concatenate([self.F, self.price])
        free = np.full(ny, np.inf)
        low = np.concatenate([self.low, -free, np.where(self.equality, -np.inf, 0.0)])
        high = np.concatenate([self.high, free, np.where(active, np.inf, 0.0)])
        rows = [
            LinearConstraint(np.hstack([self.D, self.Q, self.A.T]), -self.c, -self.c),
            LinearConstraint(
                np.hstack([self.B, self.A, np.zeros((m, m))]),
                np.where(active, self.b, -np.inf),
                self.b,
            ),
        ]
        if len(self.g):
            rows.append(
                LinearConstraint(np.hstack([self.G, np.zeros((len(self.g), m))]), -np.inf, self.g)
            )
        whole = np.concatenate([self.integer.astype(int), np.zeros(ny + m, int)])
        arguments = {"constraints": rows, "bounds": Bounds(low, high), "integrality": whole}
        found = milp(cost, **arguments)
        if found.status == 4:  # "unbounded or infeasible", or numerical trouble in presolve
            found = milp(cost, options={"presolve": False}, **arguments)
        if found.status == 4:
            found = milp(0 * cost, **arguments)
            return NOTHING if found.status == 2 else UNBOUNDED
        if found.status in (2, 3):
            return NOTHING if found.status == 2 else UNBOUNDED
        if found.status != 0:
            raise RuntimeError(found.message)
        return float(found.fun)

    def decisions(self):
        """Yield all integer leader decisions."""
        spans = [np.arange(a, b + 1) for a, b in zip(self.low, self.high, strict=True)]
        for point in itertools.product(*spans):
            yield np.array(point, float)

    def worst(self) -> float:
        """Return the pessimistic optimum for an LP follower and integer leader decisions.

        A decision counts only if the coupling rows hold for every best response.
        """
        if self.Q.any() or not self.integer.all():
            raise ValueError("the pessimistic oracle wants an LP follower and an integer leader")
        return min((self._worst_at(x) for x in self.decisions()), default=NOTHING)

    def _worst_at(self, x: np.ndarray) -> float:
        nx, d, rhs = len(x), self.c + self.D @ x, self.b - self.B @ x
        inequality = ~self.equality
        best = linprog(
            d,
            self.A[inequality],
            rhs[inequality],
            self.A[self.equality],
            rhs[self.equality],
            bounds=(None, None),
        )
        if best.status != 0:
            return NOTHING
        rows = np.vstack([self.A[inequality], d])
        sides = np.append(rhs[inequality], best.fun + 1e-9)

        def largest(part: np.ndarray) -> float:
            found = linprog(
                -part,
                rows,
                sides,
                self.A[self.equality],
                rhs[self.equality],
                bounds=(None, None),
            )
            return np.inf if found.status != 0 else -found.fun

        for row, side in zip(self.G, self.g, strict=True):
            if row[:nx] @ x + largest(row[nx:]) > side + 1e-6:
                return NOTHING
        return float(self.F[:nx] @ x + largest(self.F[nx:]))


@st.composite
def games(
    draw,
    *,
    quadratic: bool = False,
    integer: bool = False,
    boxed: bool = True,
    priced: bool = False,
    coupled: bool = True,
    rows: int = 3,
) -> Game:
    """Draw a small game with integer data; ``boxed`` bounds the follower and its multipliers."""
    small = st.integers(-3, 3)

    def array(*shape):
        count = int(np.prod(shape))
        flat = draw(st.lists(small, min_size=count, max_size=count))
        return np.array(flat, float).reshape(shape)

    nx, ny, m = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, rows))
    A, B = array(m, ny), array(m, nx)
    b = np.array(draw(st.lists(st.integers(-2, 6), min_size=m, max_size=m)), float)
    equality = np.zeros(m, bool)
    equality[0] = draw(st.booleans()) and bool(A[0].any())
    if boxed:
        A = np.vstack([A, np.eye(ny), -np.eye(ny)])
        B = np.vstack([B, np.zeros((2 * ny, nx))])
        b = np.concatenate([b, np.full(ny, 4.0), np.full(ny, 2.0)])
        equality = np.concatenate([equality, np.zeros(2 * ny, bool)])
    root = array(ny, ny) if quadratic else np.zeros((ny, ny))
    count = draw(st.integers(0, 2)) if coupled else 0
    price = np.zeros(len(b))
    if priced:
        price[:m] = array(m) * A[:m].any(axis=1)
    return Game(
        F=array(nx + ny),
        low=-np.array(draw(st.lists(st.integers(0, 2), min_size=nx, max_size=nx)), float),
        high=np.array(draw(st.lists(st.integers(0, 3), min_size=nx, max_size=nx)), float),
        integer=np.full(nx, integer)
        if integer
        else np.array([draw(st.booleans()), *[False] * (nx - 1)]),
        c=array(ny),
        A=A,
        B=B,
        b=b,
        Q=root @ root.T,
        D=array(ny, nx) if draw(st.booleans()) else np.zeros((ny, nx)),
        equality=equality,
        G=array(count, nx + ny),
        g=np.array(draw(st.lists(st.integers(0, 6), min_size=count, max_size=count)), float),
        price=price,
        maximize_leader=draw(st.booleans()),
        maximize_follower=draw(st.booleans()),
    )


def assert_claim_is_true(solution: bl.Solution, game: Game, truth: float, tolerance: float) -> None:
    """Check everything a solution claims against the true optimum of ``F``."""
    room = tolerance * max(1.0, abs(truth)) if np.isfinite(truth) else 0.0
    status = solution.status
    if status is bl.Status.OPTIMAL:
        assert solution.leader_value * game.sign == _close(truth, room)
    if status is bl.Status.UNBOUNDED:
        assert truth == UNBOUNDED
    if status.is_proved and not status.has_point and status is not bl.Status.UNBOUNDED:
        assert truth == NOTHING, f"{status} although the optimum is {truth}"
    if status.has_point:
        assert solution.certificate.accepted
        assert solution.leader_value * game.sign >= truth - room, "better than the optimum"
    if solution.bound is not None:
        assert solution.bound * game.sign <= truth + room, "a bound beyond the optimum"


def holds(program: Program, v: np.ndarray, room: float = 1e-9) -> bool:
    """Whether a point satisfies a program, read off its records."""
    if (v < program.lower - room).any() or (v > program.upper + room).any():
        return False
    if program.rows.violation(v).max(initial=0.0) > room:
        return False
    if any(np.count_nonzero(abs(v[list(members)]) > room) > 1 for _, members in program.sos1):
        return False
    return not any(
        round(v[rule.binary]) == rule.active and abs(v[rule.target]) > room
        for rule in program.indicators
    )


class _close:  # noqa: N801 - reads as a value
    """Equal to anything within ``room`` of ``value``."""

    def __init__(self, value: float, room: float) -> None:
        self.value, self.room = value, room

    def __eq__(self, other: object) -> bool:
        return bool(abs(other - self.value) <= self.room)

    def __repr__(self) -> str:
        return f"{self.value} within {self.room:g}"

    __hash__ = None
