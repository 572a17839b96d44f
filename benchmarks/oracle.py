"""The exact response to a small random problem, by enumeration and without the library.

Optimistic: for every assignment of the leader's binaries and every pattern that says which of
``lam_i = 0`` and ``slack_i = 0`` holds, the rest is an LP (HiGHS inside SciPy) or a convex QP
(Clarabel); the best of all is the answer. Prefixes of a pattern that are already infeasible are
left out. Pessimistic, where the leader is binary and the follower an LP: every decision, the
follower's LP, and LPs over its best responses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product

import clarabel
import numpy as np
import scipy.sparse as sp
from scipy.optimize import linprog

from benchmarks.generators import RandomProblem, draw

Array = np.ndarray
_TIGHT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


@dataclass(frozen=True)
class Truth:
    """What is true of a problem.

    ``claims`` are the statuses that are true statements about it, ``value`` is in the leader's own
    sense, ``n_programs`` counts what was solved to know.
    """

    claims: frozenset[str]
    value: float | None
    n_programs: int

    @property
    def solvable(self) -> bool:
        return self.value is not None


class OracleError(RuntimeError):
    """The oracle itself could not decide; nothing may be concluded."""


@cache
def truth(family: str, number: int) -> Truth:
    """Return the truth about a drawn problem, computed once per process."""
    return decide(draw(family, number))


def decide(p: RandomProblem) -> Truth:
    """Return the truth about a problem."""
    search = _Search(p)
    best = search.pessimistic() if p.pessimistic else search.optimistic()
    if best == -np.inf:
        return Truth(frozenset({"UNBOUNDED"}), None, search.n_programs)
    if best < np.inf:
        return Truth(frozenset({"OPTIMAL"}), p.sign * best, search.n_programs)
    return Truth(frozenset({"INFEASIBLE", *search.reasons()}), None, search.n_programs)


@dataclass
class _System:
    """``min v'Pv/2 + c'v + constant`` over ``E v == e``, ``U v <= u`` and bounds."""

    P: Array
    c: Array
    constant: float
    E: Array
    e: Array
    U: Array
    u: Array
    lower: Array
    upper: Array


@dataclass
class _Search:
    p: RandomProblem
    n_programs: int = 0
    _leader_only: Array = field(init=False)

    def __post_init__(self) -> None:
        self._leader_only = ~self.p.G[:, self.p.nx :].any(axis=1)

    # ------------------------------------------------------------------------ optimistic

    def optimistic(self) -> float:
        return min((self._best(x) for x in self._decisions()), default=np.inf)

    def _decisions(self) -> Iterator[Array]:
        """Every assignment of the binaries; continuous entries are NaN."""
        p = self.p
        options = [
            [v for v in (0.0, 1.0) if p.lower[i] <= v <= p.upper[i]] if p.binary[i] else [np.nan]
            for i in range(p.nx)
        ]
        yield from (np.array(choice) for choice in product(*options))

    def _best(self, x: Array) -> float:
        system = self._system(x)
        best = np.inf
        for lower, upper in self._patterns(system):
            best = min(best, self._minimum(replace(system, lower=lower, upper=upper)))
            if best == -np.inf:
                break
        return best

    def _system(self, x: Array, with_leader: bool = True) -> _System:
        """Optimality conditions over ``(x_c, y, lam, slack)``, the binaries fixed."""
        p = self.p
        given, z0 = ~np.isnan(x), np.concatenate([np.nan_to_num(x), np.zeros(p.ny)])
        keep = np.concatenate([~given, np.ones(p.ny, bool)])
        nz, m = int(keep.sum()), len(p.b)
        B = p.B + np.tensordot(np.nan_to_num(x), p.T, 1)
        rows = np.hstack([np.hstack([p.A, B])[:, keep], np.zeros((m, m)), np.eye(m)])
        gradient = np.hstack([p.R.T, p.P])
        stationary = np.hstack([gradient[:, keep], B.T, np.zeros((p.ny, m))])
        used = np.ones(len(p.g), bool) if with_leader else self._leader_only
        leader = np.hstack([p.G[used][:, keep], np.zeros((used.sum(), 2 * m))])
        rhs = p.g[used] - p.G[used] @ z0
        equal, size = p.g_equal[used], nz + 2 * m
        P, c = np.zeros((size, size)), np.zeros(size)
        P[:nz, :nz] = p.Q[np.ix_(keep, keep)]
        c[:nz] = (p.c + p.Q @ z0)[keep]
        low = np.concatenate([p.lower[~given], np.full(p.ny, -np.inf)])
        high = np.concatenate([p.upper[~given], np.full(p.ny, np.inf)])
        return _System(
            P,
            c,
            float(p.c @ z0 + z0 @ p.Q @ z0 / 2),
            np.vstack([rows, stationary, leader[equal]]),
            np.concatenate([p.b - p.A @ z0[: p.nx], -p.q - gradient @ z0, rhs[equal]]),
            leader[~equal],
            rhs[~equal],
            np.concatenate([low, np.where(p.equal, -np.inf, 0.0), np.zeros(m)]),
            np.concatenate([high, np.full(m, np.inf), np.where(p.equal, 0.0, np.inf)]),
        )

    def _patterns(self, system: _System) -> Iterator[tuple[Array, Array]]:
        """Bounds of every pattern that is not infeasible, depth first."""
        m = len(self.p.b)
        lam, slack = len(system.c) - 2 * m, len(system.c) - m
        rows = np.flatnonzero(~self.p.equal)
        stack = [(0, system.upper)]
        while stack:
            depth, upper = stack.pop()
            if not self._is_feasible(replace(system, upper=upper)):
                continue
            if depth == len(rows):
                yield system.lower, upper
                continue
            for zero in (lam + rows[depth], slack + rows[depth]):
                closed = upper.copy()
                closed[zero] = 0.0
                stack.append((depth + 1, closed))

    # ----------------------------------------------------------------------- pessimistic

    def pessimistic(self) -> float:
        """Every decision; its worst best response; coupling rows must always hold."""
        p, best = self.p, np.inf
        ys = slice(p.nx, None)
        for x in self._decisions():
            face = self._face(x)
            if face is None:
                continue
            z = np.concatenate([x, np.zeros(p.ny)])
            leader = p.g - p.G @ z
            worst = [self._largest(face, row) for row in p.G[:, ys]]
            least = [-self._largest(face, -row) for row in p.G[:, ys]]
            fails = [
                w > rhs + 1e-7 or (equal and low < rhs - 1e-7)
                for w, low, rhs, equal in zip(worst, least, leader, p.g_equal, strict=True)
            ]
            if not any(fails):
                best = min(best, float(p.c @ z) + self._largest(face, p.c[ys]))
        return best

    def _face(self, x: Array) -> _System | None:
        """The follower's best responses to a decision: complementary to one optimal multiplier."""
        p = self.p
        B = p.B + np.tensordot(x, p.T, 1)
        b, cost = p.b - p.A @ x, p.q + p.R.T @ x
        self.n_programs += 1
        answer = linprog(
            cost, B[~p.equal], b[~p.equal], B[p.equal], b[p.equal], (None, None), options=_TIGHT
        )
        if answer.status in (2, 3):
            return None
        if answer.status != 0:
            raise OracleError(answer.message)
        tight = p.equal.copy()
        tight[~p.equal] = answer.ineqlin.marginals < -1e-9
        free = np.full(p.ny, np.inf)
        flat = np.zeros((p.ny, p.ny))
        return _System(flat, cost, 0.0, B[tight], b[tight], B[~tight], b[~tight], -free, free)

    def _largest(self, face: _System, row: Array) -> float:
        return -self._minimum(replace(face, c=-row)) if row.any() else 0.0

    # --------------------------------------------------------------------------- reasons

    def reasons(self) -> frozenset[str]:
        """Which of the followers' statuses is true too, where no bilevel feasible point exists."""
        flags = {"leader": False, "follower": False, "answer": False}
        for x in self._decisions():
            system = self._system(x, with_leader=False)
            n, m = len(system.c), len(self.p.b)
            free = replace(system, lower=system.lower.copy(), upper=system.upper.copy())
            # Without the follower's rows and stationarity: the leader alone.
            alone = replace(free, E=free.E[m + self.p.ny :], e=free.e[m + self.p.ny :])
            if not self._is_feasible(alone):
                continue
            flags["leader"] = True
            kept = np.r_[0:m, m + self.p.ny : len(free.e)]
            if not self._is_feasible(replace(free, E=free.E[kept], e=free.e[kept])):
                continue
            flags["follower"] = True
            if next(self._patterns(replace(system, P=np.zeros((n, n)))), None) is not None:
                flags["answer"] = True
                break
        if not flags["leader"]:
            return frozenset()
        if not flags["follower"]:
            return frozenset({"FOLLOWER_INFEASIBLE"})
        return frozenset() if flags["answer"] else frozenset({"FOLLOWER_UNBOUNDED"})

    # -------------------------------------------------------------------------- programs

    def _is_feasible(self, s: _System) -> bool:
        return self._linear(s, np.zeros(len(s.c))) < np.inf

    def _minimum(self, s: _System) -> float:
        if not s.P.any():
            return self._linear(s, s.c) + s.constant
        return self._quadratic(s) + s.constant if self._is_feasible(s) else np.inf

    def _linear(self, s: _System, c: Array) -> float:
        self.n_programs += 1
        bounds = np.column_stack([s.lower, s.upper])
        answer = linprog(c, s.U, s.u, s.E, s.e, bounds, method="highs-ds", options=_TIGHT)
        if answer.status == 0:
            return float(answer.fun)
        if answer.status in (2, 3):
            return np.inf if answer.status == 2 else -np.inf
        # "Infeasible or unbounded", or trouble: ask for feasibility alone.
        if not c.any():
            raise OracleError(answer.message)
        return -np.inf if self._is_feasible(s) else np.inf

    def _quadratic(self, s: _System) -> float:
        self.n_programs += 1
        fixed = s.lower == s.upper
        n, eye = len(s.c), np.eye(len(s.c))
        up, low = np.isfinite(s.upper) & ~fixed, np.isfinite(s.lower) & ~fixed
        matrix = np.vstack([s.E, eye[fixed], s.U, eye[up], -eye[low]])
        rhs = np.concatenate([s.e, s.lower[fixed], s.u, s.upper[up], -s.lower[low]])
        n_zero = len(s.e) + int(fixed.sum())
        settings = clarabel.DefaultSettings()
        settings.verbose = False
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
        cones = [clarabel.ZeroConeT(n_zero), clarabel.NonnegativeConeT(len(rhs) - n_zero)]
        upper = sp.csc_matrix(np.triu(s.P))
        solver = clarabel.DefaultSolver(upper, s.c, sp.csc_matrix(matrix), rhs, cones, settings)
        result = solver.solve()
        status = str(result.status)
        if status == "DualInfeasible":
            return -np.inf
        close = abs(result.obj_val - result.obj_val_dual) <= 1e-7 * max(1.0, abs(result.obj_val))
        if status in ("Solved", "AlmostSolved", "InsufficientProgress") and close:
            return float(result.obj_val)
        raise OracleError(f"Clarabel ended with {status} on a program of {n} columns.")
