"""How steps say what they are doing, without knowing who listens: a terminal, a Prefect run, a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Progress", "ProgressEvent", "line_of", "silent"]


@dataclass(frozen=True)
class ProgressEvent:
    """One sign of life.

    Args:
        step: Name of the step: "snapshot", "read", "train", "calibrate", "sample", "validate", "evaluate",
            "publish".
        done: Units done so far.
        total: Units in all; None while unknown.
        unit: What is counted: "rows", "epochs", "files".
        message: One short line, such as "loss 20.41, 12 s left"; never a cell of real data.

    """

    step: str
    done: float
    total: float | None = None
    unit: str = ""
    message: str = ""


Progress = Callable[[ProgressEvent], None]


def silent(event: ProgressEvent) -> None:
    """Listen to nothing."""


def line_of(event: ProgressEvent) -> str:
    """Say an event in one line of a log, such as "train: 12/40 epochs loss 20.41, 12 s left"."""
    count = f"{event.done:,.0f}" + (f"/{event.total:,.0f}" if event.total is not None else "")
    return " ".join(filter(None, (f"{event.step}: {count}", event.unit, event.message)))
