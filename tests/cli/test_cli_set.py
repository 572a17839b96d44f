"""`--set`: parameters of a target, on every command that loads one."""

import json

import pytest

TOLL = """
import cvxpy as cp, bilevel as bl

x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
cap = cp.Parameter(name="cap", nonneg=True)
w = cp.Parameter(2, name="w", value=[1.0, 2.0])
twins = cp.Parameter(name="twin", value=0.0), cp.Parameter(name="twin", value=0.0)
rows = [y >= 0, y <= x + sum(twins)]
f = bl.Follower(cp.Minimize(cp.sum_squares(y - w)), rows, variables=[y], name="f")
problem = bl.Problem(cp.Maximize(cp.sum(y)), [x >= 0, x <= cap], followers=[f])
"""


@pytest.fixture
def toll(write):
    return f"{write('parameters.py', TOLL)}:problem"


def value(bilevel, *arguments):
    """Return the leader's value that solving gives."""
    done = bilevel("solve", *arguments, "--json")
    assert done.code == 0, done.err
    return done.json["leader_value"]


def test_a_parameter_without_value_gets_one(bilevel, toll):
    assert value(bilevel, toll, "--set", "cap=10") == pytest.approx(3.0)
    assert value(bilevel, toll, "--set", "cap = 1.5") == pytest.approx(2.5)
    done = bilevel("solve", toll)
    assert (done.code, done.out) == (2, "")
    assert "cap" in done.err


@pytest.mark.parametrize("text", ["w=3,4", "w=[3, 4]", "w= 3 , 4"])
def test_vectors_are_numbers_between_commas_or_lists(bilevel, toll, text):
    assert value(bilevel, toll, "--set", "cap=10", "--set", text) == pytest.approx(7.0)


def test_a_matrix_is_a_list_of_rows(bilevel, write):
    text = TOLL.replace(
        'w = cp.Parameter(2, name="w", value=[1.0, 2.0])',
        'M = cp.Parameter((1, 2), name="M")\nw = M[0]',
    )
    target = f"{write('matrix.py', text)}:problem"
    assert value(bilevel, target, "--set", "cap=9", "--set", "M=[[3, 4]]") == pytest.approx(7.0)


def test_every_command_that_loads_a_target_takes_parameters(bilevel, toll, tmp_path):
    values = ["--set", "cap=10", "--set", "w=3,4"]
    point = ["--at", "x=10", "--at", "y=3,4"]
    assert bilevel("verify", toll, *point, *values).code == 0
    assert bilevel("verify", toll, *point, "--set", "cap=1").code == 1
    assert "auto chooses" in bilevel("methods", toll, *values).out
    assert bilevel("reaction", toll, *values, "--json").json["domain"] == [[0.0], [10.0]]
    assert bilevel("gradcheck", toll, "--set", "cap=3.5", "--set", "w=3,4").code == 0


def test_a_converted_file_holds_the_values(bilevel, write, tmp_path):
    text = TOLL.replace("cp.sum_squares(y - w)", "-w @ y")
    target = f"{write('linear.py', text)}:problem"
    assert bilevel("convert", target, tmp_path / "toll.mps", "--set", "cap=6").code == 0
    assert value(bilevel, tmp_path / "toll.mps") == pytest.approx(12.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kap=1", ["no parameter 'kap'", "cap", "w"]),
        ("cap=1,2", ["'cap' has shape ()", "(2,)"]),
        ("w=1", ["'w' has shape (2,)", "()"]),
        ("w=[[1], [2, 3]]", ["'w' has shape (2,)", "several lengths"]),
        ("cap=-1", ["'cap'", "nonnegative"]),
        ("cap=many", ["'cap'", "must be a number"]),
        ("cap=NaN", ["'cap'", "finite"]),
        ("w=[1, null]", ["'w'", "finite number"]),
        ("w=[1, true]", ["'w'", "finite number"]),
        ('w={"a": 1}', ["'w'", "finite number"]),
        ("cap=", ["'cap'", "must be a number"]),
        ("cap", ["--set takes NAME=VALUE"]),
        ("twin=1", ["2 parameters are called 'twin'"]),
    ],
)
def test_what_cannot_be_set_is_named(bilevel, toll, text, said):
    done = bilevel("solve", toll, "--set", text)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.strip().splitlines()) == 1
    for part in said:
        assert part in done.err


def test_a_name_is_set_once(bilevel, toll):
    done = bilevel("solve", toll, "--set", "cap=1", "--set", "cap=2")
    assert (done.code, done.out) == (2, "")
    assert "twice" in done.err


def test_a_problem_without_parameters_says_so(bilevel):
    done = bilevel("solve", "T1", "--set", "a=1")
    assert done.code == 2
    assert "no cvxpy.Parameter" in done.err


def test_values_of_a_message_are_not_printed(bilevel, toll):
    long = json.dumps([float(i) for i in range(1000)])
    done = bilevel("solve", toll, "--set", f"w={long}")
    assert "(1000,)" in done.err
    assert len(done.err) < 200
