"""Malformed arguments, and checkpoints that are damaged or of another run."""

import dataclasses
import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from tests.learning import tasks
from tests.learning.tasks import X, Y, plain, squares

from bilevel import BilevelError, CheckpointError, ProblemError
from bilevel.learning import Checkpoint, fit
from bilevel.learning.batches import Batches
from bilevel.learning.plan import Plan
from bilevel.learning.processes import Group
from bilevel.learning.state import TrainingState

DATA = (X, Y)
PLANNED = {
    "model": plain(),
    "loss": squares,
    "data": DATA,
    "optimizer": tasks.adam,
    "scheduler_interval": "epoch",
    "epochs": 1,
    "batch_size": 10,
    "metrics": {},
    "monitor": "loss",
    "seed": 0,
    "resume": True,
}
ELSEWHERE = torch.nn.Parameter(torch.zeros(2))


class Extra(torch.nn.Linear):
    def get_extra_state(self):
        return {"a": 1}


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([(X, Y)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, ["epochs=0", "positive integer"]),
        ({"epochs": 2.5}, ["epochs=2.5"]),
        ({"batch_size": -1}, ["batch_size=-1"]),
        ({"patience": 0}, ["patience=0"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"seed": None}, ["seed=None"]),
        ({"max_grad_norm": 0.0}, ["max_grad_norm=0.0"]),
        ({"scheduler_interval": "batch"}, ["'batch'", "'epoch' or 'step'"]),
        ({"monitor": "accuracy"}, ["'accuracy'", "['loss']"]),
        ({"monitor": "validation"}, ["'validation'"]),
        ({"metrics": {"loss": squares}}, ["['loss']", "rename"]),
        ({"metrics": {"error": 3}}, ["error", "int"]),
        ({"loss": "mse"}, ["loss", "str"]),
        ({"model": squares}, ["model", "function", "Module"]),
        ({"model": torch.nn.ReLU()}, ["no parameter"]),
        ({"model": Extra(1, 1)}, ["_extra_state", "get_extra_state"]),
        ({"data": None}, ["training data", "NoneType", "DataLoader"]),
        ({"data": np.zeros(3)}, ["ndarray"]),
        ({"data": (X, Y[:3])}, ["[40, 3]", "agree"]),
        ({"data": (X[:0], Y[:0])}, ["training data are empty"]),
        ({"data": torch.utils.data.Dataset()}, ["training data", "__len__"]),
        ({"data": Stream()}, ["IterableDataset", "DataLoader"]),
        ({"validation": X.numpy()}, ["validation data", "ndarray"]),
        ({"loss": lambda m, x, y: (m(x) - y).square()}, ["[40, 1]", "one number"]),
        ({"loss": lambda m, x, y: 1.0}, ["float", "one number"]),
        ({"loss": lambda m, x, y: (x * y).mean()}, ["depends on no parameter"]),
        ({"optimizer": lambda p: 1}, ["optimizer is a int"]),
        ({"optimizer": torch.optim.SGD([ELSEWHERE], lr=1)}, ["no parameter of the model"]),
        ({"scheduler": lambda o: 1}, ["scheduler is a int"]),
        (
            {
                "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau,
                "scheduler_interval": "step",
            },
            ["ReduceLROnPlateau"],
        ),
        ({"device": "gpu"}, ["'gpu'"]),
    ],
    ids=lambda part: None,
)
def test_malformed(options, words):
    arguments = {"model": plain(), "loss": squares, "data": DATA, "batch_size": 40} | options
    with pytest.raises(ProblemError) as error:
        fit(**arguments)
    for word in words:
        assert word in str(error.value), error.value


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there():
    with pytest.raises(ProblemError, match="no CUDA device"):
        fit(plain(), squares, DATA, device="cuda")


def test_intervals_of_checkpoints_are_positive():
    with pytest.raises(ProblemError, match="every_steps=0"):
        Checkpoint("run", every_steps=0)


# --------------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A whole checkpoint in the middle of an epoch, with all of its files."""
    folder = tmp_path_factory.mktemp("saved")
    calls = 0

    def stops(model, x, y):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise ZeroDivisionError
        return squares(model, x, y)

    where = Checkpoint(folder / "run", every_steps=1)
    with pytest.raises(ZeroDivisionError):
        fit(plain(), stops, DATA, epochs=3, batch_size=10, checkpoint=where)
    return folder / "run"


@pytest.fixture
def run(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def resume(folder, **options):
    arguments = {"model": plain(), "loss": squares, "data": DATA, "epochs": 3, "batch_size": 10}
    return fit(**arguments | {"checkpoint": folder} | options)


def files(run):
    (save,) = run.glob("save-*")
    return {file.name: file for file in save.iterdir()}


NAMES = ["manifest.json", "model.safetensors", "kept.safetensors", "state.pt"]


def refused(run, *words, **options):
    before = sorted(file for file in run.rglob("*"))
    model = options.setdefault("model", plain(seed=7))
    weights = tasks.numbers(model)
    with pytest.raises(CheckpointError) as error:
        resume(run, **options)
    for word in words:
        assert word in str(error.value), error.value
    assert tasks.numbers(model) == weights, "the model was changed"
    assert sorted(file for file in run.rglob("*")) == before


def test_the_whole_one_is_taken(run):
    assert len(resume(run).epochs) == 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated(run, name, share):
    file = files(run)[name]
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    refused(run, name, "damaged", "resume=False")


@pytest.mark.parametrize("name", NAMES)
def test_one_bit_is_wrong(run, name):
    file = files(run)[name]
    data = bytearray(file.read_bytes())
    for place in np.random.default_rng(0).integers(0, len(data), 5):
        wrong = data.copy()
        wrong[place] ^= 1
        file.write_bytes(wrong)
        refused(run, str(file.parent), "resume=False")


@pytest.mark.parametrize("name", NAMES)
def test_missing(run, name):
    files(run)[name].unlink()
    refused(run, name, "resume=False")


def test_another_format(run):
    file = files(run)["manifest.json"]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    refused(run, "manifest.json", "format 99")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": torch.nn.Linear(1, 1).double()}, ["model, 0.weight", "model, weight"]),
        ({"model": plain().float(), "data": (X.float(), Y.float())}, ["float64 [8, 1]", "float32"]),
        ({"data": (X[:30], Y[:30])}, ["training samples: 40 there, 30 here"]),
        ({"validation": DATA}, ["validation samples: None there, 40 here"]),
        ({"batch_size": 20}, ["steps per epoch: 4 there, 2 here"]),
        ({"batch_size": 11}, ["batch_size: 10 there, 11 here"]),
        ({"seed": 3}, ["seed: 0 there, 3 here"]),
        ({"optimizer": torch.optim.SGD}, ["optimizer: Adam there, SGD here"]),
        ({"optimizer": tasks.adam}, ["lr: 0.001 there, 0.02 here"]),
        ({"scheduler": tasks.decaying}, ["scheduler: None there, CosineAnnealingLR here"]),
        ({"patience": 3}, ["best weights are kept: False there, True here"]),
        ({"metrics": {"error": squares}}, ["metrics: [] there, ['error'] here"]),
    ],
    ids=lambda part: None,
)
def test_another_run(run, options, words):
    refused(run, "another training run", "manifest.json", "resume=False", *words, **options)


def test_a_scheduler_with_other_settings(tmp_path):
    def halving(size):
        return partial(torch.optim.lr_scheduler.StepLR, step_size=size)

    resume(tmp_path, scheduler=halving(2), epochs=1)
    resume(tmp_path, scheduler=halving(2), epochs=2)
    refused(tmp_path, "scheduler, step_size: 2 there, 3 here", scheduler=halving(3))


def test_processes_that_see_different_folders(tmp_path):
    class Differs(Group):
        def mean(self, value):
            return value + 1

    data = Batches(DATA, 10, Differs(0, 1, torch.device("cpu")), 0, True, "data")
    names = {field.name: None for field in dataclasses.fields(Plan)}
    plan = Plan(**names | PLANNED | {"checkpoint": Checkpoint(tmp_path)})
    with pytest.raises(CheckpointError, match="the same folder"):
        TrainingState(plan, Differs(0, 1, torch.device("cpu")), data, data)


def test_shapes_that_differ(run):
    wider = torch.nn.Sequential(
        torch.nn.Linear(1, 9), torch.nn.Tanh(), torch.nn.Linear(9, 1)
    ).double()
    refused(run, "model, 0.weight: float64 [8, 1]", "[9, 1]", model=wider)


def test_weights_of_somebody_else_are_left_alone(tmp_path):
    torch.save({}, tmp_path / "theirs.pt")
    refused(tmp_path, "theirs.pt", "not written by bilevel")
    resume(tmp_path, resume=False)
    assert (tmp_path / "theirs.pt").exists()


def test_a_file_instead_of_a_folder(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        resume(tmp_path / "run")


def test_code_in_a_pickle_is_not_executed(run, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    from bilevel.learning import checkpoint

    found = files(run)
    torch.save({"optimizer": Bomb()}, found["state.pt"])
    manifest = json.loads(found["manifest.json"].read_text())
    del manifest["digest"]
    manifest["files"]["state.pt"] = checkpoint.hashlib.sha256(
        found["state.pt"].read_bytes()
    ).hexdigest()
    manifest["digest"] = checkpoint._digest(manifest)
    found["manifest.json"].write_text(json.dumps(manifest))
    refused(run, "state.pt", "resume=False")
    assert not (tmp_path / "exploded").exists()


def test_a_state_that_could_not_be_read_again_is_refused_when_training_begins(tmp_path):
    class Odd:
        pass

    def odd(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        optimizer.param_groups[0]["odd"] = partial(print)
        return optimizer

    with pytest.raises(CheckpointError, match="more than tensors"):
        resume(tmp_path / "run", optimizer=odd)


def test_a_disk_that_cannot_be_written(run, monkeypatch):
    from bilevel.learning import checkpoint

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(CheckpointError, match="No space left"):
        resume(run)
    monkeypatch.undo()
    assert len(resume(run).epochs) == 3


def test_the_tree_of_errors():
    assert issubclass(CheckpointError, BilevelError)
