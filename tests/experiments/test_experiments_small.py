"""Experiments at their small size, and the harness that runs them."""

import pytest
from benchmarks.environment import ROOT
from benchmarks.strains import known
from experiments.__main__ import app
from experiments.case import SIZES, Case, Expected, Run, cases, expected, papers
from experiments.report import comparisons, page, write
from experiments.run import Job, journal, plan, run
from typer.testing import CliRunner

ALL = [(paper, name) for paper in papers() for name in cases(paper)]


def toy(measured):
    def measure():
        measured.append(1)
        if len(measured) == 1:
            raise ArithmeticError("no luck")
        return {"value": 6.9682, "coupling": "weak"}

    runs = [Run("weak K=1", measure), Run("weak K=2", lambda: {"value": 1.0})]
    return Case("succinate", "Toy", "It runs.", lambda size: runs, ("value",))


@pytest.mark.parametrize(("paper", "name"), ALL)
def test_cases_are_well_formed(paper, name):
    case = cases(paper)[name]
    for size in SIZES:
        runs = [one.name for one in case.runs(size)]
        assert 0 < len(runs) == len(set(runs))
    printed = expected(paper, name)
    assert set(printed.runs) <= {one.name for one in case.runs("paper")}
    assert (ROOT / "experiments" / paper / "README.md").is_file()


def test_a_failed_run_is_recorded_and_tried_again(tmp_path):
    measured = []
    jobs = plan("strain_design", [toy(measured)], "small")
    assert run(jobs, journal(tmp_path, "small")) == 1
    assert [r.get("error") for r in journal(tmp_path, "small").records] == [
        "ArithmeticError: no luck",
        None,
    ]
    assert run(jobs, journal(tmp_path, "small")) == 0
    assert run(jobs, journal(tmp_path, "small")) == 0
    assert len(measured) == 2


def test_the_report_compares_with_printed_numbers(tmp_path):
    case = toy([1])
    records = journal(tmp_path, "small")
    run(plan("strain_design", [case], "small"), records)
    text = write("strain_design", {"succinate": case}, "small", records.records, tmp_path)
    assert page(tmp_path, "small").read_text() == text
    assert "**1 of 3 printed numbers reproduced**" in text
    assert "| weak K=2 | 1 | 9.102 |  | **no** |" in text


def test_a_printed_number_is_reproduced_to_its_digits():
    printed = Expected(atol=5e-4, runs={"weak K=1": {"value": 6.968}})
    for found, agrees in ((6.96815, True), (6.969, False), (None, False)):
        record = {"run": "weak K=1", "found": {"value": found}}
        assert comparisons(printed, record) == {"value": (6.968, found, agrees)}


def test_every_size_has_its_own_records(tmp_path):
    assert journal(tmp_path, "small").path != journal(tmp_path, "paper").path
    assert page(tmp_path, "standard").name == "report.md"


def test_the_known_strains_cover_the_table():
    assert len(known()) == 9
    assert known()["weak K=1"] == 6.968


@pytest.mark.metabolic
@pytest.mark.parametrize("name", ["succinate", "products"])
def test_strain_design_small(name, tmp_path):
    pytest.importorskip("cobra")
    case = cases("strain_design")[name]
    records = journal(tmp_path, "small")
    assert run(plan("strain_design", [case], "small"), records) == 0
    found = {r["run"].split()[-2]: r["found"] for r in records.records}
    assert set(found) == {"weak", "pessimistic", "strong"}
    assert all(one["status"] == "OPTIMAL" and one["checked"] for one in found.values())
    assert found["weak"]["value"] >= found["pessimistic"]["value"] - 1e-6
    assert found["pessimistic"]["value"] >= found["strong"]["value"] - 1e-6
    printed = expected("strain_design", name)
    for record in records.records:
        assert all(agrees for *_, agrees in comparisons(printed, record).values())
    text = write("strain_design", {name: case}, "small", records.records, tmp_path)
    assert ("envelopes.png" in text) == (name == "succinate")
    assert all("envelopes" not in text or file.is_file() for file in [tmp_path / "envelopes.png"])


def test_the_command_line_lists_papers():
    done = CliRunner().invoke(app, ["list"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "strain_design/succinate" in done.stdout


def test_the_command_line_names_what_it_does_not_know():
    done = CliRunner().invoke(app, ["run", "nonsense"])
    assert done.exit_code == 2
    assert "strain_design" in done.stderr


def test_jobs_are_identified_by_paper_case_size_and_run():
    job = Job("p", toy([]), "small", toy([]).runs("small")[0])
    assert job.fields == {"paper": "p", "case": "succinate", "size": "small", "run": "weak K=1"}
