"""Two runs side by side: planted differences are found, chance and the clock make none."""

import json

import pytest
from benchmarks.__main__ import app
from benchmarks.compare import compare, text
from typer.testing import CliRunner

ACCEPTED, REJECTED = {"accepted": True}, {"accepted": False}


def row(instance="one", method="ours", **changes):
    """Return a record as a run writes it."""
    common = {
        "case": "toy",
        "size": "full",
        "group": "a",
        "instance": instance,
        "method": method,
        "peer": method == "peer",
        "round": 0,
        "time_limit": 10.0,
        "threads": 1,
        "outcome": "solved",
        "status": "OPTIMAL",
        "value": 2.0,
        "seconds": 1.0,
        "certificate": ACCEPTED,
        "when": "",
    }
    return common | changes


def test_equal_runs_have_no_differences():
    old = [row(), row("two", value=None, certificate=None), row(method="peer")]
    found = compare(old, old)
    assert (found.compared, found.differences, found.missing, found.added) == (3, (), (), ())
    assert found.conditions == 0


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"outcome": "failed"}, ("outcome",)),
        ({"status": "FEASIBLE"}, ("status",)),
        ({"value": 2.0001}, ("value",)),
        ({"value": None}, ("value",)),
        ({"certificate": REJECTED}, ("certificate",)),
        ({"certificate": None}, ("certificate",)),
        (
            {"outcome": "unproved", "status": "NOT_FOUND", "value": None, "certificate": None},
            ("outcome", "status", "value", "certificate"),
        ),
    ],
)
def test_a_planted_difference_is_found(changes, parts):
    found = compare([row(**changes), row("two")], [row(), row("two")])
    (difference,) = found.differences
    assert difference.key == ("toy", "full", "a", "one", "ours")
    assert difference.parts == parts
    assert found.unexplained == 1
    assert ", ".join(parts) in text(found)


def test_values_agree_within_the_tolerance():
    old, new = [row(value=1e3)], [row(value=1e3 + 5e-3)]
    assert not compare(new, old).differences
    assert len(compare(new, old, tolerance=1e-6).differences) == 1


def test_a_difference_at_the_time_limit_is_listed_and_not_counted():
    late = row(outcome="unproved", status="FEASIBLE", seconds=9.9)
    found = compare([late], [row()])
    assert [one.clock for one in found.differences] == [True]
    assert found.unexplained == 0
    assert "1 more where a run met its time limit" in text(found)
    # A run that stopped early has no such excuse.
    assert compare([late | {"seconds": 3.0}], [row()]).unexplained == 1


def test_rounds_are_not_told_apart():
    old = [row(round=0), row(round=1, status="FEASIBLE", outcome="unproved"), row(round=2)]
    assert not compare([row(round=7)], old).differences
    assert not compare([row(status="FEASIBLE", outcome="unproved")], old).differences
    # What no old round said is a difference, also if another round agrees.
    (one,) = compare([row(round=0), row(round=1, outcome="wrong")], old).differences
    assert one.parts == ("outcome",)


def test_a_mixture_of_two_old_rounds_is_a_difference():
    old = [row(round=0, value=1.0), row(round=1, status="FEASIBLE", value=3.0)]
    (one,) = compare([row(value=3.0)], old).differences
    assert one.parts in (("status",), ("value",))


def test_what_only_one_run_has_is_counted_and_no_difference():
    found = compare([row(), row("new")], [row(), row("old"), row(method="peer")])
    assert found.compared == 1
    assert [key[3:] for key in found.missing] == [("old", "ours"), ("one", "peer")]
    assert [key[3:] for key in found.added] == [("new", "ours")]
    assert "1 of toy, full, peer" in text(found)


def test_an_instance_of_another_group_is_another_one():
    found = compare([row(group="b", value=5.0)], [row(group="a")])
    assert (found.compared, len(found.missing), len(found.added)) == (0, 1, 1)


def test_the_last_of_equal_records_counts():
    old = [row(value=5.0, when="1"), row(value=2.0, when="2")]
    assert not compare([row()], old).differences
    assert compare([row(value=5.0)], old).unexplained == 1


def test_other_limits_and_threads_are_counted():
    assert compare([row(time_limit=5.0), row("two")], [row(), row("two")]).conditions == 1
    found = compare([row(threads=2)], [row()])
    assert "say nothing about the code" in text(found)


def test_times_are_medians_over_rounds_and_instances():
    old = [row("one"), row("two"), row("three")]
    new = [
        *(row("one", round=i, seconds=s) for i, s in enumerate((3.0, 1.5, 1.0))),
        row("two", seconds=2.0),
        row("three", seconds=4.0),
    ]
    (speed,) = compare(new, old).speeds
    assert (speed.method, speed.instances, speed.ratio) == ("ours", 3, pytest.approx(2.0))
    assert speed.to_peers is None


def test_a_slower_machine_is_taken_out_by_the_peers():
    # The machine is three times slower on one instance and twice on the other; ours gained 10 %.
    factor = {"one": 3.0, "two": 2.0}
    old = [row(name, method) for name in factor for method in ("ours", "peer")]
    new = [
        row(name, method, seconds=factor[name] * (0.9 if method == "ours" else 1.0))
        for name in factor
        for method in ("ours", "peer")
    ]
    ours, peer = compare(new, old).speeds
    assert ours.ratio == pytest.approx(0.9 * 2.5)
    assert ours.to_peers == pytest.approx(0.9)
    assert (peer.ratio, peer.to_peers) == (pytest.approx(2.5), None)


def test_times_count_only_where_both_runs_solved():
    old = [row("one"), row("two", outcome="failed"), row("three", seconds=None)]
    new = [row("one", seconds=2.0), row("two"), row("three")]
    (speed,) = compare(new, old).speeds
    assert (speed.instances, speed.ratio) == (1, 2.0)


def written(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def command(*arguments):
    return CliRunner().invoke(app, [*arguments], catch_exceptions=False)


def test_the_command_line_ends_with_1_where_a_claim_changed(tmp_path):
    new = written(tmp_path / "new.jsonl", row(), row("two", value=3.0), row("three"))
    old = [
        written(tmp_path / "a.jsonl", row(), row("two")),
        written(tmp_path / "b.jsonl", row("three")),
    ]
    done = command("compare", new, *old)
    assert done.exit_code == 1
    assert "3 measurements compared: 1 differences" in " ".join(done.stdout.split())
    assert command("compare", new, new).exit_code == 0
    assert command("compare", new, *old, "--tolerance", "1").exit_code == 0


def test_the_command_line_refuses_what_cannot_be_compared(tmp_path):
    new = written(tmp_path / "new.jsonl", row())
    done = command("compare", new, str(tmp_path / "nowhere.jsonl"))
    assert done.exit_code == 2
    assert "there is no file" in done.stderr
    done = command("compare", new, written(tmp_path / "old.jsonl", row("other")))
    assert done.exit_code == 2
    assert "no measurement in common" in " ".join(done.stderr.split())
