"""A backend written outside the package, from the page "Architecture" alone: SciPy's ``milp``."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, milp

import bilevel as bl
from bilevel.backends import AbstractBackend
from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.program import Feature, RawAnswer, Termination

# SciPy's words for how milp ended.
STATUS = {
    0: Termination.OPTIMAL,
    1: Termination.LIMIT,
    2: Termination.INFEASIBLE,
    3: Termination.UNBOUNDED,
    4: Termination.NUMERICAL,
}


class SciPy(AbstractBackend):
    """Mixed-integer linear programs by ``scipy.optimize.milp``."""

    name = "scipy"
    features = Feature.INTEGER
    gives_multipliers = False

    def solve(self, program, limits, start=None):
        rows = program.rows
        options = {"disp": limits.verbose, "mip_rel_gap": limits.rtol, **limits.options}
        if limits.time_limit is not None:
            options["time_limit"] = limits.time_limit
        began = time.perf_counter()
        found = milp(
            program.objective.c,
            integrality=program.integer.astype(int),
            bounds=Bounds(program.lower, program.upper),
            constraints=LinearConstraint(
                sp.csr_array(rows.A), np.where(rows.equality, rows.b, -np.inf), rows.b
            ),
            options=options,
        )
        seconds = time.perf_counter() - began
        bound = found.mip_dual_bound if program.integer.any() else found.fun
        bound = -np.inf if bound is None else bound + program.objective.constant
        nodes = int(found.mip_node_count or 0)
        return RawAnswer(
            STATUS[found.status], found.x, bound, None, nodes, seconds, f"status {found.status}"
        )


@pytest.mark.parametrize("name", ["T1", "T3", "T4", "T14", "T14b", "T22b"])
def test_it_solves_what_an_inside_one_solves(name):
    problem = bl.instances.get(name).problem
    expected = bl.solve(problem, bl.SingleLevel(bl.KKT(bl.BigM()), backend="highs"))
    solution = bl.solve(problem, bl.SingleLevel(bl.KKT(bl.BigM()), backend=SciPy()))
    assert solution.status is expected.status is bl.Status.OPTIMAL
    assert solution.leader_value == pytest.approx(expected.leader_value, abs=1e-6)
    assert solution.certificate.accepted
    assert solution.stats.backend == "scipy"


def test_it_reads_well():
    solver = bl.SingleLevel(bl.KKT(bl.BigM()), backend=SciPy())
    solution = bl.solve(bl.instances.get("T1").problem, solver)
    assert "backend=SciPy()" in solution.summary()
    assert solver == bl.SingleLevel(bl.KKT(bl.BigM()), backend=solver.backend)


def test_outer_approximation_takes_it_too():
    problem = bl.instances.get("T14").problem
    solution = bl.solve(problem, bl.OuterApproximation(SciPy()))
    expected = bl.solve(problem, bl.OuterApproximation("highs"))
    assert solution.status is expected.status
    assert solution.leader_value == pytest.approx(expected.leader_value, abs=1e-6)
    assert solution.stats.backend == "scipy"


def test_a_program_that_it_does_not_take_is_refused_by_what_it_lacks():
    problem = bl.instances.get("T2").problem
    with pytest.raises(UnsupportedProblem, match=r"'scipy' cannot take SOS1 sets"):
        bl.solve(problem, bl.SingleLevel(bl.KKT(bl.SOS1()), backend=SciPy()))


def without(*words):
    """Return the backend's class as one that does not state some of what it must."""
    kept = {name: value for name, value in vars(SciPy).items() if name not in words}
    return type("Silent", (AbstractBackend,), kept)


@pytest.mark.parametrize(
    "words", [("features",), ("name",), ("gives_multipliers",), ("features", "gives_multipliers")]
)
def test_a_backend_that_does_not_state_something_is_refused_by_its_name(words):
    solver = bl.SingleLevel(bl.KKT(bl.BigM()), backend=without(*words)())
    with pytest.raises(ProblemError, match=f"Silent does not state {', '.join(words)}: set"):
        bl.solve(bl.instances.get("T1").problem, solver)


def test_a_backend_without_solve_cannot_be_made():
    with pytest.raises(TypeError, match="solve"):
        without("solve")()


@pytest.mark.parametrize(
    ("given", "said"),
    [(SciPy, r"not SciPy\. Give an object: SciPy\(\)"), (milp, "not function"), (None, "NoneType")],
)
def test_what_is_no_backend_is_refused(given, said):
    with pytest.raises(ProblemError, match=rf"backend must be a name, one of .*highs.*{said}"):
        bl.solve(bl.instances.get("T1").problem, bl.SingleLevel(backend=given))
