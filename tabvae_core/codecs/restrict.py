"""What bounds on columns mean for slots: tokens that must not be drawn, and the range of the values of the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
        column = codec.codecs[codec.schema.names.index(name)]
        slots = codec.slots_of(name)
        if len(slots) != 1:
            continue
        if isinstance(column, NumberCodec):
            limit = _of_number(column, bound)
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


def _of_number(codec: NumberCodec, bound: Bounds) -> SlotLimit:
    table, kind = codec.table, base_type(codec.arrow_type)
    tokens = _allowed(codec, bound)
    low, high = _ordinal_limits(bound, kind)
    # A value is rounded after it is drawn, so the range ends half a step inside the outermost allowed multiple.
    ends = []
    for step in table.steps:
        shift = table.base if table.integer else 0
        first = -math.inf if low is None else (math.ceil((low - 1e-9) / step) * step if step > 0 else low) - shift
        last = math.inf if high is None else (math.floor((high + 1e-9) / step) * step if step > 0 else high) - shift
        ends.append((max(first, table.lowest), min(last, table.highest), step))
    for level, (first, last, _) in enumerate(ends):
        tokens[level] = first <= last and bound.allowed is None
    usable = [(a, b, s) for (a, b, s), ok in zip(ends, tokens, strict=False) if ok]
    if not usable:
        return SlotLimit(tokens, -math.inf, math.inf)
    # One range serves all levels: the narrowest, so that no level can round to a value outside.
    z = [table.to_z(np.array([a - s * 0.499, b + s * 0.499])) for a, b, s in usable]
    low_z = -math.inf if low is None else max(float(pair[0]) for pair in z)
    high_z = math.inf if high is None else min(float(pair[1]) for pair in z)
    return SlotLimit(tokens, low_z, max(low_z, high_z))


def _ordinal_limits(bound: Bounds, kind: pa.DataType) -> tuple[float | None, float | None]:
    if pa.types.is_date64(kind):
        return None, None
    low, high = bound.limits(kind)
    shift = 2**63 if pa.types.is_uint64(kind) else 0
    return (None if low is None else low - shift), (None if high is None else high - shift)
