"""Exactly n valid rows, streamed, the same for the same seed whatever the number of shards.

A sample is a sequence of blocks of 4,096 rows. Every block has its own random generator, so it does not matter which
shard draws it; blocks are written in order. Rules that could not be met by construction are met by drawing again,
within a stated budget; the rows that a rule refused keep their place, so keys stay unique over all blocks.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.errors import ImpossibleRule
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.rules import Bounds, Rule, as_rules
from tabvae_core.synthesizers.base import BLOCK_ROWS, Synthesizer

__all__ = ["TableSink", "sample_to", "valid_blocks"]

_HOPELESS_DRAWS = 5 * BLOCK_ROWS


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
    given: Mapping[str, Any] | None = None,
    rules: Iterable[Rule | str] = (),
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
        given: Values fixed for every row.
        rules: Conditions that every row satisfies.
        bounds: What the rules say of single columns, met by construction where the method can.
        max_tries: Draws for each wanted row, on average, before a rule is called impossible.
        progress: Told of the rows written.

    Returns:
        Rows drawn in all, of which `n_rows` were kept.

    Raises:
        ImpossibleRule: The budget was spent; names the rule that refused most rows, and its acceptance rate.

    """
    if isinstance(model, Path):
        from tabvae_core.synthesizers.registry import load_bundle

        model = load_bundle(model)
    written = drawn = 0
    blocks = valid_blocks(
        model, n_rows, seed=seed, shards=shards, given=given, rules=rules, bounds=bounds, max_tries=max_tries
    )
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
    given: Mapping[str, Any] | None = None,
    rules: Iterable[Rule | str] = (),
    bounds: Mapping[str, Bounds] | None = None,
    max_tries: int = 100,
) -> Iterator[tuple[pa.Table, int]]:
    """Yield (valid rows, rows drawn for them) of each block, in order; see `sample_to`."""
    drawer = _BlockDrawer(model, n_rows, seed, given or {}, as_rules(rules), bounds or {}, max_tries)
    workers = shards or os.cpu_count() or 1
    with ThreadPoolExecutor(workers, initializer=_one_thread) as pool:
        # A bounded window: memory follows the shards, not the rows.
        window: deque[Future[tuple[pa.Table, int]]] = deque()
        try:
            for block in range(-(-n_rows // BLOCK_ROWS)):
                window.append(pool.submit(drawer.draw, block))
                if len(window) > workers:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()


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
        given: Mapping[str, Any],
        rules: Sequence[Rule],
        bounds: Mapping[str, Bounds],
        max_tries: int,
    ) -> None:
        self.model, self.n_rows, self.seed = model, n_rows, seed
        self.given, self.rules, self.bounds, self.max_tries = given, rules, bounds, max_tries

    def draw(self, block: int) -> tuple[pa.Table, int]:
        wanted = min(BLOCK_ROWS, self.n_rows - block * BLOCK_ROWS)
        first = self._attempt(block, 0, wanted)
        refused = [~_holds(rule, first) for rule in self.rules]
        missing = np.flatnonzero(np.logical_or.reduce(refused)) if refused else np.zeros(0, dtype=np.int64)
        drawn, kept, attempt = wanted, [first], 0
        source = np.arange(wanted)
        reserve, broken = wanted, np.array([int(r.sum()) for r in refused], dtype=np.int64)
        while len(missing):
            attempt += 1
            share = max(1 - len(missing) / wanted if attempt == 1 else reserve / drawn, 1e-3)
            more = self._attempt(block, attempt, min(BLOCK_ROWS, int(len(missing) / share * 1.2) + 16))
            refused = [~_holds(rule, more) for rule in self.rules]
            broken += np.array([int(r.sum()) for r in refused], dtype=np.int64)
            good = np.flatnonzero(~np.logical_or.reduce(refused))[: len(missing)]
            drawn += more.num_rows
            source[missing[: len(good)]] = sum(t.num_rows for t in kept) + np.arange(len(good))
            kept.append(more.take(pa.array(good)))
            missing = missing[len(good) :]
            reserve = wanted - len(missing)
            if len(missing) and drawn > max(self.max_tries * wanted, _HOPELESS_DRAWS):
                raise self._impossible(broken, drawn)
        if attempt == 0:
            return first, drawn
        table = pa.concat_tables(kept).take(pa.array(source))
        for name in self.model.row_keyed:
            index = table.schema.get_field_index(name)
            table = table.set_column(index, table.schema.field(index), first.column(name))
        return table.combine_chunks(), drawn

    def _attempt(self, block: int, attempt: int, rows: int) -> pa.Table:
        return self.model.sample_block(
            block, rows, seed=self.seed, attempt=attempt, given=self.given, bounds=self.bounds
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


def _holds(rule: Rule, table: pa.Table) -> npt.NDArray[np.bool_]:
    held = rule.evaluate(table)
    if isinstance(held, pa.ChunkedArray):
        held = held.combine_chunks()
    result: npt.NDArray[np.bool_] = held.to_numpy(zero_copy_only=False).astype(np.bool_)
    return result
