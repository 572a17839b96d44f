"""JSON lines that a run appends to, so that it can stop anywhere and go on later."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Key = tuple[Any, ...]


class Journal:
    """Records in a file, one JSON line each; a record is identified by some of its fields.

    Beside the file lives, while a measurement runs, a note that says which one. Found by a later
    process, it means that the measurement took its process down with it.

    Parameters
    ----------
    path
        The file; it and its folder are made when first needed.
    key
        The fields that identify a record.
    """

    def __init__(self, path: Path, key: Iterable[str]) -> None:
        self.path, self._fields = Path(path), tuple(key)
        self._note = self.path.with_name(f"{self.path.name}.running")
        self.records = read(self.path)
        self._keys = {self.key(record) for record in self.records}

    def key(self, record: Mapping[str, Any]) -> Key:
        return tuple(record.get(name) for name in self._fields)

    def __contains__(self, record: Mapping[str, Any]) -> bool:
        return self.key(record) in self._keys

    def begin(self, fields: Mapping[str, Any]) -> None:
        """Say which measurement runs."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._note.write_text(json.dumps(dict(fields)), encoding="utf-8")

    def end(self) -> None:
        """Say that none runs."""
        self._note.unlink(missing_ok=True)

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record and see it on the disk."""
        plain = finite(dict(record))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _drop_unfinished_line(self.path)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.records.append(plain)
        self._keys.add(self.key(plain))
        self.end()

    def died(self) -> dict[str, Any] | None:
        """Return what was measured when a process died, ``None`` if none did."""
        try:
            return json.loads(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def read(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file; a last line that was cut off is left out."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    records = []
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), 1):
        try:
            records.append(json.loads(line))
        except ValueError:
            raise ValueError(f"{path}, line {number} is not JSON") from None
    return records


def finite(value: Any) -> Any:
    """Return a value for JSON: arrays and scalars of NumPy plain, NaN and infinity ``None``."""
    if isinstance(value, Mapping):
        return {str(name): finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _drop_unfinished_line(path: Path) -> None:
    if not path.is_file():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])
