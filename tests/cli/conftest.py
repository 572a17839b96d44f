"""The command line in this process, as a process of its own, and files for it to load."""

import subprocess
from pathlib import Path

import pytest
from tests.cli.shell import COMMAND, Ended, checked
from typer.testing import CliRunner

from bilevel.cli import app

MODEL = """
import cvxpy as cp, bilevel as bl

x, y = cp.Variable(name="x"), cp.Variable(name="y")
capacity = x + y <= 8
rows = [capacity, 4 * x + y >= 8, 2 * x + y <= 13, 2 * x <= 7 * y]
carrier = bl.Follower(cp.Minimize(-y), rows, variables=[y], name="carrier")
problem = bl.Problem(cp.Minimize(3 * x + y), [0 <= x, x <= 5], followers=[carrier])
"""

# Takes minutes; `asking` leaves no point that is easy to find.
HARD = """
import cvxpy as cp, numpy as np, bilevel as bl

def build(asking):
    n, rng = 30, np.random.default_rng(0)
    x, y = cp.Variable(n, boolean=True, name="x"), cp.Variable(n, name="y")
    A, B = rng.uniform(0, 5, (n, n)), rng.uniform(0, 5, (n, n))
    rows = [A @ x + B @ y <= A.sum(1) / 2 + 20, y >= 0, y <= 1]
    follower = bl.Follower(cp.Maximize(rng.uniform(1, 5, n) @ y), rows, variables=[y], name="f")
    value = rng.uniform(-5, 5, n) @ y + rng.uniform(0, 1, n) @ x
    return bl.Problem(cp.Maximize(value), [value >= 33] if asking else [], followers=[follower])

def problem():
    return build(asking=False)

def without_point():
    return build(asking=True)
"""


@pytest.fixture
def bilevel():
    """Return a function that runs a command in this process."""

    def run(*arguments, stdin=None):
        result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return checked(Ended(result.exit_code, result.stdout, result.stderr), arguments)

    return run


@pytest.fixture
def process(tmp_path):
    """Return a function that runs a command in a process of its own."""

    def run(*arguments, stdin=None):
        command = [*COMMAND, *(str(a) for a in arguments)]
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
            cwd=tmp_path,
        )
        return checked(Ended(done.returncode, done.stdout, done.stderr), arguments)

    return run


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a file and returns its path."""

    def write_file(name, text):
        path = Path(tmp_path) / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


@pytest.fixture
def model(write):
    """Return the path of a file with a small problem."""
    return write("toll.py", MODEL)


@pytest.fixture
def hard(write):
    """Return the path of a file with problems that take minutes."""
    return write("hard.py", HARD)
