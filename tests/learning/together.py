"""Run by torchrun in two processes; writes what each saw to a folder."""

import math
import os
import sys
import warnings
from pathlib import Path

import torch
from tests.learning import tasks

from bilevel.learning import Checkpoint, fit


def plain(folder, **options):
    """Forty samples in batches of five per process; a metric and a validation set of 7."""
    model = tasks.plain(seed=int(os.environ["RANK"]))  # the first process's weights count
    history = fit(
        model,
        tasks.squares,
        (tasks.X, tasks.Y),
        validation=(tasks.X[:7], tasks.Y[:7]),
        optimizer=tasks.adam,
        metrics={"error": tasks.squares},
        patience=3,
        **{"epochs": 3, "batch_size": 5, "log": folder / "curves.csv"} | options,
    )
    return history, tasks.numbers(model)


def stopped_at(call, where):
    """A loss that raises in both processes."""

    def loss(model, x, y):
        nonlocal call
        call -= 1
        if call == 0:
            raise ZeroDivisionError
        return tasks.squares(model, x, y)

    def train(loss):
        model = tasks.plain()
        fit(model, loss, (tasks.X, tasks.Y), epochs=3, batch_size=5, checkpoint=where)
        return tasks.numbers(model)

    try:
        train(loss)
    except ZeroDivisionError:
        return train(tasks.squares)
    raise SystemExit("the loss was not called often enough")


def poisoned(model, x, y):
    """NaN in the second process alone, in the third step."""
    poisoned.calls += 1
    bad = poisoned.calls == 3 and os.environ["RANK"] == "1"
    return tasks.squares(model, x, y) * (math.nan if bad else 1.0)


poisoned.calls = 0


def main(folder):
    rank = os.environ["RANK"]
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    history, weights = plain(folder)
    (folder / f"weights{rank}").write_bytes(weights)
    (folder / f"history{rank}").write_text(
        repr([history.curve(n) for n in ("loss", "validation", "error")])
    )
    resumed = stopped_at(8, Checkpoint(folder / "run", every_steps=1))
    whole = tasks.plain()
    fit(whole, tasks.squares, (tasks.X, tasks.Y), epochs=3, batch_size=5)
    assert resumed == tasks.numbers(whole), "resumed to other weights"
    model = tasks.plain()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fit(model, poisoned, (tasks.X, tasks.Y), batch_size=5)
    assert "step 3" in str(caught[-1].message)
    assert history.status.name == "NOT_FINITE"
    assert tasks.numbers(model) == tasks.numbers(tasks.plain())
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(tasks.X, tasks.Y))
    try:
        fit(tasks.plain(), tasks.squares, loader)
    except ValueError as error:
        assert "DistributedSampler" in str(error)
    else:
        raise SystemExit("a loader without a DistributedSampler was taken")
    (folder / f"done{rank}").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
