"""Backfill: a release for each of several dates of a source, in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tabvae_flows.console import notice

if TYPE_CHECKING:
    from tabvae_core.outcomes import Outcome
    from tabvae_core.references import ReleaseRef
    from tabvae_core.spec import RefreshSpec

__all__ = ["run_backfill"]


def run_backfill(spec: RefreshSpec, dates: str, run: Callable[[RefreshSpec], ReleaseRef]) -> list[Outcome]:
    """Refresh for each date, the earliest first; one that fails or is refused does not stop the others.

    Args:
        spec: The refresh, with `{date}` in the source's address or filters.
        dates: Dates and ranges, such as `2026-01-01..2026-01-07,2026-02-01`.
        run: Runs one refresh.

    Raises:
        SpecError: The dates cannot be read, or the source has no place for one.

    """
    from tabvae_core.dates import dated, parse_dates
    from tabvae_core.outcomes import attempt

    days = [(day.isoformat(), dated(spec, day)) for day in parse_dates(dates)]
    before, outcomes = _current_date(spec), []
    for day, one in days:
        notice(f"{day}: {one.source.uri}")
        outcomes.append(attempt(day, lambda one=one: run(one)))  # type: ignore[misc]
        if outcomes[-1].exit_code:
            notice(f"{day}: {outcomes[-1].outcome}: {outcomes[-1].detail}")
    after = _current_date(spec)
    if before and after and after < before:
        notice(f"the current version is now that of {after}, it was that of {before}; `tabvae rollback` moves it back")
    return outcomes


def _current_date(spec: RefreshSpec) -> str | None:
    """Date of the source behind the current release."""
    from tabvae_core import release

    if release.current(spec.target) is None:
        return None
    source: dict[str, str | None] = release.read_manifest(spec.target).spec.get("source", {})
    return source.get("date")
