"""What bounds on columns mean for slots: tokens that must not be drawn, and the range of the values of the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.codecs.binned import BinnedCodec
from tabvae_core.codecs.category import CategoryCodec
from tabvae_core.codecs.number import NumberCodec
from tabvae_core.codecs.ordinal import base_type

if TYPE_CHECKING:
    from tabvae_core.codecs.table import TableCodec
    from tabvae_core.rules import Bounds

__all__ = ["SlotLimit", "slot_limits"]


@dataclass(frozen=True)
class SlotLimit:
    """What a slot may draw.

    Args:
        tokens: True where a token may be drawn, shape (n_tokens,).
        low: Smallest value in Gaussian-quantile space.
        high: Largest value in Gaussian-quantile space.

    """

    tokens: npt.NDArray[np.bool_]
    low: float
    high: float


def slot_limits(codec: TableCodec, bounds: Mapping[str, Bounds]) -> dict[int, SlotLimit]:
    """Translate bounds to limits of slots.

    Columns whose codec cannot promise a bound (dates, categories of two levels) are left out: their rows are drawn
    again when a rule refuses them. A bound that would leave no token is left out too, so that the re-sampling names it.
    """
    limits: dict[int, SlotLimit] = {}
    for name, bound in bounds.items():
        if name not in codec.schema.names:
            continue
        column = codec.codec_of(name)
        slots = codec.slots_of(name)
        if len(slots) != 1:
            continue
        if isinstance(column, NumberCodec):
            limit = _of_number(column, bound)
        elif isinstance(column, BinnedCodec):
            limit = SlotLimit(_of_bins(column, bound), -math.inf, math.inf)
        elif isinstance(column, CategoryCodec):
            limit = SlotLimit(_allowed(column, bound), -math.inf, math.inf)
        else:
            continue
        if limit.tokens.any():
            limits[slots[0]] = limit
    return limits


def _allowed(codec: NumberCodec | CategoryCodec, bound: Bounds) -> npt.NDArray[np.bool_]:
    """Decode every token once and test the cell."""
    n = codec.slots[0].n_tokens
    tokens = np.arange(n, dtype=np.int32)[:, None]
    cells = codec.decode(tokens, np.zeros((n, 1), np.float32), rows=np.zeros(n, np.uint64), seed=0)
    inside: npt.NDArray[np.bool_] = bound.contains(cells).to_numpy(zero_copy_only=False)
    return inside


def _of_bins(codec: BinnedCodec, bound: Bounds) -> npt.NDArray[np.bool_]:
    """Bins that reach into the bound; rows beyond it are drawn again."""
    tokens = np.ones(codec.slots[0].n_tokens, dtype=np.bool_)
    low, high = _ordinal_limits(bound, base_type(codec.arrow_type))
    ends = np.append(codec.bins, codec.edges[-1])
    bins = tokens[: len(codec.starts)]
    if low is not None:
        bins &= ends[1:] >= codec.scale.number(low)
    if high is not None:
        bins &= ends[:-1] <= codec.scale.number(high)
    return tokens


def _of_number(codec: NumberCodec, bound: Bounds) -> SlotLimit:
    table = codec.table
    tokens = _allowed(codec, bound)
    tokens[: table.n_levels] = False
    low, high = _ordinal_limits(bound, base_type(codec.arrow_type))
    shift = table.base if table.integer else 0
    ends = (-math.inf if low is None else low - shift, math.inf if high is None else high - shift)
    # One range serves all levels: what they have in common, the most frequent one first, so none leaves its bounds.
    low_z, high_z = -math.inf, math.inf
    for level in np.argsort(-table.counts[: table.n_levels], kind="stable") if bound.allowed is None else ():
        between = table.z_between(int(level), *ends)
        if between is None or max(low_z, between[0]) > min(high_z, between[1]):
            continue
        tokens[level] = True
        low_z = low_z if low is None else max(low_z, between[0])
        high_z = high_z if high is None else min(high_z, between[1])
    return SlotLimit(tokens, low_z, high_z)


def _ordinal_limits(bound: Bounds, kind: pa.DataType) -> tuple[float | None, float | None]:
    if pa.types.is_date64(kind):
        return None, None
    low, high = bound.limits(kind)
    shift = 2**63 if pa.types.is_uint64(kind) else 0
    return (None if low is None else low - shift), (None if high is None else high - shift)
