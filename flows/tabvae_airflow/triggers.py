"""Waiting for a trainer without a worker slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

__all__ = ["TrainingTrigger"]

_MOST_MISSES = 5
"""Looks in a row at a store that does not answer before the task hears of it: at 30 s each, a restart of the store."""


class TrainingTrigger(BaseTrigger):
    """Fire when the training of a run has left its record, of success or failure, in the workspace.

    Args:
        spec: The refresh as a mapping; of it only the workspace is read.
        run_id: Names the run.
        poll_seconds: Time between two looks.

    """

    def __init__(self, spec: Mapping[str, Any], run_id: str, poll_seconds: float) -> None:
        super().__init__()
        self.spec = spec
        self.run_id = run_id
        self.poll_seconds = poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Name the class and its arguments, for the triggerer's own process."""
        arguments = {"spec": dict(self.spec), "run_id": self.run_id, "poll_seconds": self.poll_seconds}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until the record stands. Storage is read in a thread: other triggers share this event loop."""
        from tabvae_core.errors import StorageError
        from tabvae_core.remote import outcome
        from tabvae_core.spec import parse_spec

        spec, misses = parse_spec(self.spec), 0
        while misses < _MOST_MISSES:
            try:
                if await asyncio.to_thread(outcome, spec, self.run_id) is not None:
                    yield TriggerEvent({"run_id": self.run_id})
                    return
                misses = 0
            except StorageError as error:
                misses, reason = misses + 1, str(error)
                self.log.warning("%s", reason)
            await asyncio.sleep(self.poll_seconds)
        yield TriggerEvent({"run_id": self.run_id, "storage": reason})
