"""Which of the rows that were drawn are kept, so that pairs of columns are as often what they are in the training rows.

A network's pairs of columns are a little off, and rows drawn by chance are as much again. So a few more rows are drawn
than are wanted, and those are left out whose pairs of cells are too many: a sample that is balanced on known totals, as
surveys draw it (Deville & Tillé, 2004), by backward elimination. Every row that is kept is one the network drew.

Numbers are looked at in bins of equally many training rows. Cells of a pair of columns that few training rows are in
are counted together, so nothing is known here of fewer rows than that, and rare rows are left to the network.

Shapes: n training rows, N drawn rows, S slots, P pairs of slots (each with itself, too), M counted cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["PairShares", "Selection"]

Codes = npt.NDArray[np.int64]

_MOST_BINS, _ROWS_A_CELL = 32, 40
"""Bins of a number, fewer where an average cell of two would have fewer rows."""
_LEAST_BINS = 4
_BY_NUMBER = -1
_MARGIN_WEIGHT = 64.0
"""Of what a slot is by itself, beside each of its pairs."""
_ROUNDS = 32
_FASTER_FIRST = 0.7
"""Rows left out by round r of R are (r / R) to the power of this, of all: the last ones are chosen with most care."""


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
        weights: Weight of each counted cell, shape (M,).

    """

    sizes: npt.NDArray[np.int64]
    token_codes: npt.NDArray[np.int16]
    starts: npt.NDArray[np.int64]
    places: npt.NDArray[np.float32]
    edges: npt.NDArray[np.float32]
    cells: npt.NDArray[np.int32]
    shares: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]

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
        self = cls(sizes, token_codes, starts, places, edges, np.zeros(0, np.int32), empty, empty)
        return self._counted(self.codes(tokens, np.asarray((low + high) / 2, np.float32)), least_rows)

    def _counted(self, codes: Codes, least_rows: int) -> Self:
        cells, shares, weights, first = [], [], [], 0
        for i, j in _pairs(len(self.sizes)):
            counts = np.bincount(codes[:, i] * self.sizes[j] + codes[:, j], minlength=self.sizes[i] * self.sizes[j])
            enough = counts >= least_rows
            cells.append(np.where(enough, first + np.cumsum(enough), first))
            others = counts[~enough].sum()
            # Of few rows in all, not even their number is kept.
            others = least_rows / 2 if 0 < others < least_rows else others
            shares.append(np.concatenate([[others], counts[enough]]) / len(codes))
            weights.append(np.full(len(shares[-1]), _MARGIN_WEIGHT if i == j else 1.0))
            first += len(shares[-1])
        joined = np.concatenate(shares).astype(np.float32), np.concatenate(weights).astype(np.float32)
        return type(self)(
            self.sizes, self.token_codes, self.starts, self.places, self.edges,
            np.concatenate(cells).astype(np.int32), *joined,
        )  # fmt: skip

    def codes(self, tokens: npt.NDArray[Any], values: npt.NDArray[np.float32]) -> Codes:
        """Codes (N, S) of rows, from their tokens and values, each (N, S)."""
        result: Codes = self.token_codes[self.starts + tokens].astype(np.int64)
        for slot in range(len(self.sizes)):
            rows = np.flatnonzero(result[:, slot] == _BY_NUMBER)
            if len(rows):
                place = self.places[self.starts[slot] + tokens[rows, slot]]
                number = np.where(np.isnan(place), values[rows, slot], place)
                result[rows, slot] = np.searchsorted(self.edges[slot], number, side="right")
        return result

    def cells_of(self, codes: Codes) -> Tensor:
        """Counted cells (N, P) of rows, int32, from their codes (N, S)."""
        first, parts = 0, []
        for i, j in _pairs(len(self.sizes)):
            parts.append(self.cells[first + codes[:, i] * self.sizes[j] + codes[:, j]])
            first += int(self.sizes[i] * self.sizes[j])
        return torch.from_numpy(np.stack(parts, axis=1))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What a bundle stores."""
        return dict(vars(self))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Rebuild from a bundle."""
        return cls(**arrays)


class Selection:
    """Keeps rows of one block, group by group; what a group has too many of, the next ones get fewer of.

    Args:
        known: Shares of the training rows.
        first_row: Number of the block's first row: shares of several blocks are rounded so that they add up.
        seed: Of the rounding, the same for all blocks of a sample.
        generator: Of the block's own.

    """

    def __init__(self, known: PairShares, first_row: int, seed: int, generator: torch.Generator) -> None:
        self._known, self._generator, self._row = known, generator, first_row
        self._shares, self._weights = torch.from_numpy(known.shares), torch.from_numpy(known.weights)
        whole = torch.Generator().manual_seed(seed)
        self._offset = torch.rand(len(self._shares), generator=whole)
        self._excess = torch.zeros(len(self._shares))

    def keep(self, tokens: npt.NDArray[Any], values: npt.NDArray[np.float32], wanted: int) -> npt.NDArray[np.bool_]:
        """Choose the wanted rows of a group, True in shape (N,), from the tokens and values (N, S) of all."""
        cells = self._known.cells_of(self._known.codes(tokens, values))
        target = self._up_to(self._row + wanted) - self._up_to(self._row)
        self._row += wanted
        weights = self._weights / (self._shares * wanted + 1)
        excess = self._excess + self._counts(cells) - target
        left = torch.ones(len(cells), dtype=torch.bool)
        surplus = len(cells) - wanted
        ends = [round(surplus * (r / _ROUNDS) ** _FASTER_FIRST) for r in range(_ROUNDS + 1)]
        for size in np.diff(ends).tolist():
            if not size:
                continue
            rows = torch.nonzero(left)[:, 0]
            # Only some compete: rows of the same kind would all be left out at once.
            chosen = torch.randperm(len(rows), generator=self._generator)[: max(4 * size, len(rows) // 2)]
            rows = rows[chosen]
            too_many = functional.embedding_bag(cells[rows], (weights * excess).unsqueeze(1), mode="sum")[:, 0]
            out = rows[too_many.topk(size).indices]
            left[out] = False
            excess -= self._counts(cells[out])
        self._excess = excess
        kept: npt.NDArray[np.bool_] = left.numpy()
        return kept

    def _up_to(self, row: int) -> Tensor:
        """Rows that each counted cell is to have of the first ones of the sample, whole numbers, shape (M,)."""
        return (self._shares.double() * row + self._offset).floor().float()

    def _counts(self, cells: Tensor) -> Tensor:
        return torch.bincount(cells.flatten(), minlength=len(self._shares)).float()


def _pairs(slots: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(slots) for j in range(i + 1)]
