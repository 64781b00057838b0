"""Rows and conditions of `ctgan`: what it learns in, and training-by-sampling.

A condition is one value of one category, as an index over the values of all of them. Training draws the category at
random and the value by its log-frequency, and a real row that has it, so that rare values are seen (Xu et al., 2019,
section 4.3); sampling draws the value by its frequency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tabvae_core.codecs.base import Encoded
from tabvae_core.codecs.flat import FlatTable
from tabvae_core.codecs.modes import Modes
from tabvae_core.models.ctgan import RowLayout, draw

__all__ = ["Conditions", "RowCodec", "pick"]


@dataclass(frozen=True)
class RowCodec:
    """Encoded rows to what the networks see, and back.

    Args:
        flat: Numbers and categories.
        modes: Of each number.
        frequencies: Training rows of each value of all categories, one after another, shape (n_conditions,).

    """

    flat: FlatTable
    modes: tuple[Modes, ...]
    frequencies: npt.NDArray[np.float64]

    @classmethod
    def fit(
        cls, flat: FlatTable, encoded: Encoded, *, most_modes: int, min_rows: int, seed: int
    ) -> tuple[Self, Tensor, Tensor]:
        """Find modes and frequencies.

        Args:
            flat: Numbers and categories.
            encoded: Training rows.
            most_modes: Modes of a number at most.
            min_rows: Rows of a mode at least.
            seed: Of the mixtures, and of the mode that each value is told to be of.

        Returns:
            The codec; the rows' places within modes, float32 (n, numbers), and codes of modes and categories,
            int32 (n, numbers + categories).

        """
        numbers, categories = flat.flatten(encoded)
        random = np.random.default_rng(seed)
        modes = []
        places = np.zeros(numbers.shape, np.float32)
        codes = np.zeros((len(numbers), flat.n_numbers + max(1, len(flat.cardinalities))), np.int32)
        for k in range(flat.n_numbers):
            known = numbers[~np.isnan(numbers[:, k]), k]
            modes.append(Modes.fit(known, most=most_modes, min_rows=min_rows, seed=seed))
            places[:, k], codes[:, k] = modes[k].encode(numbers[:, k], random)
        if flat.cardinalities:
            codes[:, flat.n_numbers :] = categories
        layout = cls._layout(flat, modes)
        counts = [np.bincount(codes[:, k], minlength=n) for k, n in enumerate(layout.sizes)][flat.n_numbers :]
        frequencies = np.concatenate(counts).astype(np.float64)
        return cls(flat, tuple(modes), frequencies), torch.from_numpy(places), torch.from_numpy(codes)

    @property
    def layout(self) -> RowLayout:
        """Of a row. A table of numbers alone gets a category of one value, so that there always is a condition."""
        return self._layout(self.flat, self.modes)

    @staticmethod
    def _layout(flat: FlatTable, modes: Sequence[Modes]) -> RowLayout:
        return RowLayout(tuple(len(one) for one in modes), flat.cardinalities or (1,))

    @property
    def _drawable(self) -> tuple[npt.NDArray[np.bool_], ...]:
        return self.flat.drawable or (np.ones(1, np.bool_),)

    def sampling_chances(self) -> Tensor:
        """Chances of conditions that rows are drawn with, float64 (n_conditions,): frequencies of what may be drawn."""
        chances = np.zeros(0)
        start = 0
        for drawable in self._drawable:
            own = self.frequencies[start : start + len(drawable)] * drawable
            own = own if own.any() else drawable.astype(np.float64)
            chances = np.concatenate([chances, own / own.sum()])
            start += len(drawable)
        return torch.from_numpy(chances)

    def decode(self, made: Tensor, uniform: Tensor) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Tokens and values of the generator's output (B, width), by a number in [0, 1) for each one-hot part."""
        n = self.flat.n_numbers
        drawable = np.concatenate([np.ones(sum(map(len, self.modes)), np.bool_), *self._drawable])
        codes = draw(made, self.layout, torch.from_numpy(drawable), uniform).numpy()
        places = made[:, :n].numpy()
        numbers = np.zeros(places.shape)
        for k, modes in enumerate(self.modes):
            numbers[:, k] = modes.decode(places[:, k], codes[:, k])
        return self.flat.decode(numbers, codes[:, n : n + len(self.flat.cardinalities)])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What a bundle stores beside the codecs."""
        parts = {
            f"modes.{name}": np.concatenate([np.zeros(0), *(getattr(modes, name) for modes in self.modes)])
            for name in ("mean", "deviation", "weight")
        }
        sizes = np.array([len(modes) for modes in self.modes], np.int64)
        return parts | {"modes.sizes": sizes, "conditions.frequencies": self.frequencies}

    @classmethod
    def restore(cls, flat: FlatTable, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Rebuild from what a bundle stored."""
        cuts = arrays["modes.sizes"].cumsum()[:-1]
        parts = [np.split(arrays[f"modes.{name}"], cuts) for name in ("mean", "deviation", "weight")]
        modes = tuple(Modes(*one) for one in zip(*parts, strict=True)) if flat.n_numbers else ()
        return cls(flat, modes, arrays["conditions.frequencies"])


class Conditions:
    """Draws conditions, and the training rows that have them.

    Args:
        categories: Of the training rows, int64 (n, C), C at least 1.
        cardinalities: Of the categories.

    """

    def __init__(self, categories: Tensor, cardinalities: Sequence[int]) -> None:
        counts = [torch.bincount(categories[:, c], minlength=size) for c, size in enumerate(cardinalities)]
        chances = [torch.log1p(own) / torch.log1p(own).sum() for own in counts]
        self._counts = torch.cat(counts)
        self._first = self._counts.cumsum(0) - self._counts
        # Rows in the order of their values, one category after another: a condition's rows are neighbours.
        self._rows = categories.T.argsort(dim=1, stable=True).reshape(-1).to(torch.int32)
        self._seen = self._counts.nonzero().squeeze(1)
        self._edges = torch.cat(chances)[self._seen].cumsum(0)

    def draw(self, n: int, random: torch.Generator) -> Tensor:
        """Conditions, int64 (n,)."""
        uniform = torch.rand(n, generator=random, device=self._edges.device)
        return self._seen[pick(self._edges, uniform)]

    def rows(self, condition: Tensor, random: torch.Generator) -> Tensor:
        """A row, chosen at random, that has each condition, int64 (n,)."""
        count = self._counts[condition]
        among = (torch.rand(len(condition), generator=random, device=count.device) * count).long()
        return self._rows[self._first[condition] + torch.minimum(among, count - 1)].long()


def pick(edges: Tensor, uniform: Tensor) -> Tensor:
    """Index, int64 (n,), by sums of chances up to each, ascending (k,), and numbers in [0, 1) (n,)."""
    return torch.searchsorted(edges, uniform * edges[-1], right=True).clamp(max=len(edges) - 1)
