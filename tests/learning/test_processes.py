"""Two processes under torchrun do what one does with twice the batch."""

import ast
import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.learning import tasks

from bilevel.learning import fit

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not torch.distributed.is_available() or sys.platform == "win32",
        reason="needs torch.distributed",
    ),
]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    environment = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(ROOT / "tests/learning/together.py"), str(folder)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return folder


def test_both_processes_came_to_the_end(together):
    assert (together / "done0").exists()
    assert (together / "done1").exists()


def test_two_processes_are_one_with_twice_the_batch(together):
    weights = [(together / f"weights{rank}").read_bytes() for rank in (0, 1)]
    assert weights[0] == weights[1]
    model = tasks.plain()
    options = {"validation": (tasks.X[:7], tasks.Y[:7]), "patience": 3, "epochs": 3}
    history = fit(
        model,
        tasks.squares,
        (tasks.X, tasks.Y),
        optimizer=tasks.adam,
        metrics={"error": tasks.squares},
        batch_size=10,
        **options,
    )
    mine = np.frombuffer(tasks.numbers(model))
    np.testing.assert_allclose(np.frombuffer(weights[0]), mine, rtol=0, atol=1e-12)
    for rank in (0, 1):
        curves = ast.literal_eval((together / f"history{rank}").read_text())
        for name, curve in zip(("loss", "validation", "error"), curves, strict=True):
            np.testing.assert_allclose(curve, history.curve(name), rtol=1e-10)


def test_the_first_process_writes_alone(together):
    with (together / "curves.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]
