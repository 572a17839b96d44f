"""A run that was killed or interrupted goes on to the same weights, to the last bit."""

import csv
import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.learning import tasks

from bilevel.learning import Checkpoint, FitStatus, fit
from bilevel.learning.checkpoint import Store

ROOT = Path(__file__).parents[2]


def killed(tmp_path, kind, *seeds):
    """Run the script; return how often each run was killed."""
    environment = dict(os.environ, TRAINING_FOLDER=str(tmp_path), OMP_NUM_THREADS="1")
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, str(ROOT / "tests/learning/killed.py"), kind, *map(str, seeds)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return [int(line.split()[2]) for line in run.stdout.splitlines()]


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, to kill cheaply")


@forks
@pytest.mark.parametrize(
    "seeds", [(1,), pytest.param((2, 3, 4, 5), marks=pytest.mark.slow)], ids=["one", "many"]
)
def test_killed_at_random_moments(tmp_path, seeds):
    kills = killed(tmp_path, "random", *seeds)
    assert len(kills) == len(seeds)
    assert sum(kills) > 0


@forks
@pytest.mark.parametrize("kind", ["some", pytest.param("every", marks=pytest.mark.slow)])
def test_killed_at_touches_of_the_disk(tmp_path, kind):
    (touches,) = killed(tmp_path, kind, 0)
    assert touches > 20


def test_a_checkpoint_changes_nothing(tmp_path):
    alone, _ = tasks.train(None)
    saved, _ = tasks.train(tmp_path)
    assert tasks.numbers(alone) == tasks.numbers(saved)


def test_another_seed_gives_other_weights():
    assert tasks.numbers(tasks.train(None)[0]) != tasks.numbers(tasks.train(None, seed=1)[0])


def test_weights_and_history_come_from_the_checkpoint_not_from_the_model(tmp_path):
    model, history = tasks.train(tmp_path)
    again, repeated = tasks.train(tmp_path, model=tasks.network(seed=5))
    assert tasks.numbers(again) == tasks.numbers(model)
    assert repeated == history
    assert history.status is FitStatus.COMPLETED


def test_more_epochs_go_on_where_a_finished_run_ended(tmp_path):
    # Without patience: early stopping of the shorter run would look at fewer epochs.
    options = {"patience": None}
    tasks.train(tmp_path, epochs=2, **options)
    longer, history = tasks.train(tmp_path, **options)
    whole, _ = tasks.train(None, **options)
    assert len(history.epochs) == 6
    assert tasks.numbers(longer) == tasks.numbers(whole)


def test_resume_false_begins_anew(tmp_path):
    tasks.train(tmp_path, epochs=2)
    model, history = tasks.train(tmp_path, epochs=1, resume=False)
    assert len(history.epochs) == 1
    assert tasks.numbers(model) == tasks.numbers(tasks.train(None, epochs=1)[0])


# ------------------------------------------------------------------------------- Ctrl-C


class Once:
    """A loss that is interrupted at one of its calls."""

    def __init__(self, call, times=1):
        self.left, self.times = call, times

    def __call__(self, model, x, y):
        self.left -= 1
        if self.left == 0:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return tasks.chancy(model, x, y)


def loader(generator):
    data = torch.utils.data.TensorDataset(tasks.X, tasks.Y)
    return torch.utils.data.DataLoader(data, batch_size=7, shuffle=True, generator=generator)


OPTIMIZERS = {
    "Adam": tasks.adam,
    "SGD": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "LBFGS": partial(torch.optim.LBFGS, max_iter=3, line_search_fn="strong_wolfe"),
    "Adagrad": torch.optim.Adagrad,
}
DATA = {
    "tensors": lambda: (tasks.X, tasks.Y),
    "names": lambda: {"x": tasks.X, "y": tasks.Y},
    "loader": lambda: loader(None),
    "generator": lambda: loader(torch.Generator().manual_seed(3)),
    "dataset": lambda: torch.utils.data.Subset(
        torch.utils.data.TensorDataset(tasks.X, tasks.Y), range(30)
    ),
}


@pytest.mark.parametrize(
    ("optimizer", "data"),
    [*((name, "tensors") for name in OPTIMIZERS), *(("Adam", name) for name in DATA)],
)
@pytest.mark.parametrize("call", [1, 3, 7])
def test_interrupted_and_resumed(tmp_path, optimizer, data, call):
    def train(folder, loss):
        model = tasks.network()
        options = {"optimizer": OPTIMIZERS[optimizer], "epochs": 3, "batch_size": 7}
        step = {"scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=4, gamma=0.5)}
        history = fit(
            model,
            loss,
            DATA[data](),
            metrics={"error": tasks.squares},
            checkpoint=folder,
            scheduler_interval="step",
            **options,
            **step,
        )
        return history, tasks.numbers(model)

    _, whole = train(None, tasks.chancy)
    stopped, _ = train(tmp_path, Once(call))
    history, weights = train(tmp_path, tasks.chancy)
    assert stopped.status is FitStatus.INTERRUPTED
    assert history.status is FitStatus.COMPLETED
    assert len(history.epochs) == 3
    assert weights == whole


def test_a_second_ctrl_c_is_an_exception():
    with pytest.raises(KeyboardInterrupt):
        fit(tasks.plain(), Once(2, times=2), (tasks.X, tasks.Y))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_in_the_loss_leaves_a_checkpoint_to_go_on_from(tmp_path):
    calls = 0

    def fails(model, x, y):
        nonlocal calls
        calls += 1
        if calls == 7:
            raise ZeroDivisionError
        return tasks.chancy(model, x, y)

    def train(folder, loss):
        model = tasks.network()
        fit(model, loss, (tasks.X, tasks.Y), epochs=3, batch_size=10, checkpoint=folder)
        return tasks.numbers(model)

    where = Checkpoint(tmp_path, every_steps=1)
    with pytest.raises(ZeroDivisionError):
        train(where, fails)
    assert train(where, tasks.chancy) == train(None, tasks.chancy)


# ------------------------------------------------------------------------------- details


def test_saves_every_seconds_and_every_steps(tmp_path, monkeypatch):
    saves = []
    monkeypatch.setattr(Store, "write", lambda *arguments: saves.append(arguments[-1]["steps"]))
    fit(
        tasks.plain(),
        tasks.squares,
        (tasks.X, tasks.Y),
        epochs=1,
        batch_size=4,
        checkpoint=Checkpoint(tmp_path, every_seconds=1e-9),
    )
    assert saves == [0, *range(1, 10), 10]


def test_one_save_at_a_time(tmp_path):
    tasks.train(tmp_path)
    (save,) = tmp_path.iterdir()
    names = {file.name for file in save.iterdir()}
    assert {"model.safetensors", "state.pt", "manifest.json"} <= names


def test_the_caller_keeps_generators_modes_and_handlers():
    model = tasks.network()
    model[1].eval()
    before = [torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()]
    tasks.train(None, model=model, epochs=1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert before[2] == random.getstate()
    assert [module.training for module in model] == [True, False, True, True, True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_csv_has_each_epoch_once_after_a_resumption(tmp_path):
    log = tmp_path / "curves.csv"
    tasks.train(tmp_path / "run", epochs=2, patience=None, log=log)
    with log.open("a") as file:
        file.write("3,12,0.1")  # cut off by a kill, and not in the checkpoint
    _, history = tasks.train(tmp_path / "run", epochs=4, patience=None, log=log)
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert tuple(float(row["validation"]) for row in rows) == history.curve("validation")
    assert [int(row["steps"]) for row in rows] == [4, 8, 12, 16]
