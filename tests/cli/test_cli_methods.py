"""`bilevel methods`: the one table of methods, and the verdict of each on a problem."""

import pytest

import bilevel as bl
from bilevel import backends
from bilevel.backends import registry
from bilevel.cli.methods import METHODS, Method, parse


def verdicts(text):
    """Return each method's verdict."""
    lines = [line.split() for line in text.splitlines()]
    return {words[0]: words[1] for words in lines if words[1:2] in (["accepts"], ["refuses"])}


def test_the_table_lists_every_method_and_backend(bilevel):
    done = bilevel("methods")
    assert done.code == 0
    for method in METHODS:
        assert f"\n{method.name} " in done.out
    for name in backends.names():
        assert f"backend {name}" in done.out


def test_every_name_in_the_table_can_be_written():
    assert len({repr(parse(method.name)) for method in METHODS}) == len(METHODS)
    assert parse("auto") == bl.Auto()
    assert parse("worst-case") == bl.WorstCase()
    assert parse("kkt-sos1") == bl.SingleLevel(bl.KKT(bl.SOS1()))
    assert parse("strong-duality") == bl.SingleLevel(bl.StrongDuality(bl.SOS1()))
    assert parse("kkt-product:eps=1e-6") == bl.SingleLevel(bl.KKT(bl.Product(1e-6)))
    assert parse("kkt-bigm: multiplier=2 , slack = 3", "highs") == bl.SingleLevel(
        bl.KKT(bl.BigM(2.0, 3.0)), "highs"
    )


def test_a_row_that_says_no_solver_is_not_read_as_auto():
    with pytest.raises(TypeError, match="'new' has neither reformulation= nor build="):
        Method("new", "one column", "nothing", "FEASIBLE").solver()


@pytest.mark.parametrize(
    ("name", "stance"), [("T2", "optimistic"), ("T14", "optimistic"), ("T4", "pessimistic")]
)
def test_verdicts_agree_with_solving(bilevel, name, stance):
    done = bilevel("methods", name, "--stance", stance)
    assert done.code == 0
    said = verdicts(done.out)
    for method in METHODS:
        solved = bilevel("solve", name, "--method", method.name, "--stance", stance)
        assert said[method.name] == ("refuses" if solved.code == 2 else "accepts")


def test_the_choice_of_auto_and_its_reason(bilevel):
    out = bilevel("methods", "T14").out
    choice = bl.Auto().choose(bl.instances.get("T14").problem)
    assert f"auto chooses       {choice.solver}" in out
    assert f"why                {choice.reason}" in out


def test_a_problem_that_nothing_accepts(bilevel):
    done = bilevel("methods", "T8", "--stance", "pessimistic")
    assert done.code == 0
    assert "auto chooses       nothing" in done.out
    assert "accepts" not in verdicts(done.out).values()


def test_a_missing_backend_has_its_install_line(bilevel, monkeypatch):
    installed = registry._installed
    monkeypatch.setattr(
        registry, "_installed", lambda package: package != "pyscipopt" and installed(package)
    )
    done = bilevel("methods", "T14")
    assert done.code == 0
    assert "pip install pyscipopt" in done.out
    assert verdicts(done.out)["kkt-sos1"] == "refuses"


def test_json_holds_the_table(bilevel):
    content = bilevel("methods", "--json").json
    assert [row["name"] for row in content["methods"]] == [method.name for method in METHODS]
    (bigm,) = (row for row in content["methods"] if row["name"] == "kkt-bigm")
    assert bigm["settings"] == ["multiplier", "slack"]
    assert [row["name"] for row in content["backends"]] == list(backends.names())


def test_json_holds_verdicts_and_choice(bilevel):
    content = bilevel("methods", "T14", "--json").json
    said = verdicts(bilevel("methods", "T14").out)
    assert {row["name"]: row["accepts"] for row in content["methods"]} == {
        name: verdict == "accepts" for name, verdict in said.items()
    }
    assert all(bool(row["why"]) != row["accepts"] for row in content["methods"])
    choice = bl.Auto().choose(bl.instances.get("T14").problem)
    assert content["auto"] == {"solver": str(choice.solver), "why": choice.reason}
    assert content["structure"]


def test_json_of_a_problem_that_nothing_accepts(bilevel):
    done = bilevel("methods", "T8", "--stance", "pessimistic", "--json")
    assert done.json["auto"]["solver"] is None
    assert done.json["auto"]["why"]


@pytest.mark.parametrize(
    "option", [["--set", "a=1"], ["--stance", "optimistic"], ["--aux", "a.aux"]]
)
def test_what_belongs_to_a_problem_needs_one(bilevel, option):
    done = bilevel("methods", *option)
    assert (done.code, done.out) == (2, "")
    assert option[0] in done.err
