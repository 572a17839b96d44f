"""What a command loads, and that nobody is told less by what was left out."""

import json
import subprocess
import sys

import cvxpy as cp
import numpy as np
import pytest
from cvxpy.reductions.solvers.defines import INSTALLED_SOLVERS

MODULES = """
import gc, json, sys
from bilevel.cli import main
try:
    main()
finally:
    print(json.dumps([*sys.modules, "gc"] if gc.isenabled() else [*sys.modules]), file=sys.stderr)
"""

# What CVXPY did not import is missed by nobody: neither its list of solvers nor those who import
# it later see a difference.
AFTERWARDS = """
import json
from bilevel.cli import startup
startup.import_cvxpy()
import sys
left_out = [name for name in ("scipy.stats", "osqp", "pyscipopt") if name not in sys.modules]
import cvxpy as cp, numpy as np
from cvxpy.reductions.solvers.defines import INSTALLED_SOLVERS
import scipy, scipy.stats
import osqp
identity = cp.Constant(np.eye(2))
x = cp.Variable(nonneg=True)
problem = cp.Problem(cp.Minimize((x - 1) ** 2))
problem.solve(solver="OSQP")
print(json.dumps({
    "left_out": left_out,
    "at_import": INSTALLED_SOLVERS,
    "later": cp.installed_solvers(),
    "entropy": float(cp.quantum_rel_entr(identity, 0.5 * identity).value),
    "real": [scipy.stats.norm.cdf(0.0), scipy.optimize.linprog is not None, osqp.OSQP is not None],
    "status": problem.status,
}))
"""


def loaded(*arguments):
    """Return the modules that a command leaves behind."""
    command = [sys.executable, "-c", MODULES, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    return set(json.loads(done.stderr))


@pytest.mark.parametrize("arguments", [["--help"], ["solve", "--help"], ["--version"]])
def test_help_loads_no_library(arguments):
    assert not loaded(*arguments) & {"cvxpy", "numpy", "scipy", "torch", "matplotlib", "rich"}


def test_solving_loads_what_it_uses():
    found = loaded("solve", "T1")
    optional = {"torch", "matplotlib", "pyscipopt", "casadi", "cobra", "osqp", "rich"}
    assert not found & (optional | {"scipy.stats", "scipy.optimize"})
    assert {"cvxpy", "gc"} <= found  # garbage is collected again


def test_what_was_left_out_is_there_when_it_is_asked_for():
    command = [sys.executable, "-c", AFTERWARDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["left_out"] == ["scipy.stats", "osqp", "pyscipopt"]
    assert found["at_import"] == INSTALLED_SOLVERS
    assert found["later"] == cp.installed_solvers()
    identity = np.eye(2)
    assert found["entropy"] == pytest.approx(cp.quantum_rel_entr(identity, 0.5 * identity).value)
    assert found["real"] == [0.5, True, True]
    assert found["status"] == "optimal"
