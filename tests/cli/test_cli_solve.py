"""`bilevel solve`: text, JSON, exit codes, methods, limits."""

import math

import numpy as np
import pytest

import bilevel as bl
from bilevel import backends
from bilevel.backends import registry
from bilevel.cli import report
from bilevel.cli.methods import METHODS

SOLUTION = {
    "status",
    "meaning",
    "leader_value",
    "bound",
    "gap",
    "follower_values",
    "values",
    "stats",
    "certificate",
}
UNSUPPORTED = {i.name for i in bl.instances.all_instances() if not i.solvable}


def test_prints_summary_and_values(bilevel, model):
    done = bilevel("solve", f"{model}:problem")
    assert (done.code, done.err) == (0, "")
    assert "status             OPTIMAL" in done.out
    assert "certificate        accepted" in done.out
    lines = [line.split() for line in done.out.splitlines()]
    assert ["x", "0", "(leader)"] in lines
    assert ["y", "8", "(carrier)"] in lines


@pytest.mark.parametrize("name", bl.instances.names())
def test_every_instance_gives_json_and_its_exit_code(bilevel, name):
    done = bilevel("solve", name, "--json")
    if name in UNSUPPORTED:
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("Error: ")
        return
    known = bl.instances.get(name).optimistic
    content = done.json
    assert set(content) == SOLUTION
    assert content["status"] == known.status.name
    assert done.code == (0 if known.status.has_point else 1)
    assert done.err == ""
    if known.value is not None:
        assert content["leader_value"] == pytest.approx(known.value, abs=1e-5)
        assert content["certificate"]["accepted"] is True


@pytest.mark.parametrize("method", [m.name for m in METHODS])
@pytest.mark.parametrize("name", ["T4", "T14"])
def test_every_method_finds_the_answer_or_says_why_not(bilevel, name, method):
    stance = "pessimistic" if method == "worst-case" else "optimistic"
    done = bilevel("solve", name, "--json", "--method", method, "--stance", stance)
    if done.code == 2:
        assert len(done.err.strip().splitlines()) == 1
        return
    value, content = bl.instances.get(name).answer(stance).value, done.json
    assert done.code == 0
    assert content["status"] in ("OPTIMAL", "NOT_ATTAINED", "FEASIBLE", "STATIONARY")
    if content["status"] in ("FEASIBLE", "STATIONARY"):
        # T4 is decided where the consumer is indifferent: a backend's tolerance proves nothing.
        assert content["leader_value"] == pytest.approx(value, abs=1e-5)
        assert content["bound"] in (None, pytest.approx(value, rel=1e-6))
        return
    assert content["bound"] == pytest.approx(value, rel=1e-6)
    if content["status"] == "OPTIMAL":
        assert content["leader_value"] == pytest.approx(value, rel=1e-6)


def test_bounds_from_the_user_are_no_proof(bilevel):
    done = bilevel("solve", "T6b", "--json", "--method", "kkt-bigm:multiplier=1,slack=10")
    content = done.json
    assert (done.code, content["status"], content["bound"]) == (0, "FEASIBLE", None)


def test_a_stance_replaces_that_of_the_problem(bilevel):
    done = bilevel("solve", "T14", "--stance", "pessimistic", "--json")
    assert done.json["leader_value"] == pytest.approx(9.0)


def test_the_same_seed_gives_the_same_answer(bilevel):
    first, second = (bilevel("solve", "T3", "--seed", "7", "--json").json for _ in range(2))
    assert first["values"] == second["values"]


def test_a_status_without_point_is_printed_with_exit_code_1(bilevel):
    done = bilevel("solve", "T8b")
    assert done.code == 1
    assert done.out.startswith("status             UNBOUNDED")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "simplex"], "kkt-sos1"),
        (["--method", "kkt-bigm:m=3"], "multiplier=NUMBER, slack=NUMBER"),
        (["--method", "kkt-sos1:eps=1"], "takes no setting"),
        (["--method", "kkt-bigm:multiplier=large"], "must be a number"),
        (["--method", "kkt-bigm:multiplier=-1"], "positive"),
        (["--method", "kkt-bigm:"], "takes multiplier"),
        (["--method", "worst-case"], "pessimistic"),
        (["--backend", "highs"], "--method kkt-bigm --backend highs"),
        (["--method", "kkt-sos1", "--backend", "cplex"], "no backend 'cplex'"),
        (["--method", "kkt-sos1", "--backend", "highs"], "SOS1 sets"),
        (["--rtol", "-1"], "rtol"),
        (["--time-limit", "0"], "time_limit"),
        (["--seed", "-3"], "--seed"),
        (["--stance", "hopeful"], "pessimistic"),
        (["--figure", "gap.xlsx"], "png"),
        (["--figure", "no/such/folder/gap.png"], "no folder"),
    ],
)
def test_wrong_arguments_are_named_with_exit_code_2(bilevel, arguments, said):
    done = bilevel("solve", "T2", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_a_missing_backend_is_named_with_its_install_line(bilevel, monkeypatch):
    monkeypatch.setattr(registry, "_installed", lambda package: package != "pyscipopt")
    done = bilevel("solve", "T2", "--method", "kkt-sos1")
    assert (done.code, done.out) == (3, "")
    assert "pip install pyscipopt" in done.err


def test_a_backend_that_fails_has_exit_code_3(bilevel, monkeypatch):
    def fail(*_):
        raise bl.BackendError("SCIP failed: out of memory")

    monkeypatch.setattr(type(backends.get("scip")), "solve", fail)
    done = bilevel("solve", "T2", "--method", "kkt-sos1")
    assert (done.code, done.err) == (3, "Error: SCIP failed: out of memory\n")


def test_an_unexpected_exception_is_a_message_and_a_hint(bilevel, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("boom")

    monkeypatch.setattr(bl, "solve", fail)
    done = bilevel("solve", "T2")
    assert done.code == 3
    assert "RuntimeError: boom" in done.err
    assert "--debug" in done.err
    assert "Traceback" in bilevel("solve", "T2", "--debug").err


def test_a_time_limit_keeps_the_best_point(bilevel, hard):
    done = bilevel(
        "solve", f"{hard}:problem", "--json", "--time-limit", "1.5", "--method", "kkt-sos1"
    )
    content = done.json
    assert (done.code, content["status"]) == (0, "FEASIBLE")
    assert content["certificate"]["accepted"] is True
    assert content["bound"] >= content["leader_value"]


def test_a_time_limit_without_a_point_has_exit_code_1(bilevel, hard):
    done = bilevel("solve", f"{hard}:without_point", "--json", "--time-limit", "1.5")
    assert (done.code, done.json["status"]) == (1, "NOT_FOUND")


def test_long_vectors_are_shortened(bilevel, hard):
    done = bilevel("solve", f"{hard}:problem", "--time-limit", "1", "--method", "kkt-sos1")
    (line,) = (line for line in done.out.splitlines() if line.startswith("x "))
    assert "30 entries" in line
    assert len(line) < 120


def test_what_is_not_finite_becomes_null(capsys):
    report.say_json({"a": math.nan, "b": [math.inf, -0.0], "c": np.array([1.0, np.nan])})
    out = capsys.readouterr().out
    assert "".join(out.split()) == '{"a":null,"b":[null,0.0],"c":[1.0,null]}'
