"""The .mod dialect of BASBLib: files with known answers, functions by another parser, bad input."""

import numpy as np
import pytest
from tests.files.corpora import CORPORA, DATA, entries

import bilevel as bl
from bilevel import ProblemError, UnsupportedProblem


def value(expression):
    """Return the number that a CVXPY expression has at the values of its variables."""
    return float(np.asarray(expression.value))


@pytest.mark.parametrize(
    ("name", "leader", "follower"),
    [
        ("bf_1982_02", -3.25, -4.0),
        ("mb_2007_01", 1.0, -1.0),
        # The file states 0 at a point that its own bounds exclude (y[1] = -10).
        ("as_1981_01", -6600.0, None),
        ("gf_1987_01_FI", 0.5, 0.0),
    ],
)
def test_known_answers(name, leader, follower):
    solution = bl.solve(bl.read(DATA / f"{name}.mod"))
    assert solution.status is bl.Status.OPTIMAL
    assert solution.certificate.accepted
    assert solution.leader_value == pytest.approx(leader, abs=1e-4)
    if follower is not None:
        assert solution.follower_values["follower"] == pytest.approx(follower, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("ka_2014_02", 42, ["outer_con_2: x[2]*y[1]^2 <= 0", "multiplies three variables"]),
        ("c_2002_05", 39, ["inner_con_1: 6*x + y[1]^2", "quadratic in the follower"]),
        ("cg_1999_01", 35, ["divides by variables", "(1 + x[1] + x[2] + 2 * y[1]"]),
    ],
)
def test_what_cannot_be_modelled_is_named_with_its_line(name, line, words):
    path = DATA / f"{name}.mod"
    with pytest.raises(UnsupportedProblem) as error:
        bl.read(path)
    message = str(error.value)
    assert message.startswith(f"{path}, line {line}: ")
    for part in words:
        assert part in message


def test_names_of_variables_and_rows():
    problem = bl.read(DATA / "bf_1982_02.mod")
    form = problem.compile()
    assert form.columns.names == ("x[1]", "x[2]", "y[1]", "y[2]")
    # A row of the follower without its variables is a condition on the leader.
    assert form.rows.names == ("inner_con3",)
    assert form.followers[0].rows.names[:2] == ("inner_con1", "inner_con2")
    solution = bl.solve(problem)
    assert solution["y[1]"] == pytest.approx(1.5)
    np.testing.assert_allclose(solution["x"], [2.0, 0.0], atol=1e-7)
    assert bl.verify(problem, {"x": [2.0, 0.0], "y[1]": 1.5, "y[2]": 0.0}).accepted


@pytest.mark.parametrize("entry", entries("basblib"))
def test_public_files(entry):
    path = CORPORA / "basblib" / entry["file"]
    try:
        problem = bl.read(path)
    except UnsupportedProblem as error:
        assert "NLP" in entry["class_by_degree"], error
        assert str(error).startswith(f"{path}, line ")
        return
    follower = problem.followers[0]
    assert sum(v.size for v in problem.variables) == entry["nx"]
    assert sum(v.size for v in follower.variables) == entry["ny"]
    assert len(problem.constraints) == entry["n_upper_ineq"] + entry["n_upper_eq"]
    assert len(follower.constraints) == entry["n_lower_ineq"] + entry["n_lower_eq"]
    columns = [name for _, leaf in problem.leaves.items() for name in leaf.names]
    bounds = [pair for _, leaf in problem.leaves.items() for pair in np.column_stack(leaf.bounds)]
    listed = entry["x_names"] + entry["y_names"]
    given = {
        name: [low if low is not None else -np.inf, high if high is not None else np.inf]
        for name, (low, high) in zip(listed, entry["x_bounds"] + entry["y_bounds"], strict=True)
    }
    assert {n: list(b) for n, b in zip(columns, bounds, strict=True)} == given
    _compare_functions(problem, entry, listed)


def _compare_functions(problem, entry, names):
    """Compare values at random points with the functions that sympy reads from the index."""
    sympy = pytest.importorskip("sympy")
    follower, said = problem.followers[0], entry["expressions"]
    x, y = sympy.symbols(f"x:{entry['nx']}"), sympy.symbols(f"y:{entry['ny']}")

    def known(text, point):
        function = sympy.sympify(text, locals={"x": x, "y": y})
        return float(function.subs(dict(zip((*x, *y), point, strict=True))))

    rng = np.random.default_rng(1)
    for _ in range(3):
        point = rng.uniform(0.1, 2.0, len(names))
        place = dict(zip(names, point, strict=True))
        for leaf in problem.leaves.values():
            part = np.array([place[name] for name in leaf.names])
            leaf.variable.save_value(part if leaf.variable.shape else part[0])
        assert value(problem.objective.args[0]) == pytest.approx(known(said["F"], point))
        assert value(follower.objective.args[0]) == pytest.approx(known(said["f"], point))
        for constraints, keys in ((problem.constraints, "GH"), (follower.constraints, "gh")):
            found = sorted(abs(value(c.args[0] - c.args[1])) for c in constraints)
            expected = sorted(abs(known(text, point)) for key in keys for text in said[key])
            assert found == pytest.approx(expected)


GOOD = """\
# a small problem
param cap := 4;   # a number
param low{I};
set I := 1..2;
set J := {1..3};
var x{i in I} >= low[i], <= cap/2;
var y{j in J} >= 0 <= 5;
var ys;
var l{1..9} >= 0;

maximize outer_obj: x[1]
    + sum {j in J} -y[j] + ys;
subject to
    outer_con1: x[1] + x[2] >= 1;
    inner_obj: (y[1] - 1)^2 + sum{j in J} (y[j]^2 - x[1]*y[j]) + ys^2/2 = 0;
    inner_con_1: y[1] + y[2] <= x[1]^1 + cap;
    inner_con_2: ys = exp(0)*x[2];
    stationarity_1: l[1] + nonsense(y) = 0;
    complementarity_2: l[2]*y[1] = 0;
data;
param low := 1 0
             2 -1e0 ;
"""


def write(folder, text, name="a.mod"):
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


SORTED = GOOD.replace("param low{I};\nset I := 1..2;", "set I := 1..2;\nparam low{I};")


def test_everything_at_once(tmp_path):
    for text in (SORTED, SORTED.replace("\n", "\r\n")):
        problem = bl.read(write(tmp_path, text))
        columns = problem.compile().columns
        names = ("x[1]", "x[2]", "y[1]", "y[2]", "y[3]", "ys")
        assert columns.names == names
        assert columns.lower[:2].tolist() == [0, -1]
        assert columns.upper[:2].tolist() == [2, 2]
        point = dict(zip(names, [2.0, 1.0, 0.5, 1.5, 3.0, 1.0], strict=True))
        for leaf in problem.leaves.values():
            part = np.array([point[n] for n in leaf.names])
            leaf.variable.save_value(part if leaf.variable.shape else part[0])
        follower = problem.followers[0]
        assert value(problem.objective.args[0]) == pytest.approx(2.0 - 5.0 + 1.0)
        squares = 0.25 + 2.25 + 9.0
        inner = 0.25 + squares - 2.0 * 5.0 + 0.5
        assert value(follower.objective.args[0]) == pytest.approx(inner)
        assert bl.solve(problem).certificate.accepted


def test_odd_powers_hold_for_negative_numbers(tmp_path):
    """CVXPY's power(x, 3) is infinite below zero; a product is not."""
    text = "var x >= -2, <= 2;\nvar y >= -5, <= 5;\nminimize outer_obj: x + y;\n"
    text += "subject to inner_obj: (y - 1)^2 - 2*x*y*y^1*0 = 0;\n"
    problem = bl.read(write(tmp_path, text))
    assert bl.solve(problem).leader_value == pytest.approx(-1.0, abs=1e-5)


BAD = {
    "order": (GOOD, 3, "'I' is no set"),
    "empty set": (SORTED.replace("{1..3}", "{1..0}"), 5, "'1..0' is no set"),
    "no semicolon": (SORTED.replace("-1e0 ;", "-1e0"), 21, "semicolon"),
    "truncated": (SORTED[:400], 16, "semicolon"),
    "unknown name": (SORTED.replace("+ ys;", "+ z;"), 12, "'z' is declared nowhere"),
    "index": (SORTED.replace("x[1] + x[2] >=", "x[1] + x[3] >="), 14, "'x' has no entry 3"),
    "no index": (SORTED.replace("x[1] + x[2] >=", "x[1] + x >="), 14, "'x' needs an index"),
    "index of a number": (SORTED.replace("+ ys;", "+ ys[1];"), 12, "'ys' has no entry"),
    "syntax": (SORTED.replace("x[1] + x[2] >=", "x[1] + * x[2] >="), 14, "is no expression"),
    "function": (SORTED.replace("exp(0)", "gamma(0)"), 17, "'gamma(0)' is not understood"),
    "code": (SORTED.replace("exp(0)", "__import__('os')"), 17, "is not understood"),
    "no relation": (SORTED.replace(" >= 1;", ";"), 14, "needs one of"),
    "two relations": (SORTED.replace(" >= 1;", " >= 1 >= 0;"), 14, "needs one of"),
    "no variable": (SORTED.replace("x[1] + x[2] >= 1", "2 >= 1"), 14, "contain a variable"),
    "multiplier": (SORTED.replace("x[1] + x[2] >= 1", "l[1] >= 1"), 14, "it is a multiplier"),
    "name of a row": (SORTED.replace("outer_con1", "middle"), 14, "'middle' has none of"),
    "name of a variable": (SORTED.replace("var ys", "var zs"), 8, "'zs' begins with none of"),
    "name of the objective": (SORTED.replace("outer_obj", "cost"), 11, "outer_obj, not cost"),
    "no objective": (SORTED.replace("maximize outer_obj", "outer_con9"), 11, "needs one of"),
    "inner objective missing": (SORTED.replace("inner_obj", "inner_con9"), None, "one inner_obj"),
    "inner objective open": (SORTED.replace("/2 = 0", "/2 <= 0"), 15, "end in = 0"),
    "inner objective twice": (SORTED.replace("inner_con_2", "inner_obj2"), 17, "end in = 0"),
    "inner objectives": (
        SORTED.replace("inner_con_2: ys = exp(0)*x[2]", "inner_obj2: ys = 0"),
        17,
        "one inner_obj, not 2",
    ),
    "declared twice": (SORTED.replace("var ys", "var y"), 8, "declared a second time"),
    "crossed bounds": (SORTED.replace(">= 0 <= 5", ">= 6 <= 5"), 7, "leave no value"),
    "bound": (SORTED.replace("<= cap/2", "<= cap/0"), 6, "has no value"),
    "bound of variables": (SORTED.replace(">= 0 <= 5", ">= x[1]"), 7, "must be a number"),
    "after a variable": (SORTED.replace("var ys;", "var ys free;"), 8, "'free'"),
    "no follower": (
        "var x;\nminimize outer_obj: x;\nsubject to inner_obj: x = 0;\n",
        None,
        "no variable of the follower",
    ),
    "statement": (SORTED.replace("data;", "solve;\ndata;"), 20, "'solve' begins no statement"),
    "data": (SORTED.replace("param low := 1", "param high := 1"), 21, "declared parameter"),
    "data odd": (SORTED.replace("-1e0", ""), 21, "do not pair up"),
    "data short": (SORTED.replace("1 0\n", "\n"), 21, "do not match its 2 indices"),
    "data nan": (SORTED.replace("-1e0", "nan"), 21, "not a number"),
    "data index": (SORTED.replace("1 0\n", "one 0\n"), 21, "'one'"),
    "data missing": (SORTED[: SORTED.index("data;")], 6, "'low' is declared nowhere"),
    "empty": ("# nothing\n", None, "one outer_obj"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_their_line(tmp_path, case):
    text, line, words = BAD[case]
    path = write(tmp_path, text)
    with pytest.raises(ProblemError) as error:
        bl.read(path)
    message = str(error.value)
    assert words in message
    assert message.startswith(f"{path}: " if line is None else f"{path}, line {line}: "), message


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ("cos(x[1])", "takes cos of variables"),
        ("1/y[1]", "divides by variables"),
        ("y[1]^(-2)", "divides by variables"),
        ("2^y[1]", "has an exponent with variables"),
        ("y[1]^3", "cubic"),
        ("log(y[1])", "inner_obj"),
        ("-y[2]^2*2", "not convex"),
    ],
)
def test_functions_beyond_the_models(tmp_path, new, words):
    path = write(tmp_path, SORTED.replace("(y[1] - 1)^2", new))
    with pytest.raises(UnsupportedProblem) as error:
        bl.read(path)
    assert str(error.value).startswith(f"{path}, line 15: ")
    assert words in str(error.value)


def test_a_companion_makes_no_sense(tmp_path):
    with pytest.raises(ProblemError, match="leave aux out"):
        bl.read(write(tmp_path, SORTED), aux="a.aux")


@pytest.mark.parametrize(
    ("objective", "row"),
    [
        ("y", "y/0"),
        ("y", "(-8)^(1/3)*y"),
        ("y", " + ".join(["y"] * 900)),
        ("(-8)^(1/3)*y", "y"),
    ],
    ids=["division", "complex", "long", "complex objective"],
)
def test_what_cvxpy_cannot_model_is_named(tmp_path, objective, row):
    file = tmp_path / "x.mod"
    file.write_text(
        f"var x >= 0, <= 10;\nvar y >= 0, <= 10;\nminimize outer_obj: x + y;\nsubject to\n"
        f"inner_obj: y^2 - {objective} = 0;\ninner_con1: {row} <= 3;\n"
    )
    with pytest.raises((bl.ProblemError, bl.UnsupportedProblem), match=r"x\.mod"):
        bl.read(file)
