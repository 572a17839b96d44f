"""What of Gurobi the contract tests do not see: its licence, its threads, its interrupts."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from tests.contract.test_backends import LINEAR, hard, program

import bilevel as bl
from bilevel import backends
from bilevel.errors import BackendError
from bilevel.program import Limits, Termination

pytestmark = pytest.mark.backend("gurobi")


def test_a_licence_that_is_too_small_is_named():
    with pytest.raises(BackendError, match=r"licence is too small.*2000 columns.*backend='scip'"):
        backends.get("gurobi").solve(program(np.ones(2500)), Limits())


@pytest.mark.parametrize(
    ("option", "status"), [("SolutionLimit", "SOLUTION_LIMIT"), ("NodeLimit", "NODE_LIMIT")]
)
def test_a_limit_of_the_vendor_is_a_limit(option, status):
    raw = backends.get("gurobi").solve(hard(), Limits(time_limit=20.0, options={option: 1}))
    assert raw.termination is Termination.LIMIT
    assert raw.raw_status == status
    assert raw.bound <= hard().objective.evaluate(raw.v)


def test_a_local_answer_proves_nothing():
    given = program([0, 0], [[1, 1]], [4], lower=-1, P=[[0, 1], [1, 0]])
    raw = backends.get("gurobi").solve(given, Limits(options={"OptimalityTarget": 1}))
    assert raw.termination is Termination.LIMIT
    assert raw.bound == -np.inf


def test_an_error_of_the_callback_reaches_the_caller():
    def broken(moment):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        backends.get("gurobi").solve(hard(), Limits(time_limit=20.0, progress=broken))


def test_ctrl_c_ends_with_the_best_point():
    def press(moment):
        if moment.incumbent is not None:
            os.kill(os.getpid(), signal.SIGINT)

    raw = backends.get("gurobi").solve(hard(), Limits(time_limit=60.0, progress=press))
    assert raw.termination is Termination.INTERRUPTED
    assert raw.v is not None


def test_threads_have_environments_of_their_own():
    gate = threading.Barrier(4)

    def one(shift):
        gate.wait()
        given = replace(LINEAR, objective=replace(LINEAR.objective, constant=shift))
        return backends.get("gurobi").solve(given, Limits()).bound

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(4))) == pytest.approx([3.5, 4.5, 5.5, 6.5])


def test_outer_approximation_grows_one_tree_after_another():
    problem = bl.instances.get("T14").problem
    solution = bl.solve(problem, bl.OuterApproximation("gurobi"))
    expected = bl.solve(problem, bl.OuterApproximation("highs"))
    assert solution.status is expected.status
    assert solution.leader_value == pytest.approx(expected.leader_value, abs=1e-6)
    assert solution.stats.backend == "gurobi"
