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

from tabvae_core.progress import Progress, ProgressEvent, line_of, silent

__all__ = ["also_tell", "artifact_key", "task_progress"]

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
def task_progress(table: str) -> Iterator[Progress]:
    """Progress listener of the task that is running; outside a run only `also_tell`'s listener hears it.

    Args:
        table: Name of the table, for the artifact's key.

    """
    if TaskRunContext.get() is None:
        yield _listener.get()
        return
    with _notices_logged():
        yield _TaskListener(table, _listener.get())


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
    def __init__(self, table: str, listener: Progress) -> None:
        self._table, self._listener = table, listener
        self._artifacts: dict[str, UUID] = {}
        self._updated: dict[str, float] = {}
        self._logged: dict[str, float] = {}
        self._log = get_run_logger()

    def __call__(self, event: ProgressEvent) -> None:
        self._listener(event)
        now, ended = time.monotonic(), event.total is not None and event.done >= event.total
        if ended or now - self._logged.get(event.step, -_LOG_EVERY) >= _LOG_EVERY:
            self._logged[event.step] = now
            self._log.info(line_of(event))
        if event.total and (ended or now - self._updated.get(event.step, -_ARTIFACT_EVERY) >= _ARTIFACT_EVERY):
            self._updated[event.step] = now
            self._show(event, min(100.0, 100.0 * event.done / event.total))

    def _show(self, event: ProgressEvent, percent: float) -> None:
        """Progress is a courtesy: an API that does not answer must not fail a training of hours."""
        try:
            if (artifact := self._artifacts.get(event.step)) is None:
                key = artifact_key(self._table, event.step)
                created = create_progress_artifact(percent, key=key, description=line_of(event))
                self._artifacts[event.step] = cast(UUID, created)
            else:
                update_progress_artifact(artifact, percent, description=line_of(event))
        except Exception as error:
            self._log.warning("progress artifact not written: %s", type(error).__name__)
