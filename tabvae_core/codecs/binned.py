"""Numbers and dates in bins: one token a bin, and one for null. It holds edges and noisy masses, and no cell.

Made by `privacy.domain`, which finds the edges privately or takes them from declarations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.special import ndtri

from tabvae_core.codecs.base import Codec, CodecState, Encoded, FloatArray, IntArray, Slot
from tabvae_core.codecs.formats import draw_key, uniform
from tabvae_core.codecs.ordinal import base_type, from_ordinal, is_integer_like, plain, restore_type, to_ordinal

__all__ = ["BinnedCodec", "Scale"]

_LARGEST = 2**62
"""Whole numbers lie within, so that differences of two fit 64 bits."""
_INT64 = np.iinfo(np.int64)


@dataclass(frozen=True)
class Scale:
    """Numbers of a column as they are counted: whole ones where the type or its declared decimals say so.

    Args:
        arrow_type: Type of the cells.
        decimals: Digits after the point of a float that has a fixed number of them; None: it has any.

    """

    arrow_type: pa.DataType
    decimals: int | None = None

    @property
    def whole(self) -> bool:
        """Whether the numbers are int64; else float64."""
        return is_integer_like(self.arrow_type) or self.decimals is not None

    @property
    def _unsigned(self) -> bool:
        return bool(pa.types.is_uint64(base_type(self.arrow_type)))

    @property
    def _factor(self) -> float | None:
        return None if is_integer_like(self.arrow_type) or self.decimals is None else 10.0**self.decimals

    def numbers(self, array: pa.Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Numbers of cells (n,), and which cells are there (n,); an infinite one is the largest of its type."""
        ordinals, valid = to_ordinal(plain(array))
        if not self.whole:
            return ordinals, valid
        if self._factor is not None:
            ordinals = np.rint(np.clip(ordinals * self._factor, -float(_LARGEST), float(_LARGEST))).astype(np.int64)
        if self._unsigned:  # their ordinals begin at -2^63
            ordinals = np.minimum(ordinals, _LARGEST + _INT64.min) ^ _INT64.min
        return np.clip(ordinals, -_LARGEST, _LARGEST), valid

    def number(self, ordinal: float) -> int | float:
        """One ordinal as a number, such as a declared bound."""
        if not self.whole:
            return float(ordinal)
        scaled = ordinal if self._factor is None else round(ordinal * self._factor)
        scaled = scaled + 2**63 if self._unsigned else scaled
        return int(min(max(scaled, -_LARGEST), _LARGEST))

    def ordinal(self, number: float) -> int | float:
        """The inverse of `number`."""
        if self._unsigned:
            return int(number) - 2**63
        return number if self._factor is None else number / self._factor

    def cells(self, numbers: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> pa.Array:
        """Numbers as cells of exactly the type."""
        ordinals = numbers if self._factor is None else np.asarray(numbers / self._factor)
        if self._unsigned:
            ordinals = numbers ^ _INT64.min
        return restore_type(from_ordinal(ordinals, valid, base_type(self.arrow_type)), self.arrow_type)


class BinnedCodec(Codec):
    """Codec of one number or date in bins.

    Within a bin, values follow the masses of finer pieces, and lie uniformly within each.

    Args:
        name: Column.
        scale: Its numbers.
        edges: Ascending edges of the pieces, half open, int64 or float64, shape (p + 1,).
        mass: Noisy mass of each piece, not negative, shape (p,).
        starts: First piece of each bin, ascending from 0, shape (k,).
        counts: Noisy rows of each token: bins, then null where there is one.
        draw_null: Whether nulls may be generated.

    """

    kind = "binned"

    def __init__(
        self,
        name: str,
        scale: Scale,
        edges: npt.NDArray[Any],
        mass: npt.NDArray[np.float64],
        starts: npt.NDArray[np.int64],
        counts: npt.NDArray[np.float64],
        *,
        draw_null: bool,
    ) -> None:
        self.name, self.scale, self.arrow_type = name, scale, scale.arrow_type
        self.edges, self.mass, self.starts, self.counts, self.draw_null = edges, mass, starts, counts, draw_null
        self.has_null = len(counts) > len(starts)
        self.slots = (Slot(name, len(counts)),) if len(counts) > 1 else ()
        # Pieces of no mass still hold what a bin of none decodes to.
        self._reach = np.concatenate([[0.0], np.cumsum(np.maximum(mass, 1e-9))])

    @property
    def bins(self) -> npt.NDArray[Any]:
        """Lower edges of the bins, shape (k,)."""
        return self.edges[self.starts]

    def encode(self, array: pa.Array) -> Encoded:
        """Encode cells; a value beyond the edges becomes the nearest bin, a null without token the most frequent."""
        numbers, valid = self.scale.numbers(array)
        if not self.slots:
            empty = np.zeros((len(valid), 0), np.float32)
            return Encoded(empty.astype(np.int32), empty, empty)
        tokens = np.clip(np.searchsorted(self.bins, numbers, side="right") - 1, 0, len(self.starts) - 1)
        tokens = np.where(valid, tokens, len(self.starts) if self.has_null else int(np.argmax(self.counts)))
        zeros = np.zeros((len(tokens), 1), np.float32)
        return Encoded(tokens.astype(np.int32)[:, None], zeros, zeros)

    def decode(self, tokens: IntArray, values: FloatArray, *, rows: npt.NDArray[np.uint64], seed: int) -> pa.Array:
        """Draw a value within each bin; the same row and seed draw the same."""
        token = tokens[:, 0] if self.slots else np.zeros(len(rows), np.int32)
        valid = token < len(self.starts)
        kept = np.where(valid, token, 0)
        ends = self._reach[np.append(self.starts, len(self.mass))]
        place = ends[kept] + uniform(rows, draw_key(seed, "binned", self.name)) * (ends[kept + 1] - ends[kept])
        piece = np.clip(np.searchsorted(self._reach, place, side="right") - 1, 0, len(self.mass) - 1)
        within = np.clip((place - self._reach[piece]) / (self._reach[piece + 1] - self._reach[piece]), 0.0, 1.0)
        low, high = self.edges[piece], self.edges[piece + 1]
        if self.scale.whole:
            steps = np.minimum(np.floor(within * (high - low).astype(np.float64)).astype(np.int64), high - low - 1)
            return self.scale.cells(low + steps, valid)
        return self.scale.cells(np.minimum(low + within * (high - low), np.nextafter(high, low)), valid)

    def state(self) -> CodecState:
        """Edges, masses, counts."""
        values = {"name": self.name, "decimals": self.scale.decimals, "draw_null": self.draw_null}
        arrays = {"edges": self.edges, "mass": self.mass, "starts": self.starts, "counts": self.counts}
        return CodecState(self.kind, values, arrays)

    @classmethod
    def restore(cls, state: CodecState, arrow_type: pa.DataType) -> Self:
        """Rebuild from a bundle."""
        values, arrays = state.values, state.arrays
        return cls(
            values["name"], Scale(arrow_type, values["decimals"]), arrays["edges"], arrays["mass"], arrays["starts"],
            arrays["counts"], draw_null=values["draw_null"],
        )  # fmt: skip

    @property
    def null_token(self) -> int | None:
        """Token of null."""
        return len(self.starts) if self.slots and self.has_null else None

    def known(self, array: pa.Array) -> npt.NDArray[np.bool_]:
        """Which cells are there, or nulls where there are some."""
        return np.asarray(self.scale.numbers(array)[1] | self.has_null, dtype=np.bool_)

    def log_prior(self) -> list[npt.NDArray[np.float32] | None]:
        """Log frequencies by the noisy counts; null -inf where it must not be drawn."""
        if not self.slots:
            return []
        smooth = np.maximum(self.counts, 0.0) + 0.5
        prior = np.log(smooth / smooth.sum())
        if self.has_null and not self.draw_null:
            prior[-1] = -np.inf
        return [prior.astype(np.float32)]

    def token_values(self) -> list[npt.NDArray[np.float32] | None]:
        """Place of each bin's middle in N(0, 1), by the noisy masses."""
        if not self.slots:
            return []
        ends = self._reach[np.append(self.starts, len(self.mass))] / self._reach[-1]
        places = np.clip(ndtri(np.clip((ends[1:] + ends[:-1]) / 2, 1e-9, 1 - 1e-9)), -6.0, 6.0)
        return [np.append(places, [np.nan] * self.has_null).astype(np.float32)]

    def classes(self) -> tuple[pa.Array, npt.NDArray[np.float64]] | None:
        """The values of a number all of whose bins hold one each."""
        k = len(self.starts)
        if not (self.slots and self.scale.whole and len(self.mass) == k and (np.diff(self.edges) == 1).all()):
            return None
        cells = self.scale.cells(self.edges[:-1], np.ones(k, dtype=np.bool_))
        return plain(cells), np.maximum(self.counts[:k], 0.0)
