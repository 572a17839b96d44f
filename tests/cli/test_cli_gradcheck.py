"""`bilevel gradcheck`: the gradient by a problem's parameters against full re-solves."""

import sys

import pytest

pytest.importorskip("torch")

MODEL = """
import cvxpy as cp, bilevel as bl

x, y = cp.Variable(name="x"), cp.Variable(name="y")
p, a, empty = (cp.Parameter(name=name) for name in ("p", "a", "empty"))
p.value, a.value = 0.2, 1.0

def build(cost, rows=(), leader=0):
    follower = bl.Follower(cp.Minimize(cost), rows, variables=[y], name="carrier")
    objective = cp.square(x) + x * (y - 1) + leader
    return bl.Problem(cp.Minimize(objective), [x >= -3, x <= 3], followers=[follower])

smooth = build(cp.square(y - x - p))
two = build(cp.square(y - x - p), [y >= -9], a * x)
plain = build(cp.square(y - x))
valueless = build(cp.square(y - x - empty))
crossed = build(cp.square(y - p), [y >= a, y <= -a])
"""


@pytest.fixture
def target(write):
    """Return how the command line calls an object of the model."""
    file = write("game.py", MODEL)
    return lambda name: f"{file}:{name}"


@pytest.mark.parametrize("equilibrium", ["stackelberg", "nash"])
def test_a_right_gradient_passes(bilevel, target, equilibrium):
    done = bilevel("gradcheck", target("smooth"), "--equilibrium", equilibrium)
    assert done.code == 0
    assert "passed" in done.out
    assert "CLASSICAL" in done.out


def test_every_parameter_is_named(bilevel, target):
    done = bilevel("gradcheck", target("two"))
    words = [line.split()[0] for line in done.out.splitlines()]
    assert {"p", "a"} <= set(words)


def test_json(bilevel, target):
    content = bilevel("gradcheck", target("two"), "--json").json
    assert content["passed"]
    assert content["compared"] == [1, 1]
    assert content["error"] == max(content["errors"]) < content["tolerance"]


def test_a_kink_fails_with_exit_code_1_and_is_named(bilevel, write):
    # y = max(0, x - p) with the leader at x = p: the difference is the mean of both slopes.
    kink = """
import cvxpy as cp, bilevel as bl

x, y, p = cp.Variable(name="x"), cp.Variable(name="y"), cp.Parameter(name="p", value=1.0)
follower = bl.Follower(cp.Minimize(cp.square(y - x + p)), [y >= 0], variables=[y])
problem = bl.Problem(cp.Minimize(cp.square(x - 1)), [x >= -3, x <= 3], followers=[follower])
"""
    done = bilevel("gradcheck", f"{write('kink.py', kink)}:problem")
    assert done.code == 1
    assert "gradient           FAILED" in done.out
    assert "ONE_SIDED" in done.out


def test_a_method_is_taken(bilevel, target):
    assert bilevel("gradcheck", target("smooth"), "--method", "branching").code == 0


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("plain", [], "no cvxpy.Parameter"),
        ("valueless", [], "empty has no value"),
        ("smooth", ["--equilibrium", "cournot"], "equilibrium must be one of"),
        ("smooth", ["--step", "-1"], "step must be a positive number"),
    ],
)
def test_mistakes_have_exit_code_2(bilevel, target, name, more, words):
    done = bilevel("gradcheck", target(name), *more)
    assert done.code == 2
    assert words in done.err


def test_an_instance_without_an_answer_has_exit_code_1(bilevel, target):
    done = bilevel("gradcheck", target("crossed"))
    assert done.code == 1
    assert "have no answer" in done.err


def test_without_torch_the_install_line_is_shown(bilevel, target, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("bilevel.layers")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bilevel.layers", None)
    done = bilevel("gradcheck", target("smooth"))
    assert done.code == 3
    assert 'pip install "bilevel[torch]"' in done.err
