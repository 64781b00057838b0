"""A flow of somebody else, started by the event of a release."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed


@flow
def take_release(target: str, version: str, into: str) -> State[Any]:
    """Say what it was started with."""
    return Completed(message=f"{target} {version} {into}")
