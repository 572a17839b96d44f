"""IPOPT through CasADi: smooth programs, to a point where first-order conditions hold."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import casadi
import numpy as np

from bilevel.backends.backend import AbstractBackend
from bilevel.backends.ipopt_expressions import cones, products, sparse, value
from bilevel.errors import BackendError
from bilevel.problem.functions import NO_PRODUCTS, Array, Rows
from bilevel.program import Feature, Limits, Program, Progress, RawAnswer, Termination

_STATUS = {
    "Solve_Succeeded": Termination.OPTIMAL,
    "Solved_To_Acceptable_Level": Termination.NUMERICAL,
    "Feasible_Point_Found": Termination.OPTIMAL,
    "Infeasible_Problem_Detected": Termination.INFEASIBLE,
    "Search_Direction_Becomes_Too_Small": Termination.NUMERICAL,
    "Diverging_Iterates": Termination.UNBOUNDED,
    "User_Requested_Stop": Termination.LIMIT,
    "Maximum_Iterations_Exceeded": Termination.LIMIT,
    "Maximum_CpuTime_Exceeded": Termination.LIMIT,
    "Maximum_WallTime_Exceeded": Termination.LIMIT,
    "Restoration_Failed": Termination.NUMERICAL,
    "Error_In_Step_Computation": Termination.NUMERICAL,
    "Invalid_Number_Detected": Termination.NUMERICAL,
    "Not_Enough_Degrees_Of_Freedom": Termination.NUMERICAL,
    "Insufficient_Memory": Termination.NUMERICAL,
}
_POINT = ("Solve_Succeeded", "Solved_To_Acceptable_Level", "Feasible_Point_Found")
_OPTIONS = {
    "sb": "yes",
    "tol": 1e-9,
    "max_iter": 500,
    "diverging_iterates_tol": 1e10,
    "bound_relax_factor": 0.0,  # cones take roots and logarithms of columns
    "mu_strategy": "adaptive",
    "warm_start_init_point": "yes",
    "warm_start_bound_push": 1e-6,
    "warm_start_mult_bound_push": 1e-6,
}
# MUMPS, which factorizes for IPOPT, keeps global state.
_LOCK = threading.Lock()


class IPOPT(AbstractBackend):
    """IPOPT with exact derivatives; alone it takes convex programs, where its points are optima."""

    name = "ipopt"
    features = Feature.CONVEX_QUADRATIC | Feature.CONES
    gives_multipliers = False  # of rows, but not of cones

    def solve(self, program: Program, limits: Limits, start: Array | None = None) -> RawAnswer:
        """See the abstract method."""
        none = Rows.empty(program.n)
        v = np.zeros(program.n) if start is None else start
        raw = self.compile(program, none, limits).solve(v, 1.0)[0]
        if raw.termination is not Termination.OPTIMAL or raw.v is None:
            return replace(raw, v=None)
        return replace(raw, bound=program.objective.evaluate(raw.v))

    def compile(self, program: Program, relaxed: Rows, limits: Limits) -> Model:
        """Return a program whose rows ``relaxed`` are ``<= t``, compiled once for every ``t``.

        Parameters
        ----------
        program
            Continuous; products may occur in rows, and any quadratic objective.
        relaxed
            Inequalities whose right-hand side grows by ``t``.
        limits
            Vendor options, verbosity and the progress callback.
        """
        return Model(program, relaxed, limits)


@dataclass(frozen=True)
class Multipliers:
    """IPOPT's multipliers, for the next start."""

    columns: Array
    rows: Array


class Model:
    """A smooth program with the parameter ``t``, compiled once.

    Parameters
    ----------
    program, relaxed, limits
        See ``IPOPT.compile``.
    """

    def __init__(self, program: Program, relaxed: Rows, limits: Limits) -> None:
        self._program = program
        self._limits = limits
        self._rows = Rows.stack(program.rows, relaxed) if len(relaxed) else program.rows
        used = np.diff(self._rows.A.indptr) > 0
        used[self._rows.products.row] = True
        free = replace(self._rows, products=NO_PRODUCTS)
        violated = free.violation(np.zeros(program.n)) > 1e-9
        self._impossible = bool((violated & ~used).any() or (program.lower > program.upper).any())
        self._kept = np.flatnonzero(used)
        rows = self._rows.take(used)
        v = casadi.SX.sym("v", program.n)
        t = casadi.SX.sym("t")
        linear = sparse(rows.A) @ v - rows.b + products(rows.products, v, len(rows))
        loose = (self._kept >= len(program.rows)).astype(float)
        g = casadi.vertcat(linear - t * loose, *cones(program, v, t))
        self._upper = np.zeros(g.numel())
        equality = np.append(rows.equality, np.zeros(g.numel() - len(rows), bool))
        self._lower = np.where(equality, 0.0, -np.inf)
        self._watch = _Watch(program.n, g.numel())
        problem = {"x": v, "f": value(program.objective, v), "g": g, "p": t}
        options = {**_OPTIONS, "print_level": 5 if limits.verbose else 0, **limits.options}
        try:
            self._solver = casadi.nlpsol(
                "bilevel",
                "ipopt",
                problem,
                {
                    "print_time": False,
                    "error_on_fail": False,
                    "show_eval_warnings": False,
                    "iteration_callback": self._watch,
                    "ipopt": options,
                },
            )
        except Exception as error:
            raise BackendError(
                f"IPOPT does not accept the program or an option of {list(limits.options)}: "
                f"{str(error).strip().splitlines()[-1]}"
            ) from error

    def solve(
        self,
        start: Array,
        t: float,
        multipliers: Multipliers | None = None,
        deadline: float | None = None,
    ) -> tuple[RawAnswer, Multipliers | None]:
        """Solve for one ``t``.

        Parameters
        ----------
        start
            Where to begin, shape ``(n,)``.
        t
            Relaxation.
        multipliers
            From an earlier solve.
        deadline
            Value of ``time.perf_counter()`` at which to stop.
        """
        program = self._program
        began = time.perf_counter()
        if self._impossible:
            none = RawAnswer(Termination.INFEASIBLE, None, -np.inf, None, 0, 0.0, "not tried")
            return none, None
        more = {}
        if multipliers is not None:
            more = {"lam_x0": multipliers.columns, "lam_g0": multipliers.rows}
        if deadline is None and self._limits.time_limit is not None:
            deadline = began + self._limits.time_limit
        with _LOCK, _interruptible(self._watch):
            self._watch.prepare(began, deadline, self._limits.progress)
            try:
                found = self._solver(
                    x0=np.clip(start, program.lower, program.upper),
                    p=t,
                    lbx=program.lower,
                    ubx=program.upper,
                    lbg=self._lower,
                    ubg=self._upper,
                    **more,
                )
            except Exception as error:
                raise BackendError(f"IPOPT failed: {error}") from error
            stats = self._solver.stats()
            interrupted = self._watch.interrupted
        if self._watch.error is not None:
            raise self._watch.error
        return self._answer(found, stats, interrupted, time.perf_counter() - began)

    def _answer(
        self, found: Any, stats: Any, interrupted: bool, seconds: float
    ) -> tuple[RawAnswer, Multipliers | None]:
        raw = stats["return_status"]
        if raw not in _STATUS:
            raise BackendError(f"IPOPT answered with an unknown status: {raw}.")
        termination = Termination.INTERRUPTED if interrupted else _STATUS[raw]
        v = None
        duals = None
        kept = None
        count = max(int(stats.get("iter_count", 0)), 0)
        if raw in _POINT:
            v = np.asarray(found["x"]).ravel()
            lam = np.asarray(found["lam_g"]).ravel()
            kept = Multipliers(np.asarray(found["lam_x"]).ravel(), lam)
            duals = np.zeros(len(self._rows))
            duals[self._kept] = lam[: len(self._kept)]
            duals = duals[: len(self._program.rows)]
            duals = np.where(self._program.rows.equality, duals, np.maximum(duals, 0.0))
        return RawAnswer(termination, v, -np.inf, duals, count, seconds, raw), kept


class _Watch(casadi.Callback):
    """Called by IPOPT after every iteration: looks at the clock, Ctrl-C and the caller."""

    def __init__(self, n: int, m: int) -> None:
        casadi.Callback.__init__(self)
        self._sizes = {"f": 1, "x": n, "lam_x": n, "g": m, "lam_g": m, "lam_p": 1}
        self.prepare(0.0, None, None)
        self.construct("watch", {})

    def prepare(
        self,
        began: float,
        deadline: float | None,
        progress: Callable[[Progress], bool | None] | None,
    ) -> None:
        """Set what is watched during the next solve."""
        self.interrupted = False
        self.error = None
        self._began = began
        self._deadline = deadline
        self._progress = progress
        self._count = 0

    def get_n_in(self) -> int:
        return casadi.nlpsol_n_out()

    def get_n_out(self) -> int:
        return 1

    def get_name_in(self, i: int) -> str:
        return casadi.nlpsol_out(i)

    def get_name_out(self, i: int) -> str:
        del i
        return "stop"

    def get_sparsity_in(self, i: int) -> Any:
        return casadi.Sparsity.dense(self._sizes.get(casadi.nlpsol_out(i), 0), 1)

    def eval(self, arguments: Any) -> list[float]:
        del arguments
        self._count += 1
        now = time.perf_counter()
        late = self._deadline is not None and now >= self._deadline
        if self._progress is not None and not self.interrupted:
            try:
                asked = self._progress(Progress(now - self._began, None, None, self._count))
                self.interrupted |= bool(asked)
            except Exception as error:
                # Kept until IPOPT has returned: an exception must not unwind through it.
                self.error = error
                self.interrupted = True
        return [float(late or self.interrupted)]


@contextmanager
def _interruptible(watch: _Watch) -> Iterator[None]:
    """Let Ctrl-C stop IPOPT at its next iteration; only the main thread receives signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        del number, frame
        watch.interrupted = True

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
