"""Exit codes, and every exception as one paragraph on stderr."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any

import typer

from bilevel.cli import startup
from bilevel.errors import (
    BackendError,
    BackendNotFound,
    BatchFailed,
    BilevelError,
    SolveFailed,
)


class Exit(IntEnum):
    """What the exit code says."""

    DONE = 0
    NO_POINT = 1
    MALFORMED = 2
    BACKEND = 3
    INTERRUPTED = 130


def guarded(command: Callable[..., Exit]) -> Callable[..., None]:
    """Return a command that ends in an exit code and a message, never in a traceback.

    Parameters
    ----------
    command
        Returns its exit code. Its keyword ``debug`` asks for tracebacks.
    """

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        code = Exit.BACKEND
        try:
            startup.load()
            code = command(**arguments)
        except KeyboardInterrupt:
            code = Exit.INTERRUPTED
            _say("Interrupted before there was a point.")
        except BilevelError as error:
            code = _code(error)
            _say(f"Error: {error}")
            _show_traceback(arguments)
        except (typer.Exit, BrokenPipeError):
            raise
        except Exception as error:
            _say(
                f"Error: {type(error).__name__}: {error} (This is not an error that bilevel "
                f"expects; --debug shows where it happened.)"
            )
            _show_traceback(arguments)
        raise typer.Exit(int(code))

    return run


def _code(error: BilevelError) -> Exit:
    if isinstance(error, BackendNotFound | BackendError):
        return Exit.BACKEND
    return Exit.NO_POINT if isinstance(error, SolveFailed | BatchFailed) else Exit.MALFORMED


def _say(message: str) -> None:
    typer.echo(" ".join(message.split()), err=True)


def _show_traceback(arguments: dict[str, Any]) -> None:
    if arguments.get("debug"):
        typer.echo(traceback.format_exc(), err=True)


@contextlib.contextmanager
def own_stdout() -> Iterator[None]:
    """Keep stdout for what this program prints.

    Vendors' libraries write to the file descriptor itself (SCIP counts each Ctrl-C there), which
    would spoil ``--json`` and pipes.
    """
    try:
        descriptor = os.dup(1)
    except OSError:  # there is no stdout
        yield
        return
    before = sys.stdout
    before.flush()
    encoding = before.encoding
    errors = before.errors
    sys.stdout = open(descriptor, "w", encoding=encoding, errors=errors, buffering=1)  # noqa: SIM115
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    # Not undone: what a vendor has buffered is written when the process ends.
    yield
