"""The companion of an MPS file in every dialect, its errors, and the public collection."""

import itertools

import cvxpy as cp
import numpy as np
import pytest
from tests.files.corpora import CORPORA, entries

import bilevel as bl
from bilevel import ProblemError, Structure, UnsupportedProblem

# Leader a, b; follower p, q. The follower's columns and rows do not stand together.
MPS = """\
NAME small
ROWS
 L  r1
 N  cost
 G  own
 L  r2
COLUMNS
 a cost 1 r1 1
 p cost -2 r1 1
 p r2 2
 b own 1 cost 3
 q r2 -1 r1 1
RHS
 R r1 8 own -3
 R r2 5
BOUNDS
 UP B a 4
 UP B b 5
 LO B p -1
 UP B p 6
 FR B q
ENDATA
"""
INDEX = "N 2 M 2 LC 1 LC 3 LR 0 LR 2 LO 4 LO -1.5 OS -1"
DIALECTS = {
    "index, one line": INDEX,
    "index, a token a line": INDEX.replace(" ", "\n") + "\n",
    "index, crlf": "N 2\r\nM 2\r\nLC 1\r\nLC 3\r\nLR 0\r\nLR 2\r\nLO 4\r\nLO -1.5\r\nOS -1\r\n",
    "other order of keys": "OS -1 M 2 N 2 LR 2 LR 0 LC 3 LO -1.5 LC 1 LO 4",
    "names": "N 2 M 2 LC p LC q LR r1 LR r2 LO 4 LO -1.5 OS -1",
    "two values run together": "N 2 M 2 LC 1 3 LR 0 2 LO 4 -1.5 OS -1",
    "sections without ends": ("N 2\nM 2\nOS -1\n@VARSBEGIN\np 4\nq -1.5\n@CONSTSBEGIN\nr1\nr2\n"),
    "sections": (
        "@NUMVARS\n2\n@NUMCONSTRS\n2\n@VARSBEGIN\np -4\nq 1.5\n@VARSEND\n"
        "@CONSTRSBEGIN\nr1\nr2\n@CONSTRSEND\n@NAME\nits name\n@MPS\nthe file.mps\n"
    ),
    "sections as the page spells them": (
        "@NUMVARS 2 @NUMCONSTR 2 @VARSBEGIN q 1.5 p -4 @VARSEND "
        "@CONSTRBEGIN r2 r1 @CONSTREND\n@NAME\n@LP\nthe file.lp"
    ),
}


def read(folder, aux=INDEX, mps=MPS):
    (folder / "small.mps").write_text(mps, encoding="utf-8")
    (folder / "small.aux.txt").write_text(aux, encoding="utf-8", newline="")
    return bl.read(folder / "small.mps")


def modelled():
    a, b = cp.Variable(name="a", bounds=[0, 4]), cp.Variable(name="b", bounds=[0, 5])
    p, q = cp.Variable(name="p", bounds=[-1, 6]), cp.Variable(name="q")
    follower = bl.Follower(
        cp.Maximize(4 * p - 1.5 * q), [a + p + q <= 8, 2 * p - q <= 5], variables=[p, q]
    )
    return bl.Problem(cp.Minimize(a - 2 * p + 3 * b), [b >= -3], followers=[follower])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_the_problem_modelled_by_hand(tmp_path, dialect):
    problem = read(tmp_path, DIALECTS[dialect])
    known, found = bl.solve(modelled()), bl.solve(problem)
    assert found.leader_value == pytest.approx(known.leader_value, abs=1e-7)
    for name in "abpq":
        assert found[name] == pytest.approx(float(known[name]), abs=1e-6)
    maximizes = dialect not in ("sections", "sections as the page spells them")
    sign = 1.0 if maximizes else -1.0
    assert found.follower_values["follower"] == pytest.approx(sign * known.follower_values["p"])


def test_names_survive(tmp_path):
    problem = read(tmp_path)
    form = problem.compile()
    assert form.columns.names == ("a", "b", "p", "q")
    assert form.followers[0].rows.names[:2] == ("r1", "r2")
    assert [v.name() for v in problem.variables] == ["leader"]
    solution = bl.solve(problem)
    assert set(solution.to_dict()["values"]) == {"a", "b", "p", "q"}
    assert bl.verify(problem, solution.to_dict()["values"]).accepted
    assert bl.verify(problem, {"leader": solution["leader"]}).accepted
    with pytest.raises(ProblemError, match="lacks 'b'"):
        bl.verify(problem, {"a": 0.0})


def test_multipliers_of_rows_with_names(tmp_path):
    problem = read(tmp_path)
    follower = problem.followers[0]
    price = follower.dual(follower.constraints[0])
    solution = bl.solve(problem)
    y = cp.Variable(2)
    rows = [float(solution["a"]) + cp.sum(y) <= 8, 2 * y[0] - y[1] <= 5, y[0] >= -1, y[0] <= 6]
    cp.Problem(cp.Maximize(4 * y[0] - 1.5 * y[1]), rows).solve(solver=cp.CLARABEL)
    expected = [float(row.dual_value) for row in rows[:2]]
    np.testing.assert_allclose(solution[price], expected, atol=1e-5)


def test_digits_are_a_name_where_one_exists(tmp_path):
    mps = MPS.replace(" p ", " 3 ").replace(" q", " 1")
    problem = read(tmp_path, "N 2 M 2 LC 3 LC 1 LR 0 LR 2 LO 4 LO -1.5 OS -1", mps)
    assert problem.followers[0].variables[0].entries == ("3", "1")


def test_the_objective_may_stand_anywhere(tmp_path):
    moved = MPS.replace(" N  cost\n", "").replace("ROWS\n", "ROWS\n N  cost\n")
    first, second = read(tmp_path).compile(), read(tmp_path, mps=moved).compile()
    assert first.followers[0].rows.names == second.followers[0].rows.names


def test_free_rows_do_not_count(tmp_path):
    more = MPS.replace("ROWS\n", "ROWS\n N  cost0\n N  other\n").replace(" N  cost\n", " N  cost\n")
    problem = read(tmp_path, mps=more.replace("cost0", "spare"))
    assert problem.followers[0].constraints[0].row_names == ("r1", "r2")


def test_which_companion(tmp_path):
    problem_of = read
    problem_of(tmp_path)
    (tmp_path / "small.aux.txt").rename(tmp_path / "small.txt")
    assert bl.read(str(tmp_path / "small.mps")).followers
    (tmp_path / "small.aux").write_text(INDEX)
    with pytest.raises(ProblemError, match="more than one"):
        bl.read(tmp_path / "small.mps")
    assert bl.read(tmp_path / "small.mps", aux=tmp_path / "small.aux").followers
    (tmp_path / "small.aux").unlink()
    (tmp_path / "small.txt").unlink()
    with pytest.raises(ProblemError, match=r"aux=.*none"):
        bl.read(tmp_path / "small.mps")
    with pytest.raises(ProblemError, match=r"There is no file .*nothing\.txt"):
        bl.read(tmp_path / "small.mps", aux=tmp_path / "nothing.txt")
    with pytest.raises(ProblemError, match=r"\.mps or \.mod"):
        bl.read(tmp_path / "small.lp")


LINES = INDEX.replace(" LC", "\nLC").replace(" LR", "\nLR").replace(" LO", "\nLO")
LINES = LINES.replace(" M", "\nM").replace(" OS", "\nOS")  # N M LC LC LR LR LO LO OS: lines 1 to 9
BAD = {
    "empty": (lambda t: " \n", None, "empty"),
    "no N": (lambda t: t.replace("N 2\n", ""), None, "number of follower variables (N)"),
    "no M": (lambda t: t.replace("M 2\n", ""), None, "number of follower rows (M)"),
    "no variable": (lambda t: t.replace("N 2", "N 0"), 1, "decides no variable"),
    "N too small": (lambda t: t.replace("N 2", "N 1"), 4, "1 follower variables are declared, but"),
    "N too large": (lambda t: t.replace("N 2", "N 3"), 4, "but 2 are listed (LC)"),
    "M too large": (lambda t: t.replace("M 2", "M 3"), 6, "but 2 are listed (LR)"),
    "N is no number": (lambda t: t.replace("N 2", "N two"), 1, "'two'"),
    "N negative": (lambda t: t.replace("N 2", "N -2"), 1, "'-2'"),
    "N twice": (lambda t: t + "\nN 2", 10, "N appears a second time"),
    "LO missing": (lambda t: t.replace("LO 4\n", ""), 7, "but 1 are listed (LO)"),
    "LO is no number": (lambda t: t.replace("LO 4", "LO four"), 7, "LO must be a number"),
    "LO nan": (lambda t: t.replace("LO 4", "LO nan"), 7, "not a number"),
    "LO infinite": (lambda t: t.replace("LO 4", "LO 1e30"), 7, "infinite"),
    "LC too large": (lambda t: t.replace("LC 3", "LC 4"), 4, "LC 4 is too large"),
    "LC twice": (lambda t: t.replace("LC 3", "LC 1"), 4, "'p' a second time (before in line 3)"),
    "LC unknown": (lambda t: t.replace("LC 3", "LC z"), 4, "'z', which the MPS file lacks"),
    "LC negative": (lambda t: t.replace("LC 3", "LC -3"), 4, "'-3', which the MPS file lacks"),
    "LR unknown": (lambda t: t.replace("LR 2", "LR cost"), 6, "'cost', which the MPS file lacks"),
    "OS": (lambda t: t.replace("OS -1", "OS 2"), 9, "OS must be 1"),
    "unknown key": (lambda t: t.replace("OS -1", "SO -1"), 9, "'SO' is no key"),
    "first unknown key": (lambda t: "Q 3\n" + t, 1, "'Q' is no key"),
    "truncated": (lambda t: t.replace("OS -1", "OS"), 9, "OS has no value; the file may be trunc"),
    "costs without budget": (lambda t: t + "\nIC 3", 10, "need a budget"),
    "budget without costs": (lambda t: t + "\nIB 3\n", 1, "all 4 columns"),
    "odd section": (
        lambda t: "N 2\nM 0\n@VARSBEGIN\np 4 q\n@CONSTSBEGIN\n",
        4,
        "do not pair up; the last is 'q'",
    ),
    "short section": (
        lambda t: "N 2\nM 0\n@VARSBEGIN\np 4\n@VARSEND\n",
        4,
        "but 1 are listed (LC)",
    ),
    "long section": (lambda t: "N 1\nM 0\n@VARSBEGIN\np 4\nq 3\n@VARSEND\n", 5, "'q' is no key"),
    "unknown section": (lambda t: "@NUMVARS 1\n@NUMBERS 3\n", 2, "'@NUMBERS' is no key"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_companions_are_refused_with_their_line(tmp_path, case):
    change, line, words = BAD[case]
    with pytest.raises(ProblemError) as error:
        read(tmp_path, change(LINES))
    message = str(error.value)
    place = "" if line is None else f", line {line}"
    assert f"{tmp_path / 'small.aux.txt'}{place}: " in message
    assert words in message


@pytest.mark.parametrize("cut", range(1, len(LINES) - 1))
def test_a_companion_cut_anywhere_is_refused_or_complete(tmp_path, cut):
    try:
        problem = read(tmp_path, LINES[:cut])
    except ProblemError as error:
        assert "small.aux.txt" in str(error)
    else:
        # Only a digit of the last coefficient, or the sense, is gone.
        assert LINES[:cut].count("LO") == 2
        assert problem.followers


# ------------------------------------------------------------------------------- interdiction

PACK = """\
NAME pack
ROWS
 N cost
 L weight
COLUMNS
 i cost -5 weight 3
 j cost -4 weight 2
 k cost -3 weight 2
RHS
 R weight 4
BOUNDS
 BV B i
 BV B j
 BV B k
ENDATA
"""
FORBID = (
    "N 3 M 4\nLC 3 LC 4 LC 5\nLR 1 LR 2 LR 3 LR 4\nLO -5 LO -4 LO -3\nOS 1\nIC 2 IC 2 IC 1\nIB 2\n"
)


def points(form):
    """Return every 0-1 point, shape (2**n, n)."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=form.n)))


def optimum(form, w=None):
    """Return the optimistic optimum over given points of an all-integer problem."""
    w, follower = points(form) if w is None else w, form.followers[0]
    own = follower.columns
    answers = w[(w @ follower.rows.A.T <= follower.rows.b + 1e-9).all(axis=1)]
    value = answers @ follower.objective.c
    decision = np.delete(answers, own, axis=1)
    _, which = np.unique(decision, axis=0, return_inverse=True)
    best = np.full(which.max() + 1, np.inf)
    np.minimum.at(best, which, value)
    kept = answers[value <= best[which] + 1e-9]
    inside = (kept @ form.rows.A.T <= form.rows.b + 1e-9).all(axis=1)
    return (kept[inside] @ form.objective.c).min() + form.objective.constant


def test_an_interdiction_file_becomes_the_problem_of_both_levels(tmp_path):
    problem = read(tmp_path, FORBID, PACK)
    form = problem.compile()
    assert form.columns.names == ("x[i]", "x[j]", "x[k]", "i", "j", "k")
    assert form.columns.integer.all()
    assert problem.constraints[0].row_names == ("budget",)
    rows = ("weight", "interdict[i]", "interdict[j]", "interdict[k]")
    assert problem.followers[0].constraints[0].row_names == rows
    # Without interdiction the follower packs j and k for 7; the leader may forbid one of i and j,
    # or k alone. Forbidding j leaves i (5), the others 7 and 5 (i) or 4 (j): j or k give 5.
    assert optimum(form) == 5.0


BAD_INTERDICTION = {
    "too few columns": (lambda t: t.replace("N 3", "N 2"), PACK, 1, "all 3 columns"),
    "too few costs": (lambda t: t.replace("IC 2 IC 2", "IC 2"), PACK, 6, "2 are listed (IC)"),
    "no number": (lambda t: t.replace("IB 2", "IB two"), PACK, 7, "budget must be a number"),
    "no bound": (lambda t: t, PACK.replace(" BV B j\n", " PL B j\n"), None, "'j' can be interd"),
}


@pytest.mark.parametrize("case", BAD_INTERDICTION)
def test_bad_interdiction_files(tmp_path, case):
    change, mps, line, words = BAD_INTERDICTION[case]
    with pytest.raises(ProblemError) as error:
        read(tmp_path, change(FORBID), mps)
    assert words in str(error.value)
    assert line is None or f"small.aux.txt, line {line}: " in str(error.value)


# ----------------------------------------------------------------------------- public collection


@pytest.mark.parametrize("entry", entries("miblp"))
def test_public_files_are_described(entry):
    folder = CORPORA / "miblp"
    problem = bl.read(folder / entry["mps"], folder / entry["aux"])
    leader, follower = problem.variables[0], problem.followers[0]
    assert (leader.size, follower.variables[0].size) == (entry["n_upper"], entry["n_lower"])
    assert sum(c.size for c in problem.constraints) == entry["rows_upper"]
    assert sum(c.size for c in follower.constraints) == entry["rows_lower"]
    form = problem.compile()
    whole, own = form.columns.integer, form.follower_mask
    assert whole[~own].sum() == entry["n_upper_integer"]
    assert whole[own].sum() == entry["n_lower_integer"]
    assert form.followers[0].objective.maximize == (entry["lower_sense"] == "max")
    assert Structure.FOLLOWER_INTEGER in problem.structure
    assert f"{entry['n_lower']} variable" in problem.summary()
    with pytest.raises(UnsupportedProblem, match="'follower' decides the integer variable"):
        bl.solve(problem)


def found_at(name):
    folder = CORPORA / "miblp"
    found = [e.values[0] for e in entries("miblp") if e.values[0] and e.values[0]["name"] == name]
    if not found:
        pytest.skip("the collection miblp is not beside this repository")
    entry = found[0]
    return entry, bl.read(folder / entry["mps"], folder / entry["aux"])


def test_a_line_that_holds_two_costs_is_read_as_both():
    _, problem = found_at("2AP05-12")
    form = problem.compile()
    np.testing.assert_array_equal(form.followers[0].objective.c, -form.objective.c)


@pytest.mark.parametrize("name", ["moore90_2", "F5010W01.KNP", "K5010W01.KNP"])
def test_the_optimum_of_public_files_by_enumeration(name):
    entry, problem = found_at(name)
    form = problem.compile()
    grid = points(form) if entry["kind"] == "interdiction" else None
    if grid is None:
        grid = np.array(list(itertools.product(range(5), range(5))), float)
        grid = grid[((grid >= form.columns.lower) & (grid <= form.columns.upper)).all(axis=1)]
    assert optimum(form, grid) == entry["own_optimum"]
