"""`bilevel demo`: the real design, its table and its figure."""

import os
import subprocess
import sys

import pytest
from tests.cli.shell import COMMAND, Ended, checked
from typer.testing import CliRunner

from bilevel.cli import app, demo_fit

pytestmark = pytest.mark.metabolic
cobra = pytest.importorskip("cobra", reason="needs the extra `metabolic` (cobra)")

# K, coupling: promised, worst and guaranteed production where the coupling determines it.
ASKED = {
    ("1", "weak"): (6.968, None, None),
    ("1", "pessimistic"): (None, 0.678, None),
    ("1", "strong"): (None, None, 0.188),
    ("2", "weak"): (9.102, None, None),
    ("2", "pessimistic"): (None, 9.102, None),
    ("2", "strong"): (None, None, 6.735),
}


def rows(text):
    """Return the table's rows by K and coupling: the words after the first knockout."""
    words = [line.split() for line in text.splitlines()]
    return {tuple(w[:2]): w[3:] for w in words if len(w) >= 11 and w[0].isdigit()}


@pytest.fixture(scope="module")
def second_stop():
    """Leave the demo's second stop out; return the folders it was given."""
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_fit, "run", asked.append)
        yield asked


@pytest.fixture(scope="module")
def shown(tmp_path_factory, second_stop):
    """Run the demo's first stop once."""
    folder = tmp_path_factory.mktemp("demo") / "new"
    arguments = ["demo", "--output", str(folder)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert second_stop == [folder]
    return checked(Ended(done.exit_code, done.stdout, done.stderr), arguments), folder


def test_every_design_has_its_value_and_a_certificate(shown):
    done, _ = shown
    assert done.code == 0
    found = rows(done.out)
    assert set(found) == set(ASKED)
    for key, asked in ASKED.items():
        _, *figures, verified, bound, _, _ = found[key]
        value = next(value for value in asked if value is not None)
        number = asked.index(value)
        assert float(figures[number]) == pytest.approx(value, abs=1.1e-3)
        assert float(bound) == pytest.approx(value, abs=1.1e-3)
        assert verified == "yes"


def test_it_says_what_to_see(shown):
    done, _ = shown
    line, *_ = (line for line in done.out.splitlines() if line.startswith("What to see"))
    assert "PYK promises 6.97 of succinate but guarantees only 0.00" in line
    assert "guarantees 6.74" in line


def test_the_table_fits_80_columns(shown):
    done, _ = shown
    table = [line for line in done.out.splitlines() if line[:2] in ("K ", "1 ", "2 ")]
    assert max(len(line.rstrip()) for line in table) <= 80


def test_the_figure_is_written(shown):
    path = shown[1] / "bilevel-demo.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 20_000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_both_stops_as_a_process_without_a_display(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(
        [*COMMAND, "demo", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
        env=environment,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert set(rows(done.stdout)) == set(ASKED)
    assert done.stdout.count("What to see") == 2
    assert (tmp_path / "bilevel-demo.png").exists()
    assert (tmp_path / "bilevel-demo-fit.png").exists()


def test_another_product(bilevel, tmp_path, second_stop):
    done = bilevel("demo", "--knockouts", "1", "--product", "EX_lac__D_e", "--output", tmp_path)
    assert done.code == 0
    assert "d-lactate" in done.out
    assert (tmp_path / "bilevel-demo.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--product", "gold"], "gold"),
        (["--knockouts", "0"], "--knockouts"),
        (["--time-limit", "-1"], "time_limit"),
    ],
)
def test_wrong_arguments_have_exit_code_2(bilevel, tmp_path, arguments, said):
    done = bilevel("demo", "--output", tmp_path, *arguments)
    assert done.code == 2
    assert said in done.err


def test_a_folder_that_cannot_be_made(bilevel, write):
    done = bilevel("demo", "--output", write("file", "") / "folder")
    assert done.code == 2
    assert "cannot be made" in done.err


def test_cobra_is_missing(bilevel, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cobra", None)
    done = bilevel("demo", "--output", tmp_path)
    assert done.code == 3
    assert 'pip install "bilevel[metabolic]"' in done.err
