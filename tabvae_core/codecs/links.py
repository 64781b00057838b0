"""Links: cells that follow exactly from earlier cells of their row, as tokens.

A quarter of a credit table's payments equal next month's bill to the cent, and a density over payments smears that
out. So a relation that was found in the training rows (see `relations`) becomes one more token of its target's slot:
the network learns when the cell follows, and the cell is then computed from the others, not drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.codecs.number import NumberCodec
from tabvae_core.codecs.ordering import NEARLY_ALWAYS
from tabvae_core.codecs.ordinal import base_type, is_integer_like
from tabvae_core.codecs.table import TableCodec
from tabvae_core.reals import decimals_of, real_values
from tabvae_core.relations import Relation, RelationKind, apply

__all__ = ["Link", "Links"]

Floats = npt.NDArray[np.float64]

_COMPUTED = (
    RelationKind.COPY, RelationKind.SUM, RelationKind.DIFFERENCE, RelationKind.PRODUCT, RelationKind.RATIO,
)  # fmt: skip
_EXACT_UNITS = 2**50  # leaves room for the rounding of operands, of what is computed and of its scale
_MOST_A_SLOT = 4


@dataclass(frozen=True)
class Link:
    """A relation that a slot can draw.

    Args:
        relation: What the cell follows from.
        slot: Slot of the target.
        decimals: Decimals of the target; None for continuous ones.

    """

    relation: Relation
    slot: int
    decimals: int | None

    @property
    def before_spikes(self) -> bool:
        """Whether the link stands also for values that have tokens of their own: one that nearly always holds."""
        return self.relation.share >= NEARLY_ALWAYS

    def predict(self, operands: Sequence[Floats]) -> Floats:
        """Values that follow, shape (n,); NaN where an operand is missing."""
        return apply(self.relation, operands, self.decimals)


class Links:
    """All links of a table.

    Args:
        links: In the order in which they are tried.

    """

    def __init__(self, links: Iterable[Link] = ()) -> None:
        self.links = tuple(links)
        self.of_slot: dict[int, list[Link]] = {}
        for link in self.links:
            self.of_slot.setdefault(link.slot, []).append(link)

    @classmethod
    def fit(cls, relations: Iterable[Relation], codec: TableCodec, rows: pa.Table) -> Self:
        """Choose the relations that slots can draw.

        Args:
            relations: Relations of the training rows, the widest first.
            codec: Fitted codecs.
            rows: Some training rows, from which the decimals of targets are read.

        """
        links: list[Link] = []
        for relation in relations:
            names = (relation.target, *relation.columns)
            if relation.kind not in _COMPUTED or any(name not in codec.schema.names for name in names):
                continue
            codecs = [codec.codec_of(name) for name in names]
            if not all(isinstance(one, NumberCodec) and one.slots for one in codecs):
                continue
            slot = codec.slots_of(relation.target)[0]
            if any(codec.slots_of(name)[0] > slot for name in relation.columns):
                continue
            if sum(link.slot == slot for link in links) >= _MOST_A_SLOT:
                continue
            cells = rows.column(relation.target)
            decimals = decimals_of(real_values(cells)[0], cells.type)
            if all(isinstance(one, NumberCodec) and _is_exact(one, decimals) for one in codecs):
                links.append(Link(relation, slot, decimals))
        return cls(links)

    @property
    def columns(self) -> frozenset[str]:
        """Columns that take part."""
        return frozenset(name for link in self.links for name in (link.relation.target, *link.relation.columns))

    def extra(self, slot: int) -> int:
        """Tokens that links add to a slot's own."""
        return len(self.of_slot.get(slot, ()))

    def targets(self, codec: TableCodec, data: pa.Table | pa.RecordBatch, tokens: npt.NDArray[np.int32]) -> Any:
        """Tokens to predict: a link's where one holds, else the cell's own.

        Args:
            codec: The table's codecs.
            data: n rows.
            tokens: Their own tokens, int32, shape (n, slots).

        Returns:
            int32, shape (n, slots).

        """
        if not self.links:
            return tokens
        real = {name: real_values(data.column(name))[0] for name in self.columns}
        result, slots = tokens.copy(), codec.slots
        for slot, links in self.of_slot.items():
            n_tokens, open_ = slots[slot].n_tokens, np.ones(len(tokens), dtype=np.bool_)
            for place, link in enumerate(links):
                value, predicted = real[link.relation.target], link.predict([real[c] for c in link.relation.columns])
                with np.errstate(over="ignore"):
                    holds = open_ & (np.abs(value - predicted) <= _tolerance(data, link, predicted))
                if not link.before_spikes:
                    holds &= tokens[:, slot] < slots[slot].n_levels
                result[holds, slot] = n_tokens + place
                open_ &= ~holds
        return result

    def to_json(self) -> list[dict[str, Any]]:
        """What a bundle stores."""
        return [
            {"relation": link.relation.to_json(), "slot": link.slot, "decimals": link.decimals} for link in self.links
        ]

    @classmethod
    def from_json(cls, stored: Iterable[Mapping[str, Any]]) -> Self:
        """Rebuild from a bundle."""
        return cls(Link(Relation.from_json(one["relation"]), one["slot"], one["decimals"]) for one in stored)


def _is_exact(codec: NumberCodec, decimals: int | None) -> bool:
    """Whether float64, in which links compute, tells each unit of a column from the next; else low digits are wrong.

    Args:
        codec: The column's.
        decimals: Decimals of the link's target; few of them survive the 15 digits that wide decimals are written with.

    """
    kind, table = base_type(codec.arrow_type), codec.table
    if pa.types.is_floating(kind) or not (is_integer_like(kind) or decimals is None):
        return True
    first = table.base + (2**63 if pa.types.is_uint64(kind) else 0)
    return max(abs(first + int(end)) for end in table.ends) <= _EXACT_UNITS


def _tolerance(data: pa.Table | pa.RecordBatch, link: Link, predicted: Floats) -> Any:
    """What a cell may be off from what is predicted: less than a unit where there are units, else float errors."""
    kind = base_type(data.schema.field(link.relation.target).type)
    if link.decimals is not None:
        return 0.25 * 10.0**-link.decimals
    if pa.types.is_decimal(kind):
        return 0.5 * 10.0 ** -int(kind.scale)
    return (1e-6 if pa.types.is_float32(kind) else 1e-9) * np.abs(predicted)
