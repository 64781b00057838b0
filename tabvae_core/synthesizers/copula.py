"""What the methods with a copula share: margins, the synthesizer's frame, bundles."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.bundle import Bundle, loading_weights, read_bundle, write_bundle
from tabvae_core.codecs.base import IntArray
from tabvae_core.codecs.table import TableCodec
from tabvae_core.progress import Progress, silent
from tabvae_core.schema import TableSchema
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import Synthesizer, learned, row_numbers
from tabvae_core.synthesizers.margins import Margins
from tabvae_core.tables import TableSource

__all__ = ["CopulaSynthesizer"]


class CopulaSynthesizer(Synthesizer):
    """Margins of a table outside; what is inside learns how the ranks depend on each other."""

    def __init__(self, model: ModelSpec | None = None, privacy: PrivacySpec | None = None) -> None:
        super().__init__(model, privacy)
        self._fitted_margins: Margins | None = None

    def fit(
        self,
        table: pa.Table | TableSource,
        schema: TableSchema | None = None,
        *,
        progress: Progress = silent,
        checkpoint: Path | None = None,
    ) -> Self:
        """Learn a table; see `Synthesizer.fit`."""
        started = time.monotonic()
        source, schema, chosen = self._learnable(table, schema, progress)
        codec = TableCodec.fit(source, schema, self.privacy, progress=progress)
        margins, places = Margins.fit(codec, chosen, seed=self.model.seed, progress=progress)
        self._fitted_margins = margins
        learned = self._learn(margins, places, started, progress, checkpoint)
        self._record = {
            "rows": len(places),
            "variables": len(margins.variables),
            **learned,
            "seconds": round(time.monotonic() - started, 1),
            "notes": list(codec.notes()),
        }
        return self

    @abstractmethod
    def _learn(
        self, margins: Margins, places: IntArray, started: float, progress: Progress, checkpoint: Path | None
    ) -> dict[str, Any]:
        """Learn the dependence of the rows' pieces, int32 (n, d), and return what the record says of it."""

    @abstractmethod
    def _weights(self) -> dict[str, npt.NDArray[Any]]:
        """What was learned, as arrays by name."""

    @abstractmethod
    def _take(self, network: Mapping[str, Any], weights: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what a bundle holds: its network's shape, see `_shape`, and `_weights`.

        Raises:
            KeyError: Weights are missing.
            RuntimeError: They are of another shape.

        """

    def _shape(self) -> dict[str, Any]:
        """Hyperparameters of the network, for the bundle."""
        return {}

    @property
    def _margins(self) -> Margins:
        return learned(self._fitted_margins)

    @property
    def schema(self) -> TableSchema:
        """Schema of the rows that were learned."""
        return self._margins.codec.schema

    def _rows(self, block: int, ranks: npt.NDArray[np.float64], seed: int) -> pa.Table:
        """Decode ranks (n, d) to the rows of a block."""
        rows = row_numbers(block, len(ranks))
        return self._margins.codec.decode(*self._margins.decode(ranks), rows=rows, seed=seed)

    def save(self, folder: Path) -> None:
        """Write the bundle; see `Synthesizer.save`."""
        margins = self._margins
        network = {"bins": margins.bins, **self._shape()}
        weights = {**margins.arrays(), **self._weights()}
        states = margins.codec.states()
        write_bundle(
            Bundle(self.method, self.schema, states, self.model, self.privacy, network, self._record, weights), folder
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a bundle; see `Synthesizer.load`."""
        bundle = read_bundle(folder, cls.method)
        self = cls(bundle.model, bundle.privacy)
        self._record = dict(bundle.record)
        with loading_weights(folder):
            codec = TableCodec.restore(bundle.schema, bundle.codecs)
            self._fitted_margins = Margins.restore(codec, int(bundle.network["bins"]), bundle.weights)
            self._take(bundle.network, bundle.weights)
        return self
