"""A step's progress as lines of its task's log."""

from __future__ import annotations

import time
from typing import Any

from tabvae_core.progress import ProgressEvent, line_of

__all__ = ["TaskLog"]

_EVERY = 15.0
"""Seconds between lines of one step."""


class TaskLog:
    """Listens to a step; its first, last, and every so often another event become lines.

    Args:
        log: The task's logger.

    """

    def __init__(self, log: Any) -> None:
        self._log = log
        self._said: dict[str, float] = {}

    def __call__(self, event: ProgressEvent) -> None:
        """Hear of one event."""
        now, ended = time.monotonic(), event.total is not None and event.done >= event.total
        if ended or now - self._said.get(event.step, -_EVERY) >= _EVERY:
            self._said[event.step] = now
            self._log.info("%s", line_of(event))
