"""The harness: nothing is lost, nothing is measured twice, failures count."""

import json
import subprocess
import sys
from types import SimpleNamespace

import benchmarks.run as harness
import numpy as np
import pytest
from benchmarks.__main__ import app
from benchmarks.case import Case, Instance, Measurement, Method, Target, all_cases
from benchmarks.environment import ROOT, describe
from benchmarks.journal import Journal, finite, read
from benchmarks.measure import stop_if_interrupted
from benchmarks.report import write
from benchmarks.run import KEY, bury, plan, run, select, supervise
from benchmarks.statistics import latest, profile, rows
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch):
    """Toys need no collection of garbage before each measurement; it takes a quarter second."""
    monkeypatch.setattr(harness.gc, "collect", lambda: None)


def quick(subject, limit):
    return Measurement("solved", "OPTIMAL", value=1.0, seconds=0.5 * subject)


def broken(subject, limit):
    raise ArithmeticError("no luck")


def spoilt():
    raise OSError("no data")


def toy(**changes):
    fields = {
        "name": "toy",
        "title": "Toy",
        "claim": "It runs.",
        "instances": lambda size: [
            Instance("one", lambda: 1.0, "a"),
            Instance("spoilt", spoilt, "a"),
            Instance("two", lambda: 2.0, "b"),
        ],
        "methods": (
            Method("quick", quick),
            Method("broken", broken),
            Method("peer", quick, peer=True, groups=frozenset({"a"})),
        ),
        "baseline": "quick",
        "time_limit": 1.0,
        "repeats": 2,
        "judge": lambda records: [Target("all", str(len(records)), False)],
    }
    return Case(**fields | changes)


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "results.jsonl", KEY)


@pytest.mark.parametrize("name", sorted(all_cases()))
def test_cases_are_well_formed(name):
    case = all_cases()[name]
    if why := case.missing():
        pytest.skip(why)
    assert case.name == name
    assert case.claim
    assert case.baseline in {method.name for method in case.methods}
    for size in ("small", "full"):
        jobs = list(plan([case], size, 1))
        keys = {tuple(job.fields[part] for part in KEY) for job in jobs}
        assert 0 < len(jobs) == len(keys)


def test_rounds_are_outermost_and_begin_with_another_method():
    jobs = list(plan([toy()], "small"))
    assert [job.round for job in jobs] == [0] * 8 + [1] * 8
    assert [job.method.name for job in jobs[:3]] == ["quick", "broken", "peer"]
    assert [job.method.name for job in jobs[8:11]] == ["broken", "peer", "quick"]
    assert {job.instance.group for job in jobs if job.method.name == "peer"} == {"a"}


def test_parts_share_the_instances():
    jobs = [[j.instance.name for j in plan([toy()], "small", 1, (i, 2))] for i in (1, 2)]
    assert jobs == [["one", "one", "one", "two", "two"], ["spoilt"] * 3]


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        (["ours"], ["quick", "broken"]),
        (["peers"], ["peer"]),
        (["peer", "quick"], ["quick", "peer"]),
        (["ours", "peers"], ["quick", "broken", "peer"]),
    ],
)
def test_methods_can_be_chosen(asked, kept):
    (case,) = select([toy()], asked)
    assert [method.name for method in case.methods] == kept
    assert {job.method.name for job in plan([case], "small", 1)} == set(kept)


def test_a_case_without_the_chosen_methods_is_left_out():
    other = toy(name="other", methods=(Method("slow", quick),))
    assert [case.name for case in select([toy(), other], ["slow"])] == ["other"]
    assert not select([other], ["peers"])


def test_an_unknown_method_is_named_with_those_there_are():
    with pytest.raises(
        ValueError, match=r"no method fast; known: ours, peers, broken, peer, quick"
    ):
        select([toy()], ["fast"])


def test_a_case_that_cannot_run_here_is_left_out():
    assert not list(plan([toy(missing=lambda: "no data")], "small"))


def test_a_bad_instance_does_not_cost_the_run(journal):
    assert run(list(plan([toy()], "small", 1)), journal) == 8
    outcomes = {(r["instance"], r["method"]): r["outcome"] for r in journal.records}
    assert outcomes["one", "quick"] == outcomes["two", "quick"] == "solved"
    assert outcomes["spoilt", "quick"] == outcomes["one", "broken"] == "failed"
    notes = {r["note"] for r in journal.records if r["outcome"] == "failed"}
    assert notes == {"OSError: no data", "ArithmeticError: no luck"}


def test_a_run_goes_on_where_it_stopped(journal):
    jobs = list(plan([toy()], "small", 1))
    assert run(jobs[:5], journal) == 5
    again = Journal(journal.path, KEY)
    assert run(jobs, again) == 3
    assert run(jobs, Journal(journal.path, KEY)) == 0
    assert len(read(journal.path)) == 8


def test_a_line_that_was_cut_off_is_measured_again(journal):
    jobs = list(plan([toy()], "small", 1))
    run(jobs[:2], journal)
    content = journal.path.read_text()
    journal.path.write_text(content[:-20])
    assert run(jobs[:2], Journal(journal.path, KEY)) == 1
    assert [r["method"] for r in read(journal.path)] == ["quick", "broken"]


def test_a_damaged_line_is_an_error(journal):
    journal.path.write_text("{}\nnonsense\n{}\n")
    with pytest.raises(ValueError, match="line 2"):
        read(journal.path)


def test_what_ended_a_process_is_recorded_and_not_tried_again(journal):
    jobs = list(plan([toy()], "small", 1))
    journal.begin(jobs[0].fields)
    again = Journal(journal.path, KEY)
    bury(again, 1)
    assert [(r["method"], r["status"]) for r in again.records] == [("quick", "CRASHED")]
    assert again.died() is None
    assert run(jobs[:1], again) == 0


def test_a_crash_does_not_cost_the_run(monkeypatch, journal):
    jobs = list(plan([toy()], "small", 1))
    calls = []

    def process(command, env, check):
        calls.append(command)
        mine = Journal(journal.path, KEY)
        if len(calls) == 1:
            run(jobs[:3], mine)
            mine.begin(jobs[3].fields)
            return SimpleNamespace(returncode=-11)
        run(jobs, mine)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(harness.subprocess, "run", process)
    assert supervise(["toy"], journal.path, 1) == 0
    assert len(calls) == 2
    found = read(journal.path)
    assert len(found) == 8
    assert [r["status"] for r in found].count("CRASHED") == 1


def test_an_interrupted_measurement_leaves_no_trace(journal):
    def interrupted(subject, limit):
        raise KeyboardInterrupt

    jobs = list(plan([toy(methods=(Method("stop", interrupted),))], "small", 1))
    with pytest.raises(KeyboardInterrupt):
        run(jobs, journal)
    assert journal.died() is None
    assert not journal.records


def test_a_solve_that_was_interrupted_is_no_result():
    caught = SimpleNamespace(stats=SimpleNamespace(backend_status="userinterrupt"))
    with pytest.raises(KeyboardInterrupt):
        stop_if_interrupted(caught)
    stop_if_interrupted(SimpleNamespace(stats=SimpleNamespace(backend_status="timelimit")))


def test_records_say_what_they_were_made_with(journal):
    run(list(plan([toy()], "small", 1))[:1], journal)
    (record,) = read(journal.path)
    assert {"bilevel", "cvxpy", "highspy", "scip", "python"} <= set(record["versions"])
    assert record["commit"]
    assert record["threads"] == 1
    assert record["time_limit"] == 1.0


def test_no_host_is_named():
    import platform

    assert platform.node() not in json.dumps(describe()) or not platform.node()


def test_json_has_no_infinity():
    value = {"a": [np.inf, np.float64(1.5)], "b": float("nan"), "c": np.array([1, 2])}
    assert finite(value) == {"a": [None, 1.5], "b": None, "c": [1, 2]}


def records(*entries):
    fields = ("instance", "method", "round", "outcome", "seconds")
    common = {"case": "toy", "size": "full", "group": "", "peer": False, "when": ""}
    return [common | dict(zip(fields, entry, strict=True)) for entry in entries]


def test_the_worst_round_counts_and_times_are_medians():
    found = records(
        ("one", "quick", 0, "solved", 1.0),
        ("one", "quick", 1, "solved", 3.0),
        ("one", "quick", 2, "solved", 2.0),
        ("two", "quick", 0, "solved", 1.0),
        ("two", "quick", 1, "wrong", 1.0),
    )
    (row,) = rows(found)
    assert row.seconds == {"one": 2.0}
    assert (row.count("solved"), row.count("wrong")) == (1, 1)


def test_profiles_count_failures():
    found = records(
        ("one", "quick", 0, "solved", 1.0),
        ("two", "quick", 0, "failed", 1.0),
        ("one", "slow", 0, "solved", 4.0),
        ("two", "slow", 0, "solved", 8.0),
    )
    table = rows(found)
    curves = profile(table)
    assert curves["quick"][0].tolist() == [1.0]
    assert curves["slow"][0].tolist() == [1.0, 4.0]
    assert {count for _, count in curves.values()} == {2}
    assert table[1].ratio(table[0]) == pytest.approx(4.0)


def test_the_last_of_equal_records_counts():
    first, second = records(("one", "quick", 0, "failed", 1.0), ("one", "quick", 0, "solved", 1.0))
    found = latest([second | {"when": "2"}, first | {"when": "1"}], KEY)
    assert [r["outcome"] for r in found] == ["solved"]


def test_the_report_shows_targets_tables_and_failures(journal, tmp_path):
    case = toy()
    jobs = [job for size in ("small", "full") for job in plan([case], size, 1)]
    run(jobs, journal)
    text = write([journal.path], {"toy": case}, tmp_path / "report" / "report.md")
    assert "| all | 8 | **no** |" in text
    assert "ArithmeticError: no luck" in text
    assert "peer (peer)" in text
    assert (tmp_path / "report" / "profile-toy-full.png").is_file()


def test_the_command_line_runs_a_case(tmp_path):
    output = tmp_path / "compile.jsonl"
    command = [sys.executable, "-m", "benchmarks", "run", "compile", "--size", "small"]
    command += ["--rounds", "1", "--methods", "ours", "--output", str(output)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    found = read(output)
    assert len(found) == 3
    assert {r["outcome"] for r in found} == {"solved"}
    assert not any(r["peer"] for r in found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compile", "--part", "3/2"], "i/n"),
        (["compile", "--part", "half"], "i/n"),
        (["compile", "--methods", "nonsense"], "ours, peers"),
        (["compile", "--size", "huge"], "small or full"),
        (["nonsense"], "claims"),
    ],
)
def test_the_command_line_names_what_it_does_not_know(arguments, said):
    done = CliRunner().invoke(app, ["run", *arguments])
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
