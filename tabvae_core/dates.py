"""Dates of a source: what `{date}` in its address and filters stands for, and the dates of a backfill."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

from tabvae_core.errors import SpecError
from tabvae_core.spec import RefreshSpec

__all__ = ["PLACEHOLDER", "dated", "parse_dates"]

PLACEHOLDER = "{date}"
_MOST_DATES = 1000
_RELATIVE = {"today": 0, "yesterday": 1}


def dated(spec: RefreshSpec, day: date | None = None) -> RefreshSpec:
    """Put a date into a source's address and filters.

    Args:
        spec: The refresh. One without a placeholder comes back as it is, unless a day is given.
        day: The date; None: `source.date`, where today and yesterday are those of UTC.

    Raises:
        SpecError: There is a placeholder and no date for it, or a date and no placeholder.

    """
    source = spec.source
    texts = (source.uri, *source.filters)
    if not any(PLACEHOLDER in text for text in texts):
        if day is None:
            return spec
        raise SpecError(
            f"neither source.uri nor source.filters holds {PLACEHOLDER}, so no date can be chosen",
            hint=f"write it where the date stands, such as day={PLACEHOLDER}/ in source.uri",
        )
    chosen = day or _date_of(source.date)
    uri, *filters = (text.replace(PLACEHOLDER, chosen.isoformat()) for text in texts)
    changes = {"uri": uri, "filters": tuple(filters), "date": chosen.isoformat()}
    return spec.model_copy(update={"source": source.model_copy(update=changes)})


def _date_of(text: str | None) -> date:
    if text is None:
        raise SpecError(
            f"source.uri or source.filters holds {PLACEHOLDER}, however there is no source.date",
            hint="set source.date to today, yesterday or a date, or name dates with --backfill",
        )
    if text in _RELATIVE:
        return datetime.now(UTC).date() - timedelta(days=_RELATIVE[text])
    return _parsed(text, "source.date")


def parse_dates(text: str) -> tuple[date, ...]:
    """Read dates and ranges, such as `2026-01-01..2026-01-07,2026-02-01`; both ends of a range belong to it.

    Returns:
        The dates in order, each once.

    Raises:
        SpecError: It is neither, ends before it begins, or names more than 1,000 dates.

    """
    found: set[date] = set()
    for part in text.split(","):
        first, separator, last = part.strip().partition("..")
        begin = _parsed(first, "--backfill")
        end = _parsed(last, "--backfill") if separator else begin
        if end < begin:
            raise SpecError(f"--backfill: {part.strip()} ends before it begins", hint="write the earlier date first")
        if len(found) + (end - begin).days >= _MOST_DATES:
            raise SpecError(f"--backfill names more than {_MOST_DATES:,} dates", hint="name them in several parts")
        found.update(begin + timedelta(days=k) for k in range((end - begin).days + 1))
    return tuple(sorted(found))


def _parsed(text: str, where: str) -> date:
    try:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text.strip()):
            raise ValueError
        return date.fromisoformat(text.strip())
    except ValueError:
        raise SpecError(
            f"{where}: {text.strip()!r} is no date",
            hint="dates are written 2026-01-31, ranges 2026-01-01..2026-01-07, lists with commas",
        ) from None
