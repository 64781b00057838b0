"""What a person sees: progress, notices and errors on stderr; results, and only those, on stdout."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from tabvae_core.progress import ProgressEvent

__all__ = ["notice", "print_table", "watching"]

_EVERY = 5.0
"""Seconds between plain lines of one step, where stderr is a file or a pipe."""


class Listener(Protocol):
    """Hears progress, and can print a line without tearing the display."""

    def __call__(self, event: ProgressEvent) -> None:
        """Hear of progress."""
        ...

    def say(self, line: str) -> None:
        """Print a line."""
        ...


@contextmanager
def watching() -> Iterator[Listener]:
    """Show progress while the block runs, and notices of `tabvae_core` as `note:` lines."""
    listener: Listener
    if sys.stderr.isatty():
        with _bars() as listener, _notices(listener):
            yield listener
        return
    listener = _Lines()
    with _notices(listener):
        yield listener


def notice(line: str) -> None:
    """Print a notice to stderr."""
    print(f"note: {line}", file=sys.stderr, flush=True)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as aligned columns on stdout, the first column to the left, numbers to the right."""
    if not rows:
        return
    header = list(rows[0])
    cells = [header, *([_cell(row.get(name)) for name in header] for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(header))]
    numeric = [all(not isinstance(row.get(name), str) for row in rows) for name in header]
    for line in cells:
        parts = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)]
        print("  ".join(parts).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _text(event: ProgressEvent) -> str:
    count = f"{event.done:,.0f}" + (f"/{event.total:,.0f}" if event.total is not None else "")
    return " ".join(filter(None, (f"{count} {event.unit}".rstrip() if event.unit else "", event.message)))


class _Lines:
    """Plain lines, the first and last of a step and one every few seconds."""

    def __init__(self) -> None:
        self._printed: dict[str, float] = {}
        self._ended: set[str] = set()

    def __call__(self, event: ProgressEvent) -> None:
        now, ended = time.monotonic(), event.total is not None and event.done >= event.total
        waited = now - self._printed.get(event.step, -_EVERY) >= _EVERY
        if waited or (ended and event.step not in self._ended):
            self._printed[event.step] = now
            if ended:
                self._ended.add(event.step)
            self.say(f"{event.step}: {_text(event)}".rstrip(": "))

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


@contextmanager
def _bars() -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description:<9}", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Progress(*columns, console=console, transient=False, redirect_stdout=False) as progress:
        yield _Bars(progress, console)


class _Bars:
    """One bar a step."""

    def __init__(self, progress: RichProgress, console: RichConsole) -> None:
        self._progress, self._console = progress, console
        self._tasks: dict[str, TaskID] = {}
        self._last: str | None = None

    def __call__(self, event: ProgressEvent) -> None:
        if event.step not in self._tasks:
            self._finish_last()
            self._tasks[event.step] = self._progress.add_task(event.step, total=event.total, text="")
        self._last = event.step
        self._progress.update(self._tasks[event.step], completed=event.done, total=event.total, text=_text(event))

    def _finish_last(self) -> None:
        """A new step begins when the one before has ended, even where that one never said how much it had to do."""
        if self._last is not None:
            task = self._tasks[self._last]
            self._progress.update(task, total=1, completed=1)
            self._progress.stop_task(task)

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


class _NoticeHandler(logging.Handler):
    def __init__(self, listener: Listener) -> None:
        super().__init__(logging.INFO)
        self._listener = listener

    def emit(self, record: logging.LogRecord) -> None:
        self._listener.say(f"note: {record.getMessage()}")


@contextmanager
def _notices(listener: Listener) -> Iterator[None]:
    logger, handler = logging.getLogger("tabvae_core"), _NoticeHandler(listener)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
