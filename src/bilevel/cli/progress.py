"""One live line while a problem is solved, and a first Ctrl-C that keeps the best point."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

    from bilevel.program import Progress
    from bilevel.solution import Solution


class Watch:
    """The callback of ``bl.solve``: remembers the last moment and stops when asked to.

    Parameters
    ----------
    title
        Shown at the start of the line.
    """

    def __init__(self, title: str = "") -> None:
        self._title = title
        self._began = time.perf_counter()
        self._last: Progress | None = None
        self.stopped = False

    def __call__(self, moment: Progress) -> bool:
        """Return whether to stop."""
        self._last = moment
        return self.stopped

    def __rich__(self) -> Text:
        """Return the line as it is now."""
        from rich.text import Text

        seconds = time.perf_counter() - self._began
        parts = [self._title] if self._title else []
        parts.append(f"{seconds:.1f} s")
        if self._last is not None:
            last = self._last
            parts += [f"incumbent {_value(last.incumbent)}", f"bound {_value(last.bound)}"]
            parts.append("gap -" if last.gap is None else f"gap {100 * last.gap:.2g} %")
            parts.append(f"{last.nodes} nodes")
        parts.append("stopping" if self.stopped else "Ctrl-C keeps the best point")
        return Text("   ".join(parts), no_wrap=True, overflow="ellipsis", style="dim")

    def interrupted(self, solution: Solution) -> bool:
        """Return whether a person, not a limit, ended the search."""
        # SCIP catches Ctrl-C itself and says so in its status.
        return self.stopped or "interrupt" in solution.stats.backend_status.lower()


@contextlib.contextmanager
def watching(title: str = "", live: bool = True) -> Iterator[Watch]:
    """Give a callback; show its line on stderr if that is a terminal and ``live`` is true.

    The first Ctrl-C makes the callback stop the search, so that the point found is still verified
    and shown; the second one ends the program.
    """
    watch = Watch(title)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_first_interrupt_stops(watch))
        if live and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True)
            shown = Live(watch, console=console, refresh_per_second=8, transient=True)
            stack.enter_context(shown)
        yield watch


@contextlib.contextmanager
def _first_interrupt_stops(watch: Watch) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if watch.stopped:
            signal.default_int_handler(number, frame)
        watch.stopped = True

    before: Any = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
