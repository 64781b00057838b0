"""Which of two cells that were drawn is kept, so that pairs of columns are as often what they are in training rows.

A network's pairs of columns are a little off, and rows drawn by chance are as much again. So two cells are drawn
wherever one is wanted, and the second is taken where pairs come nearer by that: a sample that is balanced on known
totals, as surveys draw it (Deville & Tillé, 2004), while it is drawn. Either cell is one the network drew. Moves that
bring little are not made: each takes something from how evenly rows are spread over what the network knows of more
than two columns at once.

Numbers are looked at in bins of equally many training rows. Cells of a pair of columns that few training rows are in
are counted together, so nothing is known here of fewer rows than that, and rare rows are left to the network.

Shapes: n training rows, N drawn rows, S slots, P pairs of slots (each with itself, too), M counted cells.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Balance", "PairShares", "Walk"]

Codes = npt.NDArray[np.int64]

_MOST_BINS, _ROWS_A_CELL = 32, 40
"""Bins of a number, fewer where an average cell of two would have fewer rows."""
_LEAST_BINS = 4
_BY_NUMBER = -1
_MARGIN_WEIGHT = 8.0
"""Of what a slot is by itself, beside each of its pairs."""
_WORTHWHILE = 0.25
"""What a move must bring, in halves of chi-squared."""
_LEAST_TURNS, _AT_ONCE = 16, 64
"""Turns that rows are looked at in at least, and how many at once: more would all move to the same cells."""


@dataclass(frozen=True)
class PairShares:
    """Shares of the cells of all pairs of slots.

    Args:
        sizes: Codes of each slot, shape (S,).
        token_codes: Code of every token, slot by slot, -1 where its number says; shape (tokens of all slots,).
        starts: First token of each slot in there, shape (S,).
        places: Number that a token stands for, in quantile space, NaN where it carries its own or is none; as
            `token_codes`.
        edges: Between the bins of each slot's numbers, padded with infinity, shape (S, bins - 1).
        cells: Which counted cell each pair of codes is in, pair by pair.
        shares: Share of the training rows of each counted cell, shape (M,).

    """

    sizes: npt.NDArray[np.int64]
    token_codes: npt.NDArray[np.int16]
    starts: npt.NDArray[np.int64]
    places: npt.NDArray[np.float32]
    edges: npt.NDArray[np.float32]
    cells: npt.NDArray[np.int32]
    shares: npt.NDArray[np.float32]

    @classmethod
    def fit(
        cls,
        tokens: npt.NDArray[Any],
        low: npt.NDArray[np.float32],
        high: npt.NDArray[np.float32],
        levels: Sequence[int],
        token_values: Sequence[npt.NDArray[np.float32] | None],
        n_tokens: Sequence[int],
        least_rows: int,
    ) -> Self:
        """Count training rows.

        Args:
            tokens: Their tokens, shape (n, S).
            low: Lower edges of their values, shape (n, S).
            high: Upper edges.
            levels: Tokens of each slot that carry a value, length S.
            token_values: Number of each slot's exact tokens, see `TabularVAE`.
            n_tokens: Tokens of each slot, length S.
            least_rows: Cells of fewer rows are counted together.

        """
        rows, slots = tokens.shape
        bins = min(max(int(math.sqrt(rows / _ROWS_A_CELL)), _LEAST_BINS), _MOST_BINS)
        starts = np.concatenate([[0], np.cumsum(n_tokens)[:-1]]).astype(np.int64)
        token_codes, places = np.full(sum(n_tokens), _BY_NUMBER, np.int16), np.full(sum(n_tokens), np.nan, np.float32)
        edges, sizes = np.full((slots, bins - 1), np.inf, np.float32), np.zeros(slots, np.int64)
        for slot in range(slots):
            own = slice(starts[slot], starts[slot] + n_tokens[slot])
            known = token_values[slot]
            if known is not None:
                places[own][: len(known)] = known
            places[own][: levels[slot]] = np.nan
            is_number = np.isfinite(places[own])
            is_number[: levels[slot]] = True
            # Bins end where values do: within a value's cell nothing is known.
            ends = np.where(tokens[:, slot] < levels[slot], high[:, slot], places[own][tokens[:, slot]])
            ends = ends[is_number[tokens[:, slot]]]
            n_edges = 0
            if len(ends):
                between = np.unique(np.quantile(ends, np.linspace(0, 1, bins + 1)[1:-1], method="higher"))
                n_edges = len(between)
                edges[slot, :n_edges] = between
            codes = token_codes[own]
            others = np.flatnonzero(~is_number)
            counts = np.bincount(tokens[:, slot], minlength=n_tokens[slot])[others]
            frequent = others[np.argsort(-counts, kind="stable")[:bins]]
            # What is beyond the most frequent ones has one code.
            codes[others] = n_edges + 1 + len(frequent)
            codes[frequent] = n_edges + 1 + np.arange(len(frequent))
            sizes[slot] = n_edges + 2 + len(frequent)
        empty = np.zeros(0, np.float32)
        self = cls(sizes, token_codes, starts, places, edges, np.zeros(0, np.int32), empty)
        return self._counted(self.codes(tokens, np.asarray((low + high) / 2, np.float32)), least_rows)

    def _counted(self, codes: Codes, least_rows: int) -> Self:
        cells, shares, first = [], [], 0
        for i, j in _pairs(len(self.sizes)):
            counts = np.bincount(codes[:, i] * self.sizes[j] + codes[:, j], minlength=self.sizes[i] * self.sizes[j])
            enough = counts >= least_rows
            cells.append(np.where(enough, first + np.cumsum(enough), first))
            others = counts[~enough].sum()
            # Of few rows in all, not even their number is kept.
            others = least_rows / 2 if 0 < others < least_rows else others
            shares.append(np.concatenate([[others], counts[enough]]) / len(codes))
            first += len(shares[-1])
        counted = np.concatenate(cells).astype(np.int32), np.concatenate(shares).astype(np.float32)
        return type(self)(self.sizes, self.token_codes, self.starts, self.places, self.edges, *counted)

    def codes(self, tokens: npt.NDArray[Any], values: npt.NDArray[np.float32]) -> Codes:
        """Codes (N, S) of rows, from their tokens and values, each (N, S)."""
        return np.stack([self.codes_of(k, tokens[:, k], values[:, k]) for k in range(len(self.sizes))], axis=1)

    def codes_of(self, slot: int, tokens: npt.NDArray[Any], values: npt.NDArray[np.float32]) -> Codes:
        """Codes of cells of a slot, from their tokens and values, all of one shape."""
        at = self.starts[slot] + tokens
        result: Codes = self.token_codes[at].astype(np.int64)
        numbers = result == _BY_NUMBER
        if numbers.any():
            place = self.places[at[numbers]]
            number = np.where(np.isnan(place), values[numbers], place)
            result[numbers] = np.searchsorted(self.edges[slot], number, side="right")
        return result

    def after(self, others: Sequence[int], slot: int) -> _Pairs:
        """Pairs of a slot with those before it, in an order that they are drawn in, and with itself."""
        key = (*others, slot)
        if key not in self._after:
            self._after[key] = _Pairs.of(self, key)
        return self._after[key]

    @cached_property
    def _after(self) -> dict[tuple[int, ...], _Pairs]:
        return {}

    @cached_property
    def grids(self) -> npt.NDArray[np.int64]:
        """Where the grid of each pair begins in `cells`, and where the last one ends, shape (P + 1,)."""
        sizes = [int(self.sizes[i] * self.sizes[j]) for i, j in _pairs(len(self.sizes))]
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @cached_property
    def firsts(self) -> npt.NDArray[np.int64]:
        """First counted cell of each pair, that of all cells of few rows, and how many there are, shape (P + 1,)."""
        return np.concatenate([[0], np.maximum.reduceat(self.cells, self.grids[:-1]) + 1]).astype(np.int64)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What a bundle stores."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Rebuild from a bundle."""
        return cls(*(arrays[field.name] for field in dataclasses.fields(cls)))


@dataclass(frozen=True)
class _Pairs:
    """Pairs of one slot with k - 1 others and with itself, and the C counted cells of these pairs alone.

    Args:
        by_own: What the slot's code counts for where a row is in the grid of each pair, shape (k,).
        by_other: What the other's code counts for, shape (k - 1,).
        begin: Where the grids begin, shape (k,).
        shift: From counted cells to those of these pairs, shape (k,).
        counted: Which counted cells these are, shape (C,).
        shares: Of the training rows, shape (C,).
        own: How many of them are of the slot by itself, which come last.

    """

    by_own: npt.NDArray[np.int64]
    by_other: npt.NDArray[np.int64]
    begin: npt.NDArray[np.int64]
    shift: npt.NDArray[np.int32]
    counted: npt.NDArray[np.int32]
    shares: npt.NDArray[np.float32]
    own: int

    @classmethod
    def of(cls, known: PairShares, slots: Sequence[int]) -> Self:
        """Those of the last of some slots with the others."""
        *others, slot = slots
        before = np.array(others, np.int64)
        pairs = np.array([*(_pair(slot, other) for other in others), _pair(slot, slot)])
        first, sizes = known.firsts[pairs].astype(np.int32), np.diff(known.firsts)[pairs]
        counted = np.concatenate([np.arange(n, dtype=np.int32) + k for k, n in zip(first, sizes, strict=True)])
        return cls(
            by_own=np.append(np.where(before < slot, known.sizes[before], 1), known.sizes[slot] + 1),
            by_other=np.where(before < slot, 1, known.sizes[slot]),
            begin=known.grids[pairs],
            shift=(np.cumsum(sizes) - sizes - first).astype(np.int32),
            counted=counted,
            shares=known.shares[counted],
            own=int(sizes[-1]),
        )

    def weights(self, rows: int) -> npt.NDArray[np.float32]:
        """Of the squares of what cells have too many of some rows, as in chi-squared, shape (C,)."""
        weights = np.float32(1) / (self.shares * np.float32(rows) + np.float32(1))
        weights[-self.own :] *= _MARGIN_WEIGHT
        return weights

    def cells(self, known: PairShares, others: Codes, own: Codes) -> npt.NDArray[np.int32]:
        """Cells (N, k) of these pairs that rows are in, by the codes of the others (N, k - 1) and of the slot, (N,)."""
        at = own[:, None] * self.by_own + self.begin
        at[:, :-1] += others * self.by_other
        cells: npt.NDArray[np.int32] = known.cells[at] + self.shift
        return cells


class Balance:
    """Makes up in a row for what pairs of earlier rows of its block have too many of.

    Args:
        known: Shares of the training rows.
        first_row: Number of the block's first row: shares of several blocks are rounded so that they add up.
        seed: Of the rounding, the same for all blocks of a sample.
        generator: Of the block's own.
        orders: The slots, in each of the orders that they are drawn in.

    """

    def __init__(
        self,
        known: PairShares,
        first_row: int,
        seed: int,
        generator: torch.Generator,
        orders: Sequence[Sequence[int]],
    ) -> None:
        self.known, self._row, self._orders = known, first_row, orders
        self._rng = np.random.default_rng(int(torch.randint(1 << 62, (), generator=generator)))
        self._offset = np.random.default_rng(seed).random(len(known.shares))
        self.excess = np.zeros(len(known.shares), np.float32)

    def walk(self, rows: int, order: int) -> Walk:
        """Begin with the next rows, which are drawn side by side, slot by slot in one of the orders."""
        shares = self.known.shares.astype(np.float64)
        # Whole numbers, so that cells of less than a row are in as many blocks as they should.
        before, after = (np.floor(shares * row + self._offset) for row in (self._row, self._row + rows))
        self.excess -= (after - before).astype(np.float32)
        self._row += rows
        return Walk(self, self._orders[order], rows, self._rng)


class Walk:
    """Chooses the cells of N rows, slot by slot; see `drawing.Choosing`.

    Args:
        balance: What the rows are to make up for.
        order: The slots in the order that they are drawn in.
        rows: N.
        rng: Of the order in which rows are looked at.

    """

    def __init__(self, balance: Balance, order: Sequence[int], rows: int, rng: np.random.Generator) -> None:
        self._balance, self._order, self._rng = balance, order, rng
        self._codes = np.zeros((rows, len(order)), np.int64)

    def choose(self, slot: int, tokens: Tensor, values: Tensor) -> Tensor:
        """Choose one of two tokens and values of the next slot, each (N, 2); whether it is the second, (N,)."""
        known, excess_of, before = self._balance.known, self._balance.excess, self._codes[:, :slot]
        place = self._order[slot]
        pairs, codes = known.after(self._order[:slot], place), known.codes_of(place, tokens.numpy(), values.numpy())
        first = pairs.cells(known, before, codes[:, 0])
        excess = excess_of[pairs.counted]
        excess += np.bincount(first.ravel(), minlength=len(excess))
        differ = self._rng.permutation(np.flatnonzero(codes[:, 0] != codes[:, 1]))
        second = pairs.cells(known, before[differ], codes[differ, 1])
        moved = np.zeros(len(codes), np.bool_)
        moved[differ] = _move(first[differ], second, excess, pairs.weights(len(codes)))
        excess_of[pairs.counted] = excess
        self._codes[:, slot] = np.where(moved, codes[:, 1], codes[:, 0])
        return torch.from_numpy(moved)


def _move(
    first: npt.NDArray[np.int32],
    second: npt.NDArray[np.int32],
    excess: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
) -> npt.NDArray[np.bool_]:
    """Tell where the second of two cells is to be taken, since chi-squared gets smaller by enough.

    Args:
        first: Counted cells of each pair, shape (n, k).
        second: Those of the other choice, shape (n, k).
        excess: Rows that counted cells have too many with the first ones, shape (C,); put right where rows move.
        weights: Of the squares of that, shape (C,).

    Returns:
        Shape (n,).

    """
    rows, pairs = first.shape
    both = np.concatenate([first, second], axis=1)
    signs = np.repeat(np.array([1, -1], np.float32), pairs)
    brings = weights[both]
    least = _WORTHWHILE + brings.sum(axis=1) / 2
    brings *= signs
    moved = np.zeros(rows, np.bool_)
    at_once = max(1, min(_AT_ONCE, rows // _LEAST_TURNS))
    tiled = np.tile(signs, at_once)
    for start in range(0, rows, at_once):
        here = both[start : start + at_once]
        gains = np.einsum("ij,ij->i", brings[start : start + at_once], excess[here])
        taken = gains > least[start : start + at_once]
        moved[start : start + at_once] = taken
        cells = here[taken].ravel()
        np.subtract.at(excess, cells, tiled[: len(cells)])
    return moved


def _pairs(slots: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(slots) for j in range(i + 1)]


def _pair(one: int, other: int) -> int:
    """Number of a pair among `_pairs`."""
    high, low = max(one, other), min(one, other)
    return high * (high + 1) // 2 + low
