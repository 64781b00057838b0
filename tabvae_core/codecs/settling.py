"""Settling: what the network draws for a slot becomes a cell that the training rows could hold, before it is built on.

Values are rounded as they will be decoded, so that later slots see what they saw in training; links are computed from
the cells before them, and ratios are told what theirs are of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from tabvae_core.codecs.links import Link, Links
from tabvae_core.codecs.number import NumberCodec
from tabvae_core.codecs.ordinal import as_field, base_type, is_integer_like, plain, to_ordinal
from tabvae_core.codecs.ratios import Ratios
from tabvae_core.codecs.table import TableCodec
from tabvae_core.reals import ordinals_of, real_of

__all__ = ["Settling"]

Ordinals = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


class Settling:
    """Settles one block of n rows; see `models.vae.Settler`.

    Args:
        codec: Codecs of the table.
        links: Links between its columns.
        given: Given cells by column, n each; null where a cell is not given, but is to be filled: no null is drawn
            there, unless the column never held anything else.
        ratios: Ratios between its columns.

    """

    def __init__(
        self,
        codec: TableCodec,
        links: Links,
        given: Mapping[str, pa.Array] | None = None,
        ratios: Ratios | None = None,
    ) -> None:
        self._codec, self._links, self._ratios = codec, links, Ratios() if ratios is None else ratios
        self._tables = codec.tables()
        self._given = dict(given or {})
        self._column = {codec.slots_of(name)[0]: name for name in links.columns | self._ratios.columns}
        self._filled: dict[int, tuple[int, int]] = {}  # first slot: its null token, n
        for name, cells in self._given.items():
            null = codec.codec_of(name).null_token
            if null is not None:
                self._filled[codec.slots_of(name)[0]] = null, len(cells)
        self._real: dict[str, npt.NDArray[np.float64]] = {}
        self._computed: dict[str, tuple[Ordinals, Mask]] = {}
        self._exact: dict[str, tuple[Ordinals, Mask]] = {}

    def allowed(self, slot: int) -> Mask | None:
        """Nulls that are to be filled are not drawn, nor links that cannot be computed, because a cell is null."""
        links, filled = self._links.of_slot.get(slot, ()), self._filled.get(slot)
        if not links and filled is None:
            return None
        computable = [np.isfinite(link.predict([self._real[c] for c in link.relation.columns])) for link in links]
        rows = filled[1] if filled is not None else len(computable[0])
        own = np.ones((rows, self._codec.slots[slot].n_tokens), dtype=np.bool_)
        if filled is not None:
            own[:, filled[0]] = False
        return np.concatenate([own, *(link[:, None] for link in computable)], axis=1)

    def is_linked(self, slot: int) -> bool:
        """Whether cells of the slot may follow from others."""
        return slot in self._links.of_slot

    def frames(self, slot: int) -> Tensor | None:
        """In which a slot's values are seen by each of its ratios, see `Ratio.frame`."""
        ratios = self._ratios.of_slot.get(slot)
        if not ratios:
            return None
        number = self._number_of(slot)
        return torch.from_numpy(np.stack([ratio.frame(number, self._real) for ratio in ratios], axis=1))

    def log_cells(self, slot: int, tokens: Tensor, values: Tensor, origins: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logs of the cells that tokens and values will be decoded to, counted from each of their origins."""
        number, own = self._number_of(slot), tokens.numpy()
        offsets = number.table.drawn_offsets(own, values.numpy())
        cells = [number.log_cells(own, offsets, origin) for origin in origins.numpy().T]
        middles, widths = (torch.from_numpy(np.stack([cell[k] for cell in cells], axis=1)).float() for k in (0, 1))
        return middles, widths, torch.from_numpy(cells[0][2]).float()

    def places_of(self, slot: int, tokens: Tensor, real: Tensor) -> Tensor:
        """Places of real values."""
        return torch.from_numpy(self._number_of(slot).places_of(tokens.numpy(), real.numpy())).float()

    def settle(self, slot: int, tokens: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Compute links, round values, remember what links and ratios ask for."""
        table = self._tables[slot]
        if table is None:
            if slot in self._column:
                self._real[self._column[slot]] = tokens.numpy().astype(np.float64)
            return tokens, values
        own, z = tokens.numpy().astype(np.int32), values.numpy()
        if slot in self._links.of_slot:
            own, z = self._linked(slot, own, z)
        z = table.settle(own, z)
        if slot in self._column:
            self._remember(self._column[slot], own, z)
        return torch.from_numpy(own.astype(np.int64)), torch.from_numpy(z)

    def settled(self, slot: int, tokens: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Settle several cells of each row, (n, k); what links ask for is known when one of them is settled."""
        table = self._tables[slot]
        if table is None:
            return tokens, values
        own, z = tokens.numpy().astype(np.int32), values.numpy()
        if slot in self._links.of_slot:
            linked = [self._linked(slot, own[:, k], z[:, k]) for k in range(own.shape[1])]
            own, z = (np.stack(parts, axis=1) for parts in zip(*linked, strict=True))
        return torch.from_numpy(own.astype(np.int64)), torch.from_numpy(table.settle(own, z))

    def _linked(self, slot: int, tokens: Any, z: Any) -> tuple[Any, Any]:
        name = self._column[slot]
        codec = self._number(name)
        table, n_own = codec.table, self._codec.slots[slot].n_tokens
        ordinals = np.zeros(len(tokens), dtype=np.int64 if table.integer else np.float64)
        computed = tokens >= n_own
        for place, link in enumerate(self._links.of_slot[slot]):
            rows = tokens == n_own + place
            if rows.any():
                real = link.predict([self._real[c][rows] for c in link.relation.columns])
                ordinals[rows] = _ordinals(real, link, codec.arrow_type)
        if computed.any():
            # The protected ends bound what follows from others, too.
            least, most = (table.base + round(end) if table.integer else end for end in table.ends)
            ordinals = np.where(computed, np.clip(ordinals, least, most), ordinals).astype(ordinals.dtype)
            encoded, low, high = table.encode(ordinals, computed)
            tokens, z = np.where(computed, encoded, tokens), np.where(computed, (low + high) / 2, z)
        self._computed[name] = (ordinals, computed)
        return tokens, z

    def _remember(self, name: str, tokens: Any, z: Any) -> None:
        """Ordinals and real values of a column that takes part in links, exactly as they will be decoded."""
        codec = self._number(name)
        ordinals, valid = codec.table.decode(tokens, z)
        if name in self._computed:
            computed, rows = self._computed[name]
            ordinals, valid = np.where(rows, computed, ordinals), valid | rows
        if name in self._given:
            exact, there = to_ordinal(plain(self._given[name]))
            ordinals, valid = np.where(there, exact, ordinals), valid | there
        self._exact[name] = ordinals, valid
        self._real[name] = real_of(ordinals, valid, codec.arrow_type)

    def _number_of(self, slot: int) -> NumberCodec:
        """Codec of a slot whose values have ratios."""
        return self._number(self._ratios.of_slot[slot][0].target)

    def _number(self, name: str) -> NumberCodec:
        codec = self._codec.codec_of(name)
        assert isinstance(codec, NumberCodec)
        return codec

    def keep(self, chosen: npt.NDArray[np.int64]) -> None:
        """Forget all rows but the chosen ones."""
        for name in self._computed:
            self._computed[name] = self._computed[name][0][chosen], self._computed[name][1][chosen]
            self._exact[name] = self._exact[name][0][chosen], self._exact[name][1][chosen]

    def decode(self, tokens: Tensor, values: Tensor, *, rows: npt.NDArray[np.uint64], seed: int) -> pa.Table:
        """Decode settled tokens and values (n, slots) to cells, computed ones exactly as computed."""
        own, z = tokens.numpy().astype(np.int32), values.numpy()
        table = self._codec.decode(own, z, rows=rows, seed=seed)
        for name, (_, rows_of) in self._computed.items():
            if rows_of.any():
                index = table.schema.get_field_index(name)
                field = table.schema.field(index)
                cells = self._number(name).cells(*self._exact[name])
                table = table.set_column(index, field, as_field(cells, field))
        return table


def _ordinals(real: npt.NDArray[np.float64], link: Link, arrow_type: pa.DataType) -> Ordinals:
    """Ordinals of what a link computed; those of decimals with digits that it has none of end in zeros."""
    kind = base_type(arrow_type)
    if link.decimals is None or not pa.types.is_decimal(kind) or int(kind.scale) <= link.decimals:
        return ordinals_of(real, arrow_type)
    real = np.where(np.isfinite(real), real, 0.0)
    scaled = np.rint(real * 10.0**link.decimals) * 10.0 ** (int(kind.scale) - link.decimals)
    return np.rint(scaled).astype(np.int64) if is_integer_like(kind) else scaled
