"""Text files that people hand in: reading them, and errors that name file and line."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

from bilevel.errors import ProblemError

# Files of linear programs write infinity as a number of this size.
HUGE = 1e30


@dataclass(frozen=True)
class Source:
    """A text file and its lines, ends of lines removed.

    Parameters
    ----------
    path
        As the user wrote it.
    lines
        Line ``n`` of the file is ``lines[n - 1]``.
    """

    path: str
    lines: tuple[str, ...]

    def error(self, line: int | None, message: str) -> ProblemError:
        """Return an error that names this file and a line."""
        where = self.path if line is None else f"{self.path}, line {line}"
        return ProblemError(f"{where}: {message}")

    def number(self, token: str, line: int, what: str, infinite: bool = False) -> float:
        """Return a token as a number; at least ``HUGE`` is infinite, where that is allowed."""
        try:
            value = math.nan if "_" in token else float(token)
        except ValueError:
            raise self.error(line, f"{what} must be a number, not {token!r}.") from None
        if math.isnan(value):
            raise self.error(line, f"{what} is {token!r}, which is not a number.")
        if abs(value) < HUGE:
            return value
        if not infinite:
            raise self.error(
                line, f"{what} is infinite ({token}); leave out what is not to have an effect."
            )
        return math.copysign(math.inf, value)

    def integer(self, token: str, line: int, what: str) -> int:
        """Return a token as a whole number that is not negative."""
        if not (token.isascii() and token.isdigit()):
            raise self.error(line, f"{what} must be a whole number, not {token!r}.")
        return int(token)


def read_text(path: str | Path) -> Source:
    """Return a file's lines; a name that ends in ``.gz`` is unpacked.

    Raises
    ------
    ProblemError
        If the file cannot be read.
    """
    try:
        data = Path(path).read_bytes()
        if str(path).endswith(".gz"):
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise ProblemError(f"There is no file {str(path)!r}.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ProblemError(f"The file {str(path)!r} cannot be read: {error}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return Source(str(path), tuple(text.removesuffix("\n").split("\n")))


def write_text(path: str | Path, text: str) -> None:
    """Write a file; a name that ends in ``.gz`` is packed.

    Raises
    ------
    ProblemError
        If the file cannot be written.
    """
    data = text.encode("utf-8")
    try:
        Path(path).write_bytes(gzip.compress(data) if str(path).endswith(".gz") else data)
    except OSError as error:
        raise ProblemError(f"The file {str(path)!r} cannot be written: {error}") from error
