"""Training finds what closed forms say, stops when it should, and says what it did."""

import csv
import dataclasses
import io
import itertools
import math
import warnings
from functools import partial

import cvxpy as cp
import numpy as np
import pytest
import rich
import torch
from tests.learning import tasks
from tests.learning.tasks import X, Y, plain, squares

from bilevel import BackendNotFound, BilevelWarning, ProblemError
from bilevel.layers import FollowerLayer
from bilevel.learning import FitStatus, fit


class Number(torch.nn.Module):
    """One weight, and a loss of the test's choice."""

    def __init__(self, value=0.0):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(value, dtype=torch.float64))


def sgd(rate, **options):
    return partial(torch.optim.SGD, lr=rate, **options)


ONE = torch.zeros(1, dtype=torch.float64)

# ------------------------------------------------------------------------- right answers


def test_least_squares_against_the_normal_equations():
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(50, 3)), rng.normal(size=50)
    model = torch.nn.Linear(3, 1, bias=False, dtype=torch.float64)
    data = (torch.from_numpy(A), torch.from_numpy(b)[:, None])
    lbfgs = partial(torch.optim.LBFGS, line_search_fn="strong_wolfe", tolerance_change=0)
    fit(model, squares, data, optimizer=lbfgs, batch_size=50)
    exact = np.linalg.lstsq(A, b, rcond=None)[0]
    np.testing.assert_allclose(model.weight.detach().numpy()[0], exact, atol=1e-8)


def test_steps_are_those_of_a_loop_by_hand():
    mine, theirs = plain(), plain()
    history = fit(mine, squares, (X, Y), optimizer=sgd(0.1), epochs=3, batch_size=40)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = squares(theirs, X, Y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(history.curve("loss"), losses, rtol=1e-13)


def test_an_epoch_takes_every_sample_once_in_another_order():
    seen = []

    def loss(model, i):
        seen.append(i.tolist())
        return model.w * 0

    fit(Number(), loss, torch.arange(10), batch_size=4, epochs=2)
    first, second = (list(itertools.chain(*half)) for half in (seen[:3], seen[3:]))
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_means_weigh_batches_by_their_samples():
    model = Number(1.0)
    values = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    history = fit(
        model,
        lambda model, v: model.w * v.mean(),
        values,
        validation=values,
        metrics={"mean": lambda model, v: v.mean()},
        optimizer=sgd(1e-300),
        batch_size=2,
        epochs=1,
    )
    (epoch,) = history.epochs
    assert epoch.loss == epoch.validation == epoch.metrics["mean"] == pytest.approx(3.0)


def test_clipped_gradient_has_the_norm_asked_for():
    model = Number(0.0)
    fit(model, lambda m, x: 100 * m.w, ONE, optimizer=sgd(1.0), epochs=1, max_grad_norm=0.5)
    assert model.w.item() == pytest.approx(-0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("epoch", [1.0, 0.5, 0.25]), ("step", [0.25, 0.0625, 0.015625])],
)
def test_schedulers_move_by_epochs_or_steps(kind, expected):
    halving = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    history = fit(
        Number(), lambda m, x: m.w, torch.zeros(4), optimizer=sgd(1.0), epochs=3,
        batch_size=2 if kind == "step" else 4, scheduler=halving, scheduler_interval=kind,
    )  # fmt: skip
    assert list(history.curve("learning_rate")) == expected


def test_plateau_scheduler_sees_the_watched_curve():
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.1)
    history = fit(
        Number(1.0), lambda m, x: m.w * 0 + 1, ONE, optimizer=sgd(1.0), scheduler=plateau, epochs=4
    )
    np.testing.assert_allclose(history.curve("learning_rate"), [1, 1, 0.1, 0.01])


def test_a_follower_inside_the_model_learns_its_price():
    # The buyer takes 6 - price; 2.5 was seen, so the price was 3.5.
    y, p = cp.Variable(name="y"), cp.Parameter(name="p")
    buyer = cp.Problem(cp.Maximize(6 * y - cp.square(y) / 2 - p * y), [y >= 0])

    class Market(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.price = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
            self.layer = FollowerLayer(buyer, [p], [y])

        def forward(self, tax):
            return self.layer(self.price + tax)[0]

    taxes = torch.tensor([0.0, 0.5, 1.0, 4.0], dtype=torch.float64)
    seen = torch.clamp(2.5 - taxes, min=0)
    model = Market()
    history = fit(model, squares, (taxes, seen), optimizer=sgd(0.3), epochs=60, batch_size=2)
    assert model.price.item() == pytest.approx(3.5, abs=1e-6)
    assert history.epochs[-1].loss < 1e-10


# ----------------------------------------------------------------------- stopping early


def zigzag(values):
    """A validation loss that takes these values epoch by epoch."""
    left = iter(values)
    return lambda model, x: model.w if model.training else model.w * 0 + next(left)


def test_early_stopping_restores_the_best_weights():
    model = Number(0.0)
    loss = zigzag([3, 2, 5, 4, 9, 9])
    history = fit(
        model, loss, ONE, validation=ONE, optimizer=sgd(1.0), epochs=6, patience=2
    )  # fmt: skip
    assert history.status is FitStatus.STOPPED_EARLY
    assert history.curve("validation") == (3, 2, 5, 4)
    assert history.best == history.weights == 2
    assert model.w.item() == -2.0  # one step of -1 per epoch


def test_without_patience_the_last_weights_stay():
    model = Number(0.0)
    loss = zigzag([3, 2, 5])
    history = fit(model, loss, ONE, validation=ONE, optimizer=sgd(1.0), epochs=3)
    assert (history.best, history.weights, model.w.item()) == (2, 3, -3.0)


def test_a_metric_may_be_watched_and_maximized():
    scores = iter([0.1, 0.9, 0.5, math.nan, 0.9])
    history = fit(
        Number(), lambda m, x: m.w, ONE, metrics={"score": lambda m, x: next(scores)},
        monitor="score", maximize=True, patience=3, epochs=9, optimizer=sgd(1.0),
    )  # fmt: skip
    assert history.status is FitStatus.STOPPED_EARLY
    assert (history.best, len(history.epochs)) == (2, 5)


# ------------------------------------------------------------------------ not finite


def poisoned(step, kind):
    """A loss that is not finite, or has a gradient that is not, at one step of training."""
    count = 0

    def loss(model, x):
        nonlocal count
        if not model.training:
            return model.w * 0 + (math.nan if kind == "validation" else 1.0)
        count += 1
        if count == step and kind == "loss":
            return model.w / 0
        if count == step and kind == "gradient":  # sqrt(0): value 0, slope infinite
            return torch.sqrt((model.w - model.w.detach()).abs() + 0 * model.w)
        return model.w

    return loss


@pytest.mark.parametrize("patience", [None, 5])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_not_finite_stops_at_once_and_restores(tmp_path, kind, patience):
    def train(**options):
        model = Number(4.0)
        with pytest.warns(BilevelWarning, match="in epoch 3, step 2") as caught:
            history = fit(
                model, poisoned(8, kind), torch.zeros(3), batch_size=1, epochs=5,
                optimizer=sgd(0.5), checkpoint=tmp_path, patience=patience, **options,
            )  # fmt: skip
        return model, history, str(caught[0].message)

    for _ in range(2):  # the second time from the checkpoint
        model, history, message = train()
        assert model.w.item() == 1.0  # 4 less two epochs of three steps of 0.5
        assert history.status is FitStatus.NOT_FINITE
        assert history.weights == len(history.epochs) == 2
        assert "epoch 3, step 2" in history.note
        assert history.note in history.summary()
        assert ("w" in message) if kind == "gradient" else ("loss" in message)


def test_not_finite_in_the_first_step_leaves_the_weights():
    model = Number(4.0)
    with pytest.warns(BilevelWarning, match="epoch 1, step 1"):
        history = fit(model, poisoned(1, "loss"), ONE)
    assert (model.w.item(), history.weights, history.epochs) == (4.0, 0, ())


def test_validation_that_is_not_finite_stops():
    model = Number(4.0)
    with pytest.warns(BilevelWarning, match="validation loss is nan after epoch 1"):
        history = fit(model, poisoned(9, "validation"), ONE, validation=ONE)
    assert (model.w.item(), history.status) == (4.0, FitStatus.NOT_FINITE)


def test_weights_that_overflow_are_not_kept():
    model = Number(1.0)
    with pytest.warns(BilevelWarning, match="A weight is not finite after epoch 1"):
        fit(model, lambda m, x: 1e200 * m.w, ONE, optimizer=sgd(1e200), epochs=1)
    assert model.w.item() == 1.0


def test_divergence_ends_with_finite_weights():
    model = plain()
    with pytest.warns(BilevelWarning, match="Training stopped"):
        fit(model, squares, (X, Y), optimizer=sgd(1e3), epochs=200, batch_size=40)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


# ------------------------------------------------------------------------- what is shown


def test_history_is_immutable_and_knows_its_curves():
    _, history = tasks.train(None, epochs=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        history.status = None
    with pytest.raises(TypeError):
        history.epochs[0].metrics["x"] = 1
    with pytest.raises(ProblemError, match=r"no curve 'accuracy'.*validation"):
        history.curve("accuracy")
    text = history.summary()
    for word in ("COMPLETED", "2 (8 steps", "validation", "best epoch"):
        assert word in text


@pytest.mark.parametrize(
    ("progress", "shown", "hidden"),
    [
        (True, ["loss", "error", "epoch 2/2"], []),
        (["error"], ["error"], ["loss"]),
        (False, [], ["e"]),
    ],
)
def test_bar_on_a_terminal(monkeypatch, progress, shown, hidden):
    file = io.StringIO()
    console = rich.console.Console(file=file, force_terminal=True, width=120)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    monkeypatch.setattr("rich.progress.get_console", lambda: console)
    fit(plain(), squares, (X, Y), epochs=2, metrics={"error": squares}, progress=progress)
    assert all(word in file.getvalue() for word in shown)
    assert not any(word in file.getvalue() for word in hidden)


def test_nothing_is_printed_where_there_is_no_terminal(capfd):
    fit(plain(), squares, (X, Y), epochs=2)
    assert capfd.readouterr() == ("", "")


def test_csv_is_what_history_says(tmp_path):
    log = tmp_path / "deep" / "curves.csv"
    for _ in range(2):  # a new run overwrites a learning curve
        history = fit(plain(), squares, (X, Y), epochs=3, metrics={"error": squares}, log=log)
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("loss", "error", "learning_rate"):
        assert tuple(float(row[name]) for row in rows) == history.curve(name)


def test_csv_does_not_overwrite_what_is_no_learning_curve(tmp_path):
    log = tmp_path / "data.csv"
    log.write_text("price,demand\n1,2\n")
    with pytest.raises(ProblemError, match=r"data.csv .*price"):
        fit(plain(), squares, (X, Y), epochs=1, log=log)
    assert log.read_text() == "price,demand\n1,2\n"


def test_tensorboard(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = {"metrics": {"error": squares}, "log": tmp_path / "log", "checkpoint": tmp_path / "c"}
    fit(plain(), squares, (X, Y), epochs=2, **options)
    history = fit(plain(), squares, (X, Y), epochs=3, **options)
    events = reader.EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    found = events.Scalars("error")
    assert [event.step for event in found] == [1, 2, 3]
    np.testing.assert_allclose([e.value for e in found], history.curve("error"), rtol=1e-6)


def test_missing_tensorboard_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(BackendNotFound, match=r'pip install "bilevel\[tensorboard\]"'):
        fit(plain(), squares, (X, Y), log=tmp_path / "log")


def test_missing_safetensors_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    with pytest.raises(BackendNotFound, match=r'pip install "bilevel\[torch\]"'):
        fit(plain(), squares, (X, Y), checkpoint=tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(plain(), squares, (X, Y), epochs=1)  # is not needed without checkpoint
