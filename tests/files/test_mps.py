"""MPS files: what is read, compared with HiGHS's reader, and what is refused with its line."""

import gzip

import highspy
import numpy as np
import pytest
from tests.files.corpora import CORPORA, entries

from bilevel import ProblemError
from bilevel.io.mps import read_mps

# Every kind of row, range and bound.
FULL = """\
* a comment
NAME          everything
OBJSENSE
    MAX
ROWS
 N  cost
 L  atmost
 G  atleast
 E  plus
 E  minus
 N  ignored
 L  spanL
 G  spanG
COLUMNS
    MARKER                 'MARKER'                 'INTORG'
    whole     cost      1.0        atmost    1.0
    binary    cost      2.0        atmost    1.0
    MARKER                 'MARKER'                 'INTEND'
    free      cost      -1.5       atleast   1.0
    free      plus      1.0        ignored   7.0
    below     minus     1.0        spanL     2.0
    fixed     spanG     1.0
    range     spanG     -1e-3      spanL     1.0
    least     atleast   3.0
    upto      plus      1.0
    single    cost      0.25
RHS
    RHS       cost      -10.0      atmost    4.0
    RHS       atleast   1.0        plus      2.0
    RHS       minus     3.0        spanL     5.0
    RHS       spanG     -6.0
RANGES
    RNG       plus      4.0        minus     -2.0
    RNG       spanL     -3.0       spanG     3.0
BOUNDS
 UI BND       whole     7.0
 FR BND       free
 UP BND       below     -2.0
 FX BND       fixed     2.5
 LO BND       range     -1.0
 UP BND       range     1e30
 LI BND       least     2
 MI BND       upto
 UP BND       upto      9.0
 BV BND       single    1.0
ENDATA
"""


def read(tmp_path, text, name="a.mps"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    return read_mps(path)


def from_highs(path):
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    assert solver.readModel(str(path)) != highspy.HighsStatus.kError
    return solver.getLp()


def dense(lp):
    matrix = lp.a_matrix_
    assert matrix.format_ == highspy.MatrixFormat.kColwise
    start, index, value = np.array(matrix.start_), np.array(matrix.index_, int), matrix.value_
    A = np.zeros((lp.num_row_, lp.num_col_))
    for j in range(lp.num_col_):
        A[index[start[j] : start[j + 1]], j] = value[start[j] : start[j + 1]]
    return A


def assert_as_highs(program, path):
    lp = from_highs(path)
    assert (list(lp.col_names_), list(lp.row_names_)) == (
        list(program.columns),
        list(program.rows),
    )
    np.testing.assert_array_equal(lp.col_cost_, program.cost)
    np.testing.assert_array_equal(lp.col_lower_, program.lower)
    np.testing.assert_array_equal(lp.col_upper_, program.upper)
    np.testing.assert_array_equal(lp.row_lower_, program.row_lower)
    np.testing.assert_array_equal(lp.row_upper_, program.row_upper)
    np.testing.assert_array_equal(dense(lp), program.A.toarray())
    assert lp.offset_ == program.constant
    assert (lp.sense_ == highspy.ObjSense.kMaximize) == program.maximize
    whole = [kind == highspy.HighsVarType.kInteger for kind in lp.integrality_]
    np.testing.assert_array_equal(whole or [False] * len(program.integer), program.integer)


def test_everything_at_once(tmp_path):
    found = read(tmp_path, FULL)
    assert found.maximize
    assert found.constant == 10.0
    assert found.rows == ("atmost", "atleast", "plus", "minus", "spanL", "spanG")
    inf = np.inf
    # Ranges: E with a positive one upwards, with a negative one downwards; L and G by its size.
    assert found.row_lower.tolist() == [-inf, 1, 2, 1, 2, -6]
    assert found.row_upper.tolist() == [4, inf, 6, 3, 5, -3]
    assert dict(zip(found.columns, found.lower, strict=True)) == {
        **dict.fromkeys(["whole", "binary", "single"], 0),
        **dict.fromkeys(["free", "below", "upto"], -inf),
        "fixed": 2.5,
        "range": -1,
        "least": 2,
    }
    assert found.upper.tolist() == [7, 1, inf, -2, 2.5, inf, inf, 9, 1]
    assert found.integer.tolist() == [True, True, *[False] * 4, True, False, True]
    assert found.free["ignored"][0].tolist() == [0, 0, 7, 0, 0, 0, 0, 0, 0]
    assert found.A.toarray()[2].tolist() == [0, 0, 1, 0, 0, 0, 0, 1, 0]


def test_as_highs_reads_it(tmp_path):
    # HiGHS leaves the zero below a negative upper bound, which no point satisfies.
    text = FULL.replace(" UP BND       below", " MI BND       below\n UP BND       below")
    found = read(tmp_path, text)
    assert_as_highs(found, tmp_path / "a.mps")


@pytest.mark.parametrize("entry", entries("miblp"))
def test_public_files_as_highs_reads_them(entry):
    path = CORPORA / "miblp" / entry["mps"]
    found = read_mps(path)
    assert (len(found.columns), len(found.rows)) == (entry["mps_columns"], entry["mps_rows"])
    assert_as_highs(found, path)


def same(first, second):
    for name in ("cost", "row_lower", "row_upper", "lower", "upper", "integer"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    np.testing.assert_array_equal(first.A.toarray(), second.A.toarray())
    assert (first.columns, first.rows, first.constant) == (
        second.columns,
        second.rows,
        second.constant,
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: "\ufeff" + text,
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("OBJSENSE\n    MAX", "OBJSENSE MAXIMIZE"),
        lambda text: text.replace("RHS       ", ""),
        lambda text: text.replace("RNG       ", "").replace("BND       ", ""),
        lambda text: text.replace("ROWS\n", "\nROWS\n* between\n"),
        lambda text: text + "what follows is not read\n",
        lambda text: text.replace("    ", "\t"),
    ],
    ids=[
        "crlf",
        "cr",
        "bom",
        "no-newline",
        "inline-sense",
        "no-rhs",
        "no-sets",
        "comments",
        "after",
        "tabs",
    ],
)
def test_spellings_of_the_same(tmp_path, change):
    same(read(tmp_path, FULL), read(tmp_path, change(FULL), "b.mps"))


def test_packed(tmp_path):
    (tmp_path / "a.mps.gz").write_bytes(gzip.compress(FULL.encode()))
    same(read(tmp_path, FULL), read_mps(tmp_path / "a.mps.gz"))


FIXED = """\
NAME          WITH BLANKS
ROWS
 N  THE COST
 L  ROW ONE
COLUMNS
    COL A     THE COST           1.0   ROW ONE            2.0
    COL B     ROW ONE           -1.0
RHS
    MY RHS    ROW ONE            4.0
BOUNDS
 UP MY BND    COL A              3.0
ENDATA
"""


def test_names_with_blanks_in_the_fixed_format(tmp_path):
    found = read(tmp_path, FIXED)
    assert found.columns == ("COL A", "COL B")
    assert found.rows == ("ROW ONE",)
    assert found.A.toarray().tolist() == [[2.0, -1.0]]
    assert (found.row_upper.tolist(), found.upper.tolist()) == ([4.0], [3.0, np.inf])


def test_an_error_in_the_fixed_format_names_its_own_line(tmp_path):
    with pytest.raises(ProblemError, match=r"a\.mps, line 9: .*'4\.x'"):
        read(tmp_path, FIXED.replace("4.0", "4.x"))


def test_ranges_of_zero_make_equations(tmp_path):
    text = FULL.replace("-3.0       spanG     3.0", "0.0        spanG     0")
    found = read(tmp_path, text)
    assert found.row_lower.tolist()[-2:] == found.row_upper.tolist()[-2:] == [5, -6]


BAD = {
    "no end": (lambda t: t.replace("ENDATA\n", ""), 45, "without ENDATA"),
    "truncated": (lambda t: t[:700], None, "a.mps, line"),
    "unknown section": (lambda t: t.replace("RANGES", "RANGE"), 32, "'RANGE' is unknown"),
    "quadratic section": (lambda t: t.replace("RANGES", "QUADOBJ"), 32, "'QUADOBJ' is unknown"),
    "section twice": (lambda t: t.replace("RANGES", "ROWS"), 32, "ROWS appears a second time"),
    "data first": (lambda t: t.replace("ROWS\n", ""), 5, "OBJSENSE must be MIN or MAX"),
    "sense": (lambda t: t.replace(" MAX", " LESS"), 4, "'LESS'"),
    "kind of row": (lambda t: t.replace(" L  atmost", " X  atmost"), 7, "N, E, L or G"),
    "row twice": (lambda t: t.replace(" G  atleast", " G  atmost"), 8, "'atmost' appears a sec"),
    "no objective": (lambda t: t.replace(" N  ", " L  "), 46, "no objective"),
    "unknown row": (lambda t: t.replace("spanG     1.0", "spanX     1.0"), 22, "'spanX' is not"),
    "column again": (lambda t: t.replace("    single ", "    free   "), 26, "'free' appears again"),
    "entry twice": (lambda t: t.replace("ignored ", "plus    "), 20, "second entry in row 'plus'"),
    "no pair": (lambda t: t.replace("-1.5       atleast   1.0", "-1.5 atleast"), 19, "pairs"),
    "marker": (lambda t: t.replace("'INTEND'", "'INTEN'"), 18, "INTORG or INTEND"),
    "no number": (lambda t: t.replace("0.25", "O.25"), 26, "'O.25'"),
    "nan": (lambda t: t.replace("0.25", "nan"), 26, "not a number"),
    "underscore": (lambda t: t.replace("0.25", "2_5"), 26, "'2_5'"),
    "infinite entry": (lambda t: t.replace("0.25", "inf"), 26, "infinite"),
    "infinite side": (lambda t: t.replace("atmost    4.0", "atmost    1e31"), 28, "infinite"),
    "side twice": (lambda t: t.replace("spanL     5.0", "plus      5.0"), 30, "a second time"),
    "range of N": (lambda t: t.replace("RNG       plus", "RNG       cost"), 33, "no range"),
    "kind of bound": (lambda t: t.replace(" UI ", " UX "), 36, "'UX' is unknown"),
    "semi-continuous": (lambda t: t.replace(" UI ", " SC "), 36, "'SC' is unknown"),
    "bound of nothing": (lambda t: t.replace("fixed     2.5", "fix       2.5"), 39, "'fix'"),
    "bound lacks value": (
        lambda t: t.replace("BND       fixed     2.5", "fixed"),
        39,
        "incomplete",
    ),
    "bound twice": (lambda t: t.replace("UP BND       range", "LO BND       range"), 41, "value"),
    "bound given twice": (
        lambda t: t.replace(" MI BND       upto", " UP BND       upto      8"),
        44,
        "upper bound of column 'upto' is given a second time",
    ),
    "crossed": (
        lambda t: t.replace(" MI BND       upto", " LO BND upto 10"),
        44,
        "above its upper",
    ),
    "negative over zero": (
        lambda t: t.replace(" UP BND       below", " LO BND below 0\n UP BND       below"),
        39,
        "lower bound 0 above its upper bound -2",
    ),
    "nan bound": (lambda t: t.replace("range     -1.0", "range     NaN"), 40, "not a number"),
    "empty": (lambda t: "", 1, "without ENDATA"),
    "no columns": (lambda t: t[: t.index("    MARKER")] + "ENDATA\n", 15, "COLUMNS is empty"),
    "binary": (lambda t: t.replace("atmost", "at\x00st", 1), None, "line"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_their_line(tmp_path, case):
    change, line, words = BAD[case]
    with pytest.raises(ProblemError) as error:
        read(tmp_path, change(FULL))
    message = str(error.value)
    assert str(tmp_path / "a.mps") in message
    assert words in message
    if line is not None:
        assert f"line {line}:" in message, message


@pytest.mark.parametrize("cut", range(20, len(FULL) - 8, 23))
def test_a_file_cut_anywhere_is_refused(tmp_path, cut):
    with pytest.raises(ProblemError, match=r"a\.mps, line \d+: "):
        read(tmp_path, FULL[:cut])


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ProblemError, match="There is no file"):
        read_mps(tmp_path / "none.mps")
    with pytest.raises(ProblemError, match="cannot be read"):
        read_mps(tmp_path)
    (tmp_path / "a.mps.gz").write_text("not packed")
    with pytest.raises(ProblemError, match="cannot be read"):
        read_mps(tmp_path / "a.mps.gz")
