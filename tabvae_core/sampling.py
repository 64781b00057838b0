"""Exactly n valid rows, streamed, the same for the same seed whatever the number of shards.

A sample is a sequence of blocks of 4,096 rows. Every block has its own random generator, so it does not matter which
shard draws it; blocks are written in order. Rules that could not be met by construction are met by drawing again,
within a stated budget; the rows that a rule refused keep their place, so keys stay unique over all blocks. Where all
rows are alike, any row that is drawn again may take the place of any that was refused; a row with cells of its own,
from a given table, is drawn again with these cells.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.errors import ImpossibleRule
from tabvae_core.given import given_blocks, given_cells
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.rules import Bounds, Rule, as_rules
from tabvae_core.synthesizers.base import BLOCK_ROWS, Synthesizer
from tabvae_core.tables import TableSource, take_rows

__all__ = ["Condition", "TableSink", "sample_to", "valid_blocks"]

_log = logging.getLogger(__name__)

_HOPELESS_DRAWS = 5 * BLOCK_ROWS


class Condition(Protocol):
    """What rows must satisfy; a rule is one."""

    @property
    def text(self) -> str:
        """What it asks, for a person."""
        ...

    @property
    def columns(self) -> frozenset[str]:
        """Names of the columns that it reads."""
        ...

    def evaluate(self, data: pa.Table) -> pa.BooleanArray:
        """Test every row."""
        ...


class TableSink(Protocol):
    """Where sampled rows go."""

    def write(self, data: pa.Table) -> None:
        """Take in the next rows."""
        ...


def sample_to(
    sink: TableSink,
    model: Synthesizer | Path,
    n_rows: int,
    *,
    seed: int,
    shards: int | None = None,
    given: Mapping[str, Any] | pa.Table | TableSource | None = None,
    rules: Iterable[Rule | str] = (),
    conditions: Sequence[Condition] = (),
    bounds: Mapping[str, Bounds] | None = None,
    max_tries: int = 100,
    progress: Progress = silent,
) -> int:
    """Draw exactly `n_rows` rows that satisfy every rule, and write them in order.

    Args:
        sink: Written to, block by block.
        model: A synthesizer that has learned, or the folder of its bundle.
        n_rows: Rows wanted.
        seed: Seed of the sample.
        shards: Blocks drawn at the same time; None: one a core. Does not change the rows.
        given: Values fixed for every row; or a table of `n_rows` rows, whose cells are kept, in order, and whose nulls
            are filled (see `Synthesizer.sample_block`). A table is read as a stream.
        rules: Conditions that every row satisfies.
        conditions: Further ones, that are no rules of a spec.
        bounds: What the rules say of single columns, met by construction where the method can.
        max_tries: Draws for each wanted row before a rule is called impossible: on average, of a given table for each.
        progress: Told of the rows written.

    Returns:
        Rows drawn in all, of which `n_rows` were kept.

    Raises:
        DataError: A given table is empty, or holds cells that cannot become what its columns hold.
        ImpossibleRule: The budget was spent, or given cells break a rule; names the rule that refused most rows, and
            its acceptance rate.
        SpecError: What is given does not fit the model, or is not of `n_rows` rows.

    """
    if isinstance(model, Path):
        from tabvae_core.synthesizers.registry import load_bundle

        model = load_bundle(model)
    written = drawn = 0
    blocks = valid_blocks(
        model, n_rows, seed=seed, shards=shards, given=given, rules=rules, conditions=conditions, bounds=bounds,
        max_tries=max_tries,
    )  # fmt: skip
    for table, draws in blocks:
        sink.write(table)
        written, drawn = written + table.num_rows, drawn + draws
        progress(
            ProgressEvent("sample", written, n_rows, "rows", f"{100 * written / max(drawn, 1):.0f} % of draws valid")
        )
    return drawn


def valid_blocks(
    model: Synthesizer,
    n_rows: int,
    *,
    seed: int,
    shards: int | None = None,
    given: Mapping[str, Any] | pa.Table | TableSource | None = None,
    rules: Iterable[Rule | str] = (),
    conditions: Sequence[Condition] = (),
    bounds: Mapping[str, Bounds] | None = None,
    max_tries: int = 100,
) -> Iterator[tuple[pa.Table, int]]:
    """Yield (valid rows, rows drawn for them) of each block, in order; see `sample_to`."""
    drawer = _BlockDrawer(model, n_rows, seed, (*as_rules(rules), *conditions), bounds or {}, max_tries)
    parts = given_blocks({} if given is None else given, model.schema, n_rows, BLOCK_ROWS)
    workers = shards or os.cpu_count() or 1
    unlearned: Counter[str] = Counter()
    with ThreadPoolExecutor(workers, initializer=_one_thread) as pool:
        # A bounded window: memory follows the shards, not the rows.
        window: deque[Future[_Drawn]] = deque()
        try:
            for block, part in enumerate(parts):
                window.append(pool.submit(drawer.draw, block, part))
                if len(window) > workers:
                    yield _finished(window.popleft(), unlearned)
            while window:
                yield _finished(window.popleft(), unlearned)
        finally:
            for future in window:
                future.cancel()
    for name in filter(unlearned.get, model.schema.names):
        one, n = unlearned[name] == 1, f"{unlearned[name]:,}"
        said = "cell holds a value that was" if one else "cells hold values that were"
        then = "it is kept and conditions" if one else "they are kept and condition"
        _log.warning("%s: %s given %s not learned; %s nothing", name, n, said, then)


@dataclass(frozen=True)
class _Drawn:
    """A finished block.

    Args:
        table: Valid rows.
        draws: Rows drawn for them.
        unlearned: Given cells of values that were never learned, by column.

    """

    table: pa.Table
    draws: int
    unlearned: Mapping[str, int]


def _finished(future: Future[_Drawn], unlearned: Counter[str]) -> tuple[pa.Table, int]:
    """Wait for a block, and add up what it says of given cells."""
    drawn = future.result()
    unlearned.update(drawn.unlearned)
    return drawn.table, drawn.draws


def _one_thread() -> None:
    """Draw each block on one thread: shards use the cores, and sums come out the same for any number of them."""
    import torch

    torch.set_num_threads(1)


class _BlockDrawer:
    """Draws valid blocks; safe to use from several threads."""

    def __init__(
        self,
        model: Synthesizer,
        n_rows: int,
        seed: int,
        rules: Sequence[Condition],
        bounds: Mapping[str, Bounds],
        max_tries: int,
    ) -> None:
        self.model, self.n_rows, self.seed = model, n_rows, seed
        self.rules, self.bounds, self.max_tries = rules, bounds, max_tries

    def draw(self, block: int, given: Mapping[str, Any] | pa.Table) -> _Drawn:
        """Draw a block; `given` holds values for all rows, or is a table of as many rows as the block has."""
        wanted = min(BLOCK_ROWS, self.n_rows - block * BLOCK_ROWS)
        own = isinstance(given, pa.Table)
        first = self._attempt(block, 0, wanted, given)
        refused = self._refused(first)
        if own:
            self._check_given(block, given, refused)
        missing = np.flatnonzero(refused.any(axis=0))
        refused = refused[:, missing]
        broken, drawn, attempt, tries = refused.sum(axis=1), wanted, 0, 1
        kept, source = [first], np.arange(wanted)
        while len(missing):
            attempt += 1
            if own:
                copies = min(2 ** (attempt - 1), BLOCK_ROWS // len(missing), self.max_tries - tries)
                if copies < 1:
                    raise self._impossible_rows(block, missing, refused, tries)
                rows, tries = np.repeat(missing, copies), tries + copies
                more = self._attempt(block, attempt, len(rows), take_rows(given, rows))
                more = self._with_keys(more, take_rows(first, rows))
            else:
                share = max((wanted - len(missing)) / drawn, 1e-3)
                more = self._attempt(block, attempt, min(BLOCK_ROWS, int(len(missing) / share * 1.2) + 16), given)
            refused = self._refused(more)
            broken += refused.sum(axis=1)
            good = np.flatnonzero(~refused.any(axis=0))
            if own:
                places, at = np.unique(rows[good], return_index=True)
                good = good[at]
                refused = refused[:, np.isin(rows, places, invert=True)]
            else:
                good = good[: len(missing)]
                places = missing[: len(good)]
            source[places] = sum(t.num_rows for t in kept) + np.arange(len(good))
            kept.append(take_rows(more, good))
            drawn, missing = drawn + more.num_rows, np.setdiff1d(missing, places)
            if not own and len(missing) and drawn > max(self.max_tries * wanted, _HOPELESS_DRAWS):
                raise self._impossible(broken, drawn)
        unlearned = self.model.unlearned(given) if own else {}
        if attempt == 0:
            return _Drawn(first, drawn, unlearned)
        table = self._with_keys(take_rows(pa.concat_tables(kept), source), first)
        return _Drawn(table.combine_chunks(), drawn, unlearned)

    def _attempt(self, block: int, attempt: int, rows: int, given: Mapping[str, Any] | pa.Table) -> pa.Table:
        return self.model.sample_block(block, rows, seed=self.seed, attempt=attempt, given=given, bounds=self.bounds)

    def _refused(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Which rules refuse which rows, shape (rules, rows)."""
        refused = [~_holds(rule, table) for rule in self.rules]
        return np.stack(refused) if refused else np.zeros((0, table.num_rows), dtype=np.bool_)

    def _with_keys(self, table: pa.Table, first: pa.Table) -> pa.Table:
        """Give rows that were drawn again the keys that they had at first."""
        for name in self.model.row_keyed:
            index = table.schema.get_field_index(name)
            table = table.set_column(index, table.schema.field(index), first.column(name))
        return table

    def _check_given(self, block: int, given: pa.Table, refused: npt.NDArray[np.bool_]) -> None:
        """Refuse rows that no draw can save: all cells that a rule reads are given, and break it.

        Raises:
            ImpossibleRule: There is one.

        """
        if not refused.any():
            return
        cells = given_cells(given, self.model.schema, given.num_rows)
        for rule, rows in zip(self.rules, refused, strict=True):
            fixed = [cells[name].mask for name in rule.columns if name in cells]
            if len(fixed) < len(rule.columns) or not (hopeless := np.flatnonzero(np.all([rows, *fixed], axis=0))).size:
                continue
            raise ImpossibleRule(
                f"given cells make rows break rule {rule.text!r}; the first is {_numbered(block, hopeless)}",
                rule=rule.text,
                hint="change or empty these cells, or leave the rule out",
            )

    def _impossible_rows(
        self, block: int, missing: npt.NDArray[np.int64], refused: npt.NDArray[np.bool_], tries: int
    ) -> ImpossibleRule:
        """Name the rule that refused most of the last draws of the rows that are still missing."""
        acceptance = 1 - refused.mean(axis=1)
        worst = int(np.argmin(acceptance))
        rule = self.rules[worst].text
        return ImpossibleRule(
            f"rule {rule!r} cannot be met beside given cells: no draw of {tries:,} served {_numbered(block, missing)}",
            rule=rule,
            acceptance=float(acceptance[worst]),
            hint="change or empty given cells of these rows, relax the rule, or raise sample.max_tries",
        )

    def _impossible(self, broken: npt.NDArray[np.int64], drawn: int) -> ImpossibleRule:
        worst = int(np.argmax(broken))
        acceptance = 1 - float(broken[worst]) / drawn
        rule = self.rules[worst].text
        return ImpossibleRule(
            f"rule {rule!r} cannot be met: {100 * acceptance:.2f} % of {drawn:,} rows drawn satisfied it",
            rule=rule,
            acceptance=acceptance,
            hint="relax the rule, or raise sample.max_tries if rows that satisfy it are rare in the source",
        )


def _numbered(block: int, rows: npt.NDArray[np.int64]) -> str:
    """Name the first of a block's rows by its number in the sample."""
    return f"row {block * BLOCK_ROWS + int(rows[0]) + 1:,}, counted from 1"


def _holds(rule: Condition, table: pa.Table) -> npt.NDArray[np.bool_]:
    held = rule.evaluate(table)
    if isinstance(held, pa.ChunkedArray):
        held = held.combine_chunks()
    result: npt.NDArray[np.bool_] = held.to_numpy(zero_copy_only=False).astype(np.bool_)
    return result
