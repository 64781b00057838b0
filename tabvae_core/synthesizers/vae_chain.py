"""One order in which `vae` draws a table's columns, each from those before it.

By the chain rule any order describes the same density, but a network that learned from few rows errs differently in
each. So members of an ensemble learn different orders, and their errors average out better than those of members that
differ by chance alone (compare EoNADE: Uria, Murray & Larochelle, 2014).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from tabvae_core.codecs.edges import Edge, with_edges
from tabvae_core.codecs.links import Links
from tabvae_core.codecs.ordering import arrange
from tabvae_core.codecs.ratios import Ratios, share_tied
from tabvae_core.codecs.settling import Settling
from tabvae_core.codecs.table import TableCodec
from tabvae_core.given import GivenColumn
from tabvae_core.models.drawing import Given
from tabvae_core.models.vae import Layout, NetworkSize, TabularVAE
from tabvae_core.relations import Relation

__all__ = ["Chain", "Structure"]


@dataclass(frozen=True)
class Structure:
    """What was found between the columns of some training rows.

    Args:
        rows: The rows.
        relations: Exact relations.
        edges: Edges.

    """

    rows: pa.Table
    relations: tuple[Relation, ...]
    edges: tuple[Edge, ...]

    def arranged(self, names: Sequence[str]) -> tuple[tuple[Relation, ...], tuple[str, ...]]:
        """Order columns so that what follows from others comes after them, else as named; relations turned to suit."""
        return with_edges(
            self.edges, *arrange(self.relations, self.rows, names, functools.partial(share_tied, self.rows))
        )

    def links(self, turned: Sequence[Relation], codec: TableCodec) -> Links:
        """Those of the relations, as `arranged` turned them, that can be computed in the order of the codecs."""
        return Links.fit(turned, codec, self.rows)


@dataclass(frozen=True)
class Chain:
    """Codecs in the order in which their columns are drawn, and what is drawn from earlier columns.

    Args:
        codec: Codecs.
        links: Exact relations that slots can draw.
        ratios: Numbers that keep close to multiples of earlier ones.

    """

    codec: TableCodec
    links: Links
    ratios: Ratios

    @classmethod
    def fit(cls, codec: TableCodec, links: Links, structure: Structure, n_rows: int, least_rows: int) -> Self:
        """Find the ratios of codecs in their order.

        Args:
            codec: Fitted codecs.
            links: Their links, see `Structure.links`.
            structure: What was found between the columns.
            n_rows: Training rows.
            least_rows: Rows that anything stored is known from.

        """
        found = Ratios.fit(codec, links, structure.rows, structure.edges, n_rows=n_rows, least_rows=least_rows)
        return cls(codec, links, found)

    def settling(self, cells: Mapping[str, pa.Array] | None = None) -> Settling:
        """Settle rows of which some cells are given."""
        return Settling(self.codec, self.links, cells, self.ratios)

    def given(self, cells: Mapping[str, GivenColumn], rows: int) -> Given | None:
        """Given cells as slots; None where no slot is given."""
        shape = (rows, len(self.codec.slots))
        mask = np.zeros(shape, dtype=np.bool_)
        tokens, values = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        for slot, known, token, value in self.codec.encode_given(cells):
            mask[:, slot], tokens[:, slot], values[:, slot] = known, token, value
        if not mask.any():
            return None
        return Given(torch.from_numpy(mask), torch.from_numpy(tokens), torch.from_numpy(values))

    def network(self, size: NetworkSize, targets: npt.NDArray[np.int32] | None = None) -> TabularVAE:
        """Build a network; `targets` (n, slots) start the softmaxes, None where weights are loaded next."""
        slots = self.codec.slots
        extra = [self.links.extra(index) for index in range(len(slots))]
        layout = Layout(
            tuple(slot.n_tokens + more for slot, more in zip(slots, extra, strict=True)),
            tuple(slot.n_levels for slot in slots),
            self.codec.parents,
            self.ratios.slots,
        )
        priors, places = self.codec.log_priors(), self.codec.token_values()
        for index, more in enumerate(extra):
            prior, place = priors[index], places[index]
            if more and prior is not None:
                counts = np.ones(layout.n_tokens[index]) / 2
                if targets is not None:
                    counts = counts + np.bincount(targets[:, index], minlength=len(counts))
                counts[: len(prior)][np.isneginf(prior)] = 0.0
                with np.errstate(divide="ignore"):
                    priors[index] = np.log(counts / counts.sum()).astype(np.float32)
            if more and place is not None:
                places[index] = np.concatenate([place, np.full(more, np.nan, np.float32)])
        ratios = self.ratios.centres(), self.ratios.spreads()
        return TabularVAE(layout, size, priors, places, self.codec.value_ranges(), ratios)

    def to_json(self) -> dict[str, Any]:
        """What a bundle stores beside the codecs."""
        names = list(self.codec.schema.names)
        return {"order": names, "links": self.links.to_json(), "ratios": self.ratios.to_json()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], codec: TableCodec) -> Self:
        """Rebuild from a bundle, with its codecs."""
        ordered = codec.reordered(stored["order"])
        return cls(ordered, Links.from_json(stored["links"]), Ratios.from_json(stored["ratios"], ordered))
