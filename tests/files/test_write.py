"""What is written is read as the same problem, also by HiGHS; what files cannot hold is refused."""

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.files.corpora import CORPORA, DATA, entries
from tests.files.test_mps import assert_as_highs

import bilevel as bl
from bilevel import ProblemError, UnsupportedProblem
from bilevel.io.mps import read_mps

WHOLE = st.integers(-4, 4).map(float)
BOUND = st.one_of(st.none(), WHOLE)


def again(problem, folder, **where):
    mps, aux = bl.write(problem, folder / "copy.mps", **where)
    return bl.read(mps, aux)


def content(form):
    """Return a form without the order of its rows and columns' level."""
    follower = form.followers[0]

    def rows(part):
        table = np.column_stack([part.A.toarray(), part.b, part.equality]) + 0.0
        return sorted(map(tuple, table))

    return {
        "leader": (form.objective.c.tolist(), form.objective.constant, form.objective.maximize),
        "follower": (
            follower.objective.c.tolist(),
            follower.objective.constant,
            follower.objective.maximize,
        ),
        "columns": (
            form.columns.lower.tolist(),
            form.columns.upper.tolist(),
            form.columns.integer.tolist(),
            form.columns.owner.tolist(),
        ),
        "rows": (rows(form.rows), rows(follower.rows)),
    }


@st.composite
def problems(draw):
    """Return a linear bilevel problem with any bounds, rows, senses, integers and constants."""
    n, m = draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def vector(size, element=WHOLE):
        return np.array(draw(st.lists(element, min_size=size, max_size=size)))

    def variable(name, size):
        low = np.array([-np.inf if b is None else b for b in vector(size, BOUND)], float)
        span = np.array([np.inf if b is None else abs(b) for b in vector(size, BOUND)], float)
        high = np.where(np.isinf(low), -2.0, low) + span
        whole = [(i,) for i in range(size) if draw(st.booleans())]
        return cp.Variable(size, name=name, bounds=[low, high], integer=whole or False)

    def row(*variables):
        value = sum(vector(v.size) @ v for v in variables)
        return draw(st.sampled_from([value.__le__, value.__ge__, value.__eq__]))(draw(WHOLE))

    def objective(*variables):
        value = sum(vector(v.size) @ v for v in variables) + draw(WHOLE)
        return draw(st.sampled_from([cp.Minimize, cp.Maximize]))(value)

    x, y = variable("x", n), variable("y y", m)
    count = st.integers(0, 3)
    lower = [row(x, y) for _ in range(draw(count))]
    follower = bl.Follower(objective(x, y), lower, variables=[y])
    problem = bl.Problem(objective(x, y), [row(x, y) for _ in range(draw(count))], [follower])
    columns = problem.compile().columns
    assume((columns.lower <= columns.upper).all())
    return problem


@given(problem=problems())
def test_the_same_problem_comes_back(tmp_path_factory, problem):
    folder = tmp_path_factory.mktemp("io")
    copy = again(problem, folder)
    assert content(copy.compile()) == content(problem.compile())
    second = again(copy, folder)
    assert content(second.compile()) == content(problem.compile())


@given(problem=problems())
def test_highs_reads_what_is_written(tmp_path_factory, problem):
    mps, _ = bl.write(problem, tmp_path_factory.mktemp("io") / "a.mps")
    assert_as_highs(read_mps(mps), mps)


def continuous():
    """The example of the README."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    rows = [x + y <= 8, 4 * x + y >= 8, 2 * x + y <= 13, 2 * x <= 7 * y]
    follower = bl.Follower(cp.Minimize(-y), rows, variables=[y], name="carrier")
    return bl.Problem(cp.Minimize(3 * x + y), [x >= 0, x <= 5], followers=[follower])


def absolute():
    """Absolute values at both levels give columns of their own."""
    x, y = cp.Variable(2, name="x"), cp.Variable(2, name="y", nonneg=True)
    follower = bl.Follower(cp.Minimize(cp.norm1(y - x)), [cp.sum(y) <= 3], variables=[y])
    goal = cp.Minimize(cp.abs(x[0] - 1) + cp.abs(x[1] - 4) + cp.sum(y))
    return bl.Problem(goal, [x >= 0, x <= 5], followers=[follower])


@pytest.mark.parametrize("build", [continuous, absolute])
def test_the_same_solution(tmp_path, build):
    first, second = bl.solve(build()), bl.solve(again(build(), tmp_path))
    assert second.leader_value == pytest.approx(first.leader_value, abs=1e-7)
    assert second.status is first.status
    values = list(second.follower_values.values())
    assert values == pytest.approx(list(first.follower_values.values()), abs=1e-7)


@pytest.mark.parametrize("name", ["T14", "T14b", "T14c"])
def test_the_same_solution_of_textbook_instances(tmp_path, name):
    instance = bl.instances.get(name)
    solution = bl.solve(again(instance.problem, tmp_path))
    assert solution.leader_value == pytest.approx(instance.optimistic.value, abs=1e-6)


def test_terms_of_the_leader_in_the_followers_objective_stay(tmp_path):
    problem = bl.read(DATA / "bf_1982_02.mod")
    solution = bl.solve(again(problem, tmp_path))
    assert solution.leader_value == pytest.approx(-3.25)
    assert solution.follower_values["follower"] == pytest.approx(-4.0)


def test_parameters_are_written_with_their_values(tmp_path):
    x, y, p = cp.Variable(name="x"), cp.Variable(name="y"), cp.Parameter(name="p", value=2.0)
    follower = bl.Follower(cp.Minimize(y), [y >= p * x, y >= p], variables=[y])
    problem = bl.Problem(cp.Minimize(y - x), [x >= 0, x <= 3], followers=[follower])
    copy = again(problem, tmp_path)
    assert not copy.parameters
    assert bl.solve(copy).leader_value == pytest.approx(bl.solve(problem).leader_value)


def test_names_in_the_files(tmp_path):
    """Blanks, digits alone and equal names of both levels become names that can be read."""
    x, y, z = cp.Variable(name="a b"), cp.Variable(name="7"), cp.Variable(name="a b")
    follower = bl.Follower(cp.Minimize(y + z), [y + z >= x, y >= 0, z >= 0], variables=[y, z])
    problem = bl.Problem(cp.Minimize(-x), [x <= 3, x + y <= 4], followers=[follower])
    mps, aux = bl.write(problem, str(tmp_path / "my problem.mps"))
    assert (mps.name, aux.name) == ("my problem.mps", "my problem.aux.txt")
    assert read_mps(mps).columns == ("a_b", "_7", "a_b_2")
    assert bl.solve(bl.read(mps)).leader_value == pytest.approx(-3.0)


def test_packed_files(tmp_path):
    mps, aux = bl.write(continuous(), tmp_path / "a.mps.gz")
    assert (aux.name, bl.solve(bl.read(mps)).leader_value) == ("a.aux.txt", pytest.approx(8.0))


@pytest.mark.parametrize("entry", entries("miblp")[::12])
def test_public_files_come_back(entry, tmp_path):
    problem = bl.read(CORPORA / "miblp" / entry["mps"], CORPORA / "miblp" / entry["aux"])
    copy = again(problem, tmp_path)
    assert content(copy.compile()) == content(problem.compile())
    assert copy.compile().columns.names == problem.compile().columns.names


def made(goal=None, inner=None, rows=(), own=(), followers=1, stance="optimistic"):
    x, y, z = (cp.Variable(name=name) for name in "xyz")
    first = bl.Follower(
        inner(x, y) if inner else cp.Minimize(y),
        [y >= x, y <= 9, *(row(x, y) for row in own)],
        variables=[y],
        name="first",
    )
    second = bl.Follower(cp.Minimize(z), [z >= x], variables=[z], name="second")
    return bl.Problem(
        goal(x, y, first) if goal else cp.Minimize(x + y),
        [x >= 0, x <= 3, *(row(x, y) for row in rows)],
        [first, second][:followers],
        stance,
    )


REFUSED = {
    "quadratic leader": ({"goal": lambda x, y, f: cp.Minimize(x**2)}, "leader's objective is not"),
    "quadratic follower": ({"inner": lambda x, y: cp.Minimize(y**2)}, "follower 'first' is not"),
    "product": ({"inner": lambda x, y: cp.Minimize(x * y)}, "follower 'first' is not linear"),
    "product in a row": ({"own": [lambda x, y: x * y <= 7]}, "row c2[0] of follower 'first' mult"),
    "leader's product": ({"rows": [lambda x, y: x * y <= 7]}, "row c2[0] of the leader mult"),
    "cone": ({"rows": [lambda x, y: cp.norm(cp.hstack([x, y])) <= 7]}, "second-order cone"),
    "price": (
        {"goal": lambda x, y, f: cp.Minimize(f.dual(f.constraints[0]) + x)},
        "multipliers or the value",
    ),
    "value": ({"goal": lambda x, y, f: cp.Minimize(f.value + x)}, "multipliers or the value"),
    "crossed bounds": ({"rows": [lambda x, y: x >= 4]}, "bounds of x leave no value"),
    "two followers": ({"followers": 2}, "several followers ('first', 'second')"),
    "pessimistic": ({"stance": "pessimistic"}, "stance='optimistic'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_files_cannot_hold_is_refused(tmp_path, case):
    arguments, words = REFUSED[case]
    with pytest.raises(UnsupportedProblem) as error:
        bl.write(made(**arguments), tmp_path / "a.mps")
    assert words in str(error.value)
    assert not list(tmp_path.iterdir())


def test_bad_arguments(tmp_path):
    with pytest.raises(ProblemError, match="must be a bilevel"):
        bl.write("T1", tmp_path / "a.mps")
    for name in ("a.mod", "a.lp", "a"):
        with pytest.raises(ProblemError, match=r"\.mps"):
            bl.write(continuous(), tmp_path / name)
    with pytest.raises(ProblemError, match="another name"):
        bl.write(continuous(), tmp_path / "a.mps", tmp_path / "a.mps")
    with pytest.raises(ProblemError, match="cannot be written"):
        bl.write(continuous(), tmp_path / "none" / "a.mps")
    assert not list(tmp_path.iterdir())
