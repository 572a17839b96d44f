"""Checkpoints: written so that no kill leaves half of one, read only where they fit."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilevel.errors import BackendNotFound, CheckpointError, ProblemError

_FORMAT = 1
_MANIFEST = "manifest.json"
_STATE = "state.pt"
_FOREIGN = {".bin", ".ckpt", ".pt", ".pth", ".safetensors"}
_AFRESH = "Remove it, name another folder, or start afresh with resume=False, which replaces it."

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Where and when the state of a training run is saved.

    Parameters
    ----------
    folder
        Made if it is missing. It holds one folder ``save-...`` with ``model.safetensors`` (the
        weights), ``kept.safetensors`` (those to go back to, if they are others), ``state.pt``
        (optimizer, scheduler) and ``manifest.json`` (position, settings, history, checksums).
    every_steps
        Save after so many steps too, not only after each epoch.
    every_seconds
        Save when so many seconds have passed since the last time.

    Raises
    ------
    ProblemError
        If an interval is not positive.

    Notes
    -----
    A save is written beside the last one, forced to the disk, and put in place by one renaming: at
    any moment there is a whole one. It costs a few writes to the disk, so intervals should be much
    longer than a step.

    Examples
    --------
    >>> from bilevel.learning import Checkpoint
    >>> Checkpoint("run", every_seconds=60).every_seconds
    60
    """

    folder: str | Path
    every_steps: int | None = None
    every_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("every_steps", "every_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ProblemError(f"Checkpoint({name}={value}): it must be positive, or None.")


class Store:
    """A checkpoint's folder, as one run reads and writes it.

    Parameters
    ----------
    checkpoint
        Where and when.
    settings
        What must agree with a checkpoint from which the run goes on, by name.
    """

    def __init__(self, checkpoint: Checkpoint, settings: Mapping[str, Any]) -> None:
        self._folder = Path(checkpoint.folder)
        if self._folder.exists() and not self._folder.is_dir():
            raise CheckpointError(f"The checkpoint {self._folder} is a file; name a folder.")
        # As they come back from the file: tuples are lists there.
        self._settings = json.loads(json.dumps(settings, default=str))
        self._when = checkpoint
        self._saved_at = time.monotonic()
        self._saved_steps = 0

    def is_due(self, steps: int) -> bool:
        """Return whether to save in the middle of an epoch."""
        when = self._when
        since = time.monotonic() - self._saved_at
        by_steps = when.every_steps is not None and steps - self._saved_steps >= when.every_steps
        return by_steps or (when.every_seconds is not None and since >= when.every_seconds)

    def write(
        self, weights: Weights, kept: Weights | None, state: Any, notes: Mapping[str, Any]
    ) -> None:
        """Put a new save in the place of the last one.

        Parameters
        ----------
        weights, kept
            The model's, and those to go back to, ``None`` if they are the same.
        state
            For ``torch.save``.
        notes
            For JSON; ``steps`` is among them.
        """
        saves = self._saves()
        number = int(saves[-1].name.rpartition("-")[2]) + 1 if saves else 1
        draft = self._folder / "writing"
        pack = _safetensors().save
        files = {"model.safetensors": pack(weights), _STATE: _pickled(state, self._folder)}
        if kept is not None:
            files["kept.safetensors"] = pack(kept)
        manifest = {
            "format": _FORMAT,
            "settings": self._settings,
            "notes": dict(notes),
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
        manifest["digest"] = _digest(manifest)
        files[_MANIFEST] = json.dumps(manifest, indent=1).encode()
        try:
            _remove(draft)
            draft.mkdir(parents=True)
            for name, data in files.items():
                _write(draft / name, data)
            _flush_folder(draft)
            os.replace(draft, self._folder / f"save-{number:08d}")
            _flush_folder(self._folder)
            for old in saves:
                self._discard(old)
        except OSError as error:
            raise CheckpointError(
                f"The state of training cannot be saved in {self._folder}: {error}. The last save "
                f"is whole; with room on the disk and leave to write, training goes on from it."
            ) from error
        self._saved_at = time.monotonic()
        self._saved_steps = notes["steps"]

    def clear(self) -> None:
        """Remove what another run has saved here."""
        for old in self._saves():
            self._discard(old)

    def read(self) -> tuple[Weights, Weights | None, Any, dict[str, Any]] | None:
        """Return what ``write`` was given last, or ``None`` if nothing was saved here.

        Raises
        ------
        CheckpointError
            If it is damaged, or of another run.
        """
        saves = self._saves()
        if not saves:
            self._refuse_foreign()
            return None
        manifest = _manifest(saves[-1] / _MANIFEST)
        data = {name: _read(saves[-1] / name, digest) for name, digest in manifest["files"].items()}
        self._refuse_other_run(saves[-1], manifest["settings"])
        unpack = _safetensors().load
        weights = unpack(data["model.safetensors"])
        kept = unpack(data["kept.safetensors"]) if "kept.safetensors" in data else None
        try:
            state = torch.load(io.BytesIO(data[_STATE]), map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(
                f"{saves[-1] / _STATE} cannot be read by this version of torch: {error}. {_AFRESH}"
            ) from error
        self._saved_at = time.monotonic()
        self._saved_steps = manifest["notes"]["steps"]
        return weights, kept, state, manifest["notes"]

    def _saves(self) -> list[Path]:
        return sorted(self._folder.glob("save-[0-9]*"))

    def _discard(self, old: Path) -> None:
        """Remove a save; a kill in between leaves no half of it under its name."""
        away = self._folder / "removing"
        _remove(away)
        os.replace(old, away)
        _remove(away)

    def _refuse_foreign(self) -> None:
        if not self._folder.is_dir():
            return
        foreign = [file for file in self._folder.iterdir() if file.suffix.lower() in _FOREIGN]
        if foreign:
            raise CheckpointError(
                f"{sorted(foreign)[0]} was not written by bilevel.learning.fit, so training cannot "
                f"go on from {self._folder}. Name another folder, and load those weights into the "
                f"model before; or start afresh with resume=False, which leaves the file alone."
            )

    def _refuse_other_run(self, save: Path, theirs: Mapping[str, Any]) -> None:
        missing = "nothing"
        differences = [
            f"{name}: {theirs.get(name, missing)} there, {self._settings.get(name, missing)} here"
            for name in sorted(theirs.keys() | self._settings.keys())
            if theirs.get(name, missing) != self._settings.get(name, missing)
        ]
        if differences:
            more = f"; and {len(differences) - 6} more" if len(differences) > 6 else ""
            raise CheckpointError(
                f"{save / _MANIFEST} is of another training run ({'; '.join(differences[:6])}"
                f"{more}). Give the settings that it had, name another folder, or start afresh "
                f"with resume=False, which replaces it."
            )


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format"]
        digest = manifest.pop("digest")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint of bilevel.learning.fit "
            f"({type(error).__name__}: {error}). {_AFRESH}"
        ) from error
    if version != _FORMAT:
        raise CheckpointError(
            f"{path} has format {version!r}; this version reads {_FORMAT}. {_AFRESH}"
        )
    if digest != _digest(manifest):
        raise CheckpointError(f"{path} is damaged: its checksum is not that of its text. {_AFRESH}")
    return manifest


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _read(path: Path, digest: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}. {_AFRESH}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(
            f"{path} is damaged: its {len(data)} bytes are not those that were written, by their "
            f"SHA-256. {_AFRESH}"
        )
    return data


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Force a folder's entries to the disk, where the system can (Windows cannot)."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _pickled(state: Any, folder: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:  # now, not when a run is to go on from it
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"The state of the optimizer or scheduler cannot be saved in {folder}: it holds "
            f"more than tensors, numbers and texts ({error}). Use plain Python numbers there."
        ) from error
    return buffer.getvalue()


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise BackendNotFound(
            "Checkpoints are written by the package safetensors, which is not installed: "
            'pip install "bilevel[torch]".'
        ) from error
    return safetensors.torch
