"""The ledger: what all trainings on one source have spent, and whether another one fits into the total.

    LEDGER/
      privacy-ledger.jsonl        one line a spending, never changed: number, hash of the line before, run, cost
      privacy-ledger.head.json    how many lines there are, and the hash of the last one

LEDGER is the target, or `privacy.ledger` where several specs share a source. A line is written before training, with
what the training may cost, and a second one after it, with what it did cost; of the two the second counts. A run that
trained has spent, whatever a gate says later. A run that is started again under its id spends once.

Costs add up as curves (`privacy.accounting`). A line without a curve, of a training that did not get to its end, adds
its epsilon and delta as they are.

Lines are chained by hashes, and manifests of releases name the line that they rest on, so an edit, a removed or
exchanged line, or a cut end is noticed. Who can write all of it, releases included, can forge all of it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tabvae_core import lake as store
from tabvae_core.errors import BudgetExceeded, DataError, PublishConflict
from tabvae_core.lake import put_if_match, read_with_etag
from tabvae_core.privacy.accounting import Loss
from tabvae_core.spec import PrivacySpec, RefreshSpec, StorageSpec

__all__ = ["Entry", "Ledger", "Mark", "total"]

LEDGER_FILE, HEAD_FILE = "privacy-ledger.jsonl", "privacy-ledger.head.json"
_TRIES = 5
"""Times that a line is written anew when another writer was first."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(_Document):
    """One line."""

    number: int
    """From 1 on."""
    previous: str
    """sha256 of the line before; empty for the first."""
    at: str
    """ISO 8601, UTC."""
    event: Literal["reserved", "spent"]
    run_id: str
    source: str
    """URI of the rows."""
    method: str
    epsilon: float
    delta: float
    loss: dict[str, Any] | None = None
    """The curve, as `Loss.to_json` writes it."""


class Mark(_Document):
    """A place in a ledger that a release rests on."""

    entries: int
    sha256: str


class Ledger:
    """The ledger of a folder.

    Args:
        uri: The folder.
        storage: Access to it.

    """

    def __init__(self, uri: str, storage: StorageSpec | None = None) -> None:
        self.uri, self._storage = store.join_uri(uri, LEDGER_FILE), storage
        self._head = store.join_uri(uri, HEAD_FILE)

    @classmethod
    def of(cls, spec: RefreshSpec) -> Ledger:
        """The ledger that a spec writes to: `privacy.ledger`, else its target."""
        return cls(spec.privacy.ledger or spec.target.uri, spec.target.storage)

    def entries(self, marks: Iterable[Mark] = ()) -> tuple[Entry, ...]:
        """Read all lines and check that none was changed.

        Args:
            marks: What releases say of the ledger.

        Raises:
            DataError: A line was edited, removed, exchanged or cut off.

        """
        return tuple(entry for entry, _ in self._read(marks)[0])

    def reserve(self, run_id: str, spec: RefreshSpec, planned: Loss | None, marks: Iterable[Mark] = ()) -> None:
        """Write down what a training may cost, before it looks at a row; a run that stands there has paid.

        Args:
            run_id: The run.
            spec: Source, method, privacy.
            planned: Its cost as a curve, where that is known before.
            marks: What releases say of the ledger.

        Raises:
            BudgetExceeded: All trainings together would cost more than the spec's total.
            DataError: The ledger was tampered with.

        """
        privacy, marks = spec.privacy, tuple(marks)
        assert privacy.epsilon is not None

        def line(entries: Sequence[Entry]) -> dict[str, Any] | None:
            if any(entry.run_id == run_id for entry in entries):
                return None
            made = _fields("reserved", run_id, spec, planned)
            # The place in the chain does not matter to the sum.
            asked = [*entries, Entry(number=0, previous="", at="", **made)]
            _check_total(entries, asked, privacy, self.uri)
            return made

        self._append(line, marks)

    def settle(self, run_id: str, spec: RefreshSpec, spent: Loss) -> Mark:
        """Write down what a training has cost, once.

        Returns:
            The place of the line, for the release.

        """

        def line(entries: Sequence[Entry]) -> dict[str, Any] | None:
            done = any(entry.run_id == run_id and entry.event == "spent" for entry in entries)
            return None if done else _fields("spent", run_id, spec, spent)

        self._append(line, ())
        return self.mark(run_id)

    def mark(self, run_id: str) -> Mark:
        """Find the last line of a run.

        Raises:
            DataError: There is none, or the ledger was tampered with.

        """
        lines, _ = self._read(())
        for entry, text in reversed(lines):
            if entry.run_id == run_id:
                return Mark(entries=entry.number, sha256=_sha256(text))
        raise DataError(
            f"{store.safe_uri(self.uri)} has no line of run {run_id}", hint="restore the ledger from a backup"
        )

    def _append(self, make: Callable[[Sequence[Entry]], dict[str, Any] | None], marks: Iterable[Mark]) -> None:
        for attempt in range(_TRIES):
            lines, etag = self._read(marks)
            fields = make([entry for entry, _ in lines])
            if fields is None:
                return
            previous = _sha256(lines[-1][1]) if lines else ""
            at = datetime.now(UTC).isoformat(timespec="microseconds")
            entry = Entry(number=len(lines) + 1, previous=previous, at=at, **fields)
            text = json.dumps(entry.model_dump(mode="json"), allow_nan=False)
            data = "".join(f"{one}\n" for one in (*(old for _, old in lines), text)).encode()
            try:
                put_if_match(self.uri, data, etag, self._storage)
            except PublishConflict:
                if attempt == _TRIES - 1:
                    raise
                continue
            head = Mark(entries=entry.number, sha256=_sha256(text))
            store.write_json(self._head, head.model_dump(mode="json"), self._storage)
            return

    def _read(self, marks: Iterable[Mark]) -> tuple[list[tuple[Entry, str]], str | None]:
        # The head first: writers write it after their line, so it is never ahead of lines that are read later.
        head = self._head_mark()
        found = read_with_etag(self.uri, self._storage)
        texts = [] if found is None else found[0].decode("utf-8", "replace").splitlines()
        lines: list[tuple[Entry, str]] = []
        for number, text in enumerate(texts, start=1):
            try:
                entry = Entry.model_validate_json(text)
                if entry.loss is not None:
                    Loss.from_json(entry.loss)
            except (ValidationError, ValueError):
                raise self._tampered(f"line {number} is not a line of a ledger") from None
            if entry.number != number or entry.previous != (_sha256(texts[number - 2]) if number > 1 else ""):
                raise self._tampered(f"line {number} does not follow the line before it")
            lines.append((entry, text))
        for mark in (*head, *marks):
            if mark.entries > len(lines):
                raise self._tampered(f"it has {len(lines)} lines, and had {mark.entries} before")
            if mark.entries and _sha256(lines[mark.entries - 1][1]) != mark.sha256:
                raise self._tampered(f"line {mark.entries} is not what it was")
        return lines, None if found is None else found[1]

    def _head_mark(self) -> tuple[Mark, ...]:
        if not store.exists(self._head, self._storage):
            return ()
        try:
            return (Mark.model_validate(store.read_json(self._head, self._storage)),)
        except ValidationError:
            raise self._tampered(f"{HEAD_FILE} is damaged") from None

    def _tampered(self, what: str) -> DataError:
        return DataError(
            f"the privacy ledger {store.safe_uri(self.uri)} was changed: {what}",
            hint="restore it from a backup; nothing is learned from the source until its sum is known",
        )


def total(entries: Iterable[Entry], delta: float) -> float:
    """Epsilon of all trainings together at a delta; infinite where their deltas use it up."""
    last = {entry.run_id: entry for entry in entries}
    curves, epsilon, left = Loss(), 0.0, delta
    for entry in last.values():
        if entry.loss is None:
            epsilon, left = epsilon + entry.epsilon, left - entry.delta
        else:
            curves = curves + Loss.from_json(entry.loss)
    return math.inf if left < 0 else epsilon + curves.epsilon(left)


def total_delta(entries: Iterable[Entry], privacy: PrivacySpec | None) -> float:
    """Delta at which a ledger is summed: the spec's, else the largest of its lines."""
    if privacy is not None and privacy.epsilon is not None:
        return privacy.total_delta or privacy.delta
    return max((entry.delta for entry in entries), default=1e-5)


def _check_total(before: Sequence[Entry], asked: Sequence[Entry], privacy: PrivacySpec, uri: str) -> None:
    if privacy.total_epsilon is None:
        return
    delta = total_delta(asked, privacy)
    wanted, spent = total(asked, delta), total(before, delta)
    if wanted > privacy.total_epsilon * (1 + 1e-9):
        runs = len({entry.run_id for entry in before})
        raise BudgetExceeded(
            f"privacy budget: {runs} training{'' if runs == 1 else 's'} of this source spent epsilon {spent:.3g} of "
            f"{privacy.total_epsilon:g} (delta {delta:g}), and with this one it would be {wanted:.3g}",
            hint=f"`tabvae budget {store.safe_uri(uri).removesuffix('/' + LEDGER_FILE)}` shows the ledger; lower "
            "privacy.epsilon, or decide on a higher privacy.total_epsilon",
        )


def _fields(event: str, run_id: str, spec: RefreshSpec, loss: Loss | None) -> dict[str, Any]:
    return {
        "event": event,
        "run_id": run_id,
        "source": store.safe_uri(spec.source.uri),
        "method": spec.model.method,
        "epsilon": spec.privacy.epsilon,
        "delta": spec.privacy.delta,
        "loss": None if loss is None else loss.to_json(),
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
