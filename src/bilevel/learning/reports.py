"""Where learning curves go while a model is trained: a progress bar, a CSV file, TensorBoard."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import rich
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from bilevel.errors import BackendNotFound, ProblemError
from bilevel.learning.history import Epoch

_FIRST_COLUMNS = ["epoch", "steps", "loss"]


class CsvLog:
    """One row per epoch.

    Parameters
    ----------
    path
        Of the file; it begins with the rows given here, and each epoch appends one.
    epochs
        What a resumed run had recorded. A row that a kill cut off is written anew.
    """

    def __init__(self, path: Path, epochs: Sequence[Epoch]) -> None:
        _refuse_foreign(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        draft = path.with_name(f"{path.name}.tmp")
        with draft.open("w", newline="", encoding="utf-8") as file:
            self._append(file, epochs)
        os.replace(draft, path)

    def write(self, epoch: Epoch) -> None:
        """Append an epoch's row."""
        with self._path.open("a", newline="", encoding="utf-8") as file:
            self._append(file, [epoch])

    def close(self) -> None:
        """Nothing is held open."""

    def _append(self, file: IO[str], epochs: Sequence[Epoch]) -> None:
        writer = csv.writer(file)
        for epoch in epochs:
            if file.tell() == 0:
                writer.writerow(["epoch", "steps", *epoch.values()])
            writer.writerow([epoch.number, epoch.steps, *epoch.values().values()])


class TensorBoardLog:
    """Scalars by epoch.

    Parameters
    ----------
    folder
        Where TensorBoard looks for them.
    epochs
        What a resumed run had recorded; later ones that a killed run left behind are hidden.
    """

    def __init__(self, folder: Path, epochs: Sequence[Epoch]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise BackendNotFound(
                f"The log {folder} is a folder, so it is written for TensorBoard by the package "
                f'tensorboard, which is not installed: pip install "bilevel[tensorboard]". For a '
                f"CSV file give a name that ends in .csv."
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=len(epochs) + 1 if epochs else None)

    def write(self, epoch: Epoch) -> None:
        """Add an epoch's scalars."""
        for name, value in epoch.values().items():
            self._writer.add_scalar(name, value, epoch.number)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


@contextlib.contextmanager
def logging(log: str | Path | None, epochs: Sequence[Epoch]) -> Iterator[Callable[[Epoch], None]]:
    """Give a function that writes an epoch to the log, or nowhere."""
    if log is None:
        yield lambda epoch: None
        return
    path = Path(log)
    kind = CsvLog if path.suffix.lower() == ".csv" else TensorBoardLog
    writer = kind(path, epochs)
    try:
        yield writer.write
    finally:
        writer.close()


@contextlib.contextmanager
def bar(
    shown: bool | Sequence[str], epochs: int, steps: int | None, done: int
) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Give a function of the epoch's number and values that moves the bar one step on.

    The bar stands on rich's console, where that is a terminal or a notebook.
    """
    console: Any = rich.get_console()
    if not shown or not (console.is_terminal or console.is_jupyter):
        yield lambda number, values: None
        return
    columns = (
        TextColumn("epoch {task.fields[number]}/" + str(epochs)),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
    )
    with Bar(*columns) as progress:
        total = None if steps is None else steps * epochs
        task = progress.add_task("", total=total, completed=done, number=1, values="")

        def move(number: int, values: dict[str, float]) -> None:
            chosen = values if shown is True else {k: v for k, v in values.items() if k in shown}
            text = "  ".join(f"{name} {value:.4g}" for name, value in chosen.items())
            progress.update(task, advance=1, number=number, values=text)

        yield move


def _refuse_foreign(path: Path) -> None:
    """Raise if a file is there that no training run has written."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        header = next(csv.reader(file), _FIRST_COLUMNS)
    if header[: len(_FIRST_COLUMNS)] != _FIRST_COLUMNS:
        raise ProblemError(
            f"The log {path} exists and is no learning curve: its first row is {header[:4]}. Give "
            f"another name, or remove the file."
        )
