"""Problems in files on the command line: solved, verified, described, converted."""

import json

import pytest
from tests.files.corpora import DATA
from tests.files.test_aux import FORBID, INDEX, MPS, PACK

import bilevel as bl


@pytest.fixture
def small(write):
    """Return the path of an MPS file; its companion has a name that is not searched for."""
    write("division", INDEX)
    return write("small.mps", MPS)


def test_solve_and_verify(bilevel, small, write):
    aux = small.parent / "division"
    done = bilevel("solve", small, "--aux", aux, "--json")
    expected = bl.solve(bl.read(small, aux)).leader_value
    assert done.code == 0
    assert done.json["leader_value"] == pytest.approx(expected)
    assert set(done.json["values"]) == {"a", "b", "p", "q"}
    point = write("point.json", done.out)
    assert bilevel("verify", small, "--aux", aux, "--point", point).code == 0
    wrong = [part for name in "abpq" for part in ("--at", f"{name}=0")]
    assert bilevel("verify", small, "--aux", aux, *wrong).code == 1


def test_entries_are_printed_by_name(bilevel, small):
    done = bilevel("solve", small, "--aux", small.parent / "division", "--quiet")
    lines = [line.split() for line in done.out.splitlines()]
    assert ["a", "0", "(leader)"] in lines
    assert any(line[:1] == ["p"] and line[-1] == "(follower)" for line in lines)


def test_many_entries_are_counted(bilevel, write):
    n = 30
    rows = "".join(f" y{i} cost -1 sum 1\n" for i in range(n))
    text = f"NAME many\nROWS\n N cost\n L sum\nCOLUMNS\n x cost 1 sum -1\n{rows}"
    write("many.aux", f"N {n} M 1 " + " ".join(f"LC y{i} LO -1" for i in range(n)) + " LR sum")
    done = bilevel("solve", write("many.mps", f"{text}RHS\n R sum 2\nBOUNDS\n FX B x 1\nENDATA\n"))
    assert done.code == 0
    assert "30 entries, " in done.out
    assert len(done.out.splitlines()) < 40


@pytest.mark.parametrize("target", ["bf_1982_02.mod", "as_1981_01.mod"])
def test_mod_files(bilevel, target):
    assert bilevel("solve", DATA / target).code == 0


def test_convert(bilevel, tmp_path):
    done = bilevel("convert", DATA / "bf_1982_02.mod", tmp_path / "out.mps")
    assert (done.code, done.err) == (0, "")
    assert str(tmp_path / "out.aux.txt") in done.out
    assert "leader             2 variables" in done.out
    assert bl.solve(bl.read(tmp_path / "out.mps")).leader_value == pytest.approx(-3.25)
    again = ("convert", tmp_path / "out.mps", tmp_path / "b.mps.gz", "--output-aux")
    assert bilevel(*again, tmp_path / "b.txt").code == 0
    assert bl.solve(bl.read(tmp_path / "b.mps.gz")).leader_value == pytest.approx(-3.25)
    assert bilevel("convert", "T14", tmp_path / "t.mps").code == 0


def test_integer_followers_are_described_converted_and_refused(bilevel, write, tmp_path):
    target = write("pack.mps", PACK)
    write("pack.aux.txt", FORBID)
    done = bilevel("convert", target, tmp_path / "full.mps")
    assert done.code == 0
    assert "follower follower  3 variables (3 integer), 4 constraint rows" in done.out
    assert "A follower has integer or boolean variables." in done.out
    described = bilevel("methods", tmp_path / "full.mps")
    assert described.code == 0
    assert "auto chooses       nothing: Follower 'follower' decides the integer" in described.out
    for command in (("solve",), ("verify", "--at", "x[i]=1", "--at", "x[j]=0", "--at", "x[k]=0")):
        refused = bilevel(command[0], target, *command[1:])
        assert (refused.code, refused.out) == (2, "")
        assert refused.err.startswith("Error: Follower 'follower' decides the integer variable i.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["solve", "none.mps"], "There is no file 'none.mps'"),
        (["solve", "T1", "--aux", "division"], "--aux belongs to an MPS file"),
        (["solve", "small.mps"], "give its companion as aux="),
        (["solve", "broken.mps", "--aux", "division"], "broken.mps, line 22: "),
        (["convert", "T1", "out.mps"], "MPS and AUX files cannot hold this problem"),
        (["convert", "T14", "out.lp"], "name.mps"),
        (["convert", "T14", "nowhere/out.mps"], "cannot be written"),
        (["verify", "small.mps", "--aux", "division", "--at", "a=1"], "lacks 'b'"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(bilevel, small, write, monkeypatch, arguments, said):
    monkeypatch.chdir(small.parent)
    write("broken.mps", MPS.replace("ENDATA\n", ""))
    done = bilevel(*arguments)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.strip().splitlines()) == 1
    assert said in done.err.replace("line 21", "line 22")


def test_json_of_a_file(bilevel, small):
    done = bilevel("solve", small, "--aux", small.parent / "division", "--json")
    assert json.loads(done.out)["status"] == "OPTIMAL"
