"""What may be named on the command line, and how a file's own errors are shown."""

import pytest

NOT_PYTHON = "import bilevel as bl\nx = = 1\n"
RAISES = "def half():\n    return 1 / 0\n\nhalf()\n"
MALFORMED = "import bilevel as bl\nproblem = bl.Problem(None)\n"
ENDS = "import sys\nsys.exit(4)\n"
NEEDS = "def build(size):\n    return size\n"
MISSPELT_NAME = "import bilevel as bl\nproblem = bl.Problm()\n"
MISSPELT_KEY = "import bilevel as bl\nproblem = bl.Follower(None, [], variable=[])\n"
NOTHING = "def build():\n    return None\n"
SMOOTH = "import bilevel as bl\nproblem = bl.SmoothProblem(lambda x, y: x, lambda x, y: y)\n"
LATE = "def build():\n    raise ValueError('no data')\n"
FORMS = """
from toll import problem

def build():
    return problem

class Application:
    def __init__(self):
        self.problem = problem

application = Application()
"""


@pytest.mark.parametrize("name", ["problem", "build", "application", "Application"])
def test_a_problem_a_function_or_what_has_a_problem(bilevel, write, model, name):
    file = write("forms.py", FORMS)
    done = bilevel("solve", f"{file}:{name}", "--json")
    assert done.code == 0
    assert done.json["leader_value"] == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (NOT_PYTHON, "x", ["line 2 is not valid Python", "x = = 1"]),
        (RAISES, "x", ["line 2 (return 1 / 0)", "ZeroDivisionError: division by zero"]),
        (MALFORMED, "problem", ["line 2", "cvxpy.Minimize"]),
        (ENDS, "x", ["line 2", "exit code 4", "__main__"]),
        (MISSPELT_NAME, "problem", ["line 2", "no attribute 'Problm'"]),
        (MISSPELT_KEY, "problem", ["line 2", "unexpected keyword argument 'variable'"]),
        (NEEDS, "build", ["needs arguments"]),
        (NOTHING, "build", ["gives NoneType", "no bilevel.Problem"]),
        (SMOOTH, "problem", ["no bilevel.Problem", "start=(x, y)"]),
        (LATE, "build", ["line 2", "ValueError: no data"]),
        ("import no_such_package\n", "x", ["line 1", "no_such_package"]),
        ("x = 1\n", "y", ["defines no object 'y'"]),
    ],
)
def test_errors_of_a_file_show_file_line_and_message(bilevel, write, text, name, said):
    file = write("mine.py", text)
    done = bilevel("solve", f"{file}:{name}")
    assert (done.code, done.out) == (2, "")
    assert str(file) in done.err
    assert len(done.err.strip().splitlines()) == 1
    for part in said:
        assert part in done.err


def test_an_error_in_a_file_beside_it_shows_that_file(bilevel, write):
    helper = write("helper_of_mine.py", "raise KeyError('demand')\n")
    file = write("imports.py", "import helper_of_mine\n")
    done = bilevel("solve", f"{file}:problem")
    assert done.code == 2
    assert f"{helper}, line 1" in done.err


def test_a_missing_extra_in_a_file_has_exit_code_3(bilevel, write):
    text = "from bilevel.errors import BackendNotFound\nraise BackendNotFound('pip install it')\n"
    done = bilevel("solve", f"{write('extra.py', text)}:problem")
    assert done.code == 3
    assert "line 2" in done.err
    assert "pip install it" in done.err


def test_a_file_without_object_lists_what_it_has(bilevel, model):
    done = bilevel("solve", model)
    assert done.code == 2
    assert f"{model}:problem" in done.err


@pytest.mark.parametrize("target", ["T99", "no.py:problem", "no/such/file.py", ".:problem", ""])
def test_unknown_targets_say_what_there_is(bilevel, target):
    done = bilevel("solve", target)
    assert (done.code, done.out) == (2, "")
    assert "T1" in done.err


@pytest.mark.parametrize("command", ["verify", "methods"])
def test_other_commands_refuse_the_same_targets(bilevel, command):
    extra = ["--at", "x=1"] if command == "verify" else []
    assert bilevel(command, "T99", *extra).code == 2


def test_what_a_file_prints_stays_out_of_json(bilevel, write):
    file = write("talks.py", "import bilevel as bl\nprint('hello')\np = bl.instances.get('T1')\n")
    done = bilevel("solve", f"{file}:p", "--json")
    assert done.json["status"] == "OPTIMAL"
    assert done.err == "hello\n"


def test_unknown_commands_have_exit_code_2(bilevel):
    done = bilevel("resolve", "T1")
    assert (done.code, done.out) == (2, "")
