"""What became of each of several refreshes: the tables of a set, the dates of a backfill."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tabvae_core.errors import GateRefused, TabvaeError
from tabvae_core.references import ReleaseRef

__all__ = ["Outcome", "attempt", "failed", "released", "summary", "worst_exit_code"]

_WORST_FIRST = (130, 1, 6, 3, 2, 5, 4)
"""Exit codes: what stops a machine before what stops a table, and a refusal, which is a gate at work, last."""
_ORDER = ("published", "unchanged", "refused", "failed")


class Outcome(BaseModel):
    """One refresh that has ended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str
    """The table, or the date of a backfill."""
    outcome: Literal["published", "unchanged", "refused", "failed"]
    detail: str
    """The version, or one line that says what refused or failed."""
    seconds: float
    exit_code: int = 0

    @property
    def row(self) -> dict[str, Any]:
        """The same for a person."""
        return {"table": self.table, "outcome": self.outcome, "seconds": round(self.seconds, 1), "detail": self.detail}


def released(table: str, release: ReleaseRef, seconds: float) -> Outcome:
    """Describe a refresh that ended well."""
    outcome: Literal["published", "unchanged"] = "unchanged" if release.unchanged else "published"
    return Outcome(table=table, outcome=outcome, detail=f"version {release.version}", seconds=seconds)


def failed(table: str, message: str, exit_code: int, seconds: float) -> Outcome:
    """Describe a refresh that did not."""
    outcome: Literal["refused", "failed"] = "refused" if exit_code == GateRefused.exit_code else "failed"
    return Outcome(table=table, outcome=outcome, detail=message, seconds=seconds, exit_code=exit_code)


def attempt(table: str, run: Callable[[], ReleaseRef]) -> Outcome:
    """Run a refresh; an error of ours becomes its outcome."""
    started = time.monotonic()
    try:
        release = run()
    except TabvaeError as error:
        return failed(table, error.message, error.exit_code, time.monotonic() - started)
    return released(table, release, time.monotonic() - started)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Say in one line how many came out how, and name those that did not end well."""
    counted = Counter[str](one.outcome for one in outcomes)
    parts = [f"{counted[kind]} {kind}" for kind in _ORDER if counted[kind]]
    bad = [one.table for one in outcomes if one.exit_code]
    return ", ".join(parts) + (f": {', '.join(bad)}" if bad else "")


def worst_exit_code(outcomes: Sequence[Outcome]) -> int:
    """Exit code of the worst outcome; 0 where all ended well."""
    codes = {one.exit_code for one in outcomes} - {0}
    return next((code for code in _WORST_FIRST if code in codes), min(codes, default=0))
