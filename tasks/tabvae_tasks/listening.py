"""Progress of a step inside a Prefect run: a progress artifact, log lines, and whoever else listens.

A command line that runs a flow in its own process adds its terminal with `also_tell`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

from tabvae_core.lease import turn
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.spec import RefreshSpec

__all__ = ["Pace", "also_tell", "artifact_key", "hold_target", "progress_line", "task_progress"]

_listener: ContextVar[Progress] = ContextVar("tabvae_listener", default=silent)

_ARTIFACT_EVERY = 3.0
"""Seconds between updates of the artifact: each is a request to the API."""
_LOG_EVERY = 15.0
"""Seconds between log lines of one step."""


@contextmanager
def also_tell(listener: Progress) -> Iterator[None]:
    """Tell a listener in this process of the progress of all tasks that run inside the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def artifact_key(*parts: str) -> str:
    """Make an artifact key: lower case, digits and dashes."""
    text = "-".join(parts).lower()
    return "-".join(filter(None, "".join(c if c.isascii() and c.isalnum() else "-" for c in text).split("-")))


@contextmanager
def task_progress(table: str, about: str = "") -> Iterator[Progress]:
    """Progress listener of the task that is running; outside a run only `also_tell`'s listener hears it.

    Args:
        table: Name of the table, for the artifact's key.
        about: What the task works on, such as "3,000 rows"; shown with every step.

    """
    if TaskRunContext.get() is None:
        yield _listener.get()
        return
    with _notices_logged():
        yield _TaskListener(table, about, _listener.get())


@contextmanager
def hold_target(spec: RefreshSpec, wait: bool) -> Iterator[None]:
    """Keep other refreshes of the target waiting while the block runs; a flow that waits itself says so in its log.

    Args:
        spec: The refresh.
        wait: Wait for a refresh that is running; else fail.

    """
    log, logged = get_run_logger(), -_LOG_EVERY

    def listen(event: ProgressEvent) -> None:
        nonlocal logged
        _listener.get()(event)
        if time.monotonic() - logged >= _LOG_EVERY:
            logged = time.monotonic()
            log.info(event.message)

    with turn(spec.target, wait=wait, progress=listen):
        yield


@contextmanager
def _notices_logged() -> Iterator[None]:
    """Send the core's notices, such as what is done with free text, to the run's log in Prefect's API.

    Prefect itself takes up loggers of other packages only where an operator lists them in its settings.
    """
    logger, handler = logging.getLogger("tabvae_core"), _RunHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _RunHandler(logging.Handler):
    """Passes records on to the log of one task run; those of runs beside it in the same process are not its own."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._run, self._log = _task_run_id(), get_run_logger()

    def emit(self, record: logging.LogRecord) -> None:
        if _task_run_id() == self._run:
            self._log.log(record.levelno, record.getMessage())


def _task_run_id() -> UUID | None:
    context = TaskRunContext.get()
    return context.task_run.id if context is not None else None


class _TaskListener:
    def __init__(self, table: str, about: str, listener: Progress) -> None:
        self._table, self._about, self._listener = table, about, listener
        self._paces: dict[str, Pace] = {}
        self._artifacts: dict[str, UUID] = {}
        self._updated: dict[str, float] = {}
        self._logged: dict[str, float] = {}
        self._log = get_run_logger()

    def __call__(self, event: ProgressEvent) -> None:
        self._listener(event)
        now, ended = time.monotonic(), event.total is not None and event.done >= event.total
        left = self._paces.setdefault(event.step, Pace()).seconds_left(event, now)
        if ended or now - self._logged.get(event.step, -_LOG_EVERY) >= _LOG_EVERY:
            self._logged[event.step] = now
            self._log.info("%s: %s", event.step, progress_line(event, left, self._about))
        if event.total and (ended or now - self._updated.get(event.step, -_ARTIFACT_EVERY) >= _ARTIFACT_EVERY):
            self._updated[event.step] = now
            line = progress_line(event, left, self._about)
            self._show(event.step, min(100.0, 100.0 * event.done / event.total), line)

    def _show(self, step: str, percent: float, line: str) -> None:
        """Progress is a courtesy: an API that does not answer must not fail a training of hours."""
        try:
            if (artifact := self._artifacts.get(step)) is None:
                created = create_progress_artifact(percent, key=artifact_key(self._table, step), description=line)
                self._artifacts[step] = cast(UUID, created)
            else:
                update_progress_artifact(artifact, percent, description=line)
        except Exception as error:
            self._log.warning("progress artifact not written: %s", type(error).__name__)


class Pace:
    """How long a step will go on, judged by how fast it went from its first sign of life to the last."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None

    def seconds_left(self, event: ProgressEvent, now: float) -> float | None:
        """Take a sign of life into account, and estimate; None as long as nothing can be said.

        Args:
            event: The sign of life.
            now: When it was given, in seconds of any clock that does not jump.

        """
        if self._began is None:
            self._began = (now, event.done)
        spent, done = now - self._began[0], event.done - self._began[1]
        if event.total is None or done <= 0 or spent <= 0:
            return None
        return max(0.0, event.total - event.done) * spent / done


def progress_line(event: ProgressEvent, seconds_left: float | None, about: str = "") -> str:
    """Say what is done and how long it goes on, before all else: cards of the UI cut a line short.

    A step that knows better than its pace how long it goes on, such as a training with a time limit, says so itself.
    """
    count = f"{event.done:,.0f}" + (f"/{event.total:,.0f}" if event.total is not None else "")
    said = event.message.split(", ") if event.message else []
    own = [part for part in said if part.endswith(" s left")]
    rest = [part for part in said if part not in own]
    ended = event.total is not None and event.done >= event.total
    left = own or ([f"{seconds_left:,.0f} s left"] if seconds_left is not None else [])
    return ", ".join([f"{count} {event.unit}".rstrip(), *([] if ended else left), *rest, *filter(None, [about])])
