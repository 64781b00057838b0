"""`tabddpm`: Gaussian diffusion of numbers and multinomial diffusion of categories (Kotelnikov et al., 2023).

Numbers and categories are those of the codecs' slots: what many rows share (0, 40 hours, null) is a category beside
the number, as is every other token. See `models/tabddpm.py` for the network.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch

from tabvae_core.budget import diffusion_budget
from tabvae_core.bundle import Bundle, loading_weights, read_bundle, tensors_under, write_bundle
from tabvae_core.codecs.base import Encoded
from tabvae_core.codecs.table import TableCodec
from tabvae_core.models.tabddpm import Denoiser, NetworkSize, Rows
from tabvae_core.progress import Progress, silent
from tabvae_core.schema import TableSchema
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import Synthesizer, learned, row_numbers
from tabvae_core.synthesizers.options import choose_device, option, read_options
from tabvae_core.synthesizers.tabddpm_rows import RowVariables, TrainingRows
from tabvae_core.tables import TableSource
from tabvae_core.training import TrainingPlan, TrainingRecord, train

__all__ = ["TabDDPMSynthesizer"]

_DRAWN_ROWS = 512
"""Rows drawn at a time: what they need fits a core's cache. Always so many, or sums would differ in the last bit."""


@dataclass(frozen=True)
class _Options:
    """Options of the method, under `model.options`.

    Args:
        width: Width of the network.
        depth: Residual blocks of the network.
        timesteps: Steps from a row to noise in training.
        steps: Steps from noise to a row in sampling: more take longer, and are better up to a point.

    """

    width: int = option(192, least=1)
    depth: int = option(2, least=0)
    timesteps: int = option(1000, least=1)
    steps: int = option(50, least=1)


class TabDDPMSynthesizer(Synthesizer):
    """Diffusion over numbers and categories at once, undone by one network."""

    method = "tabddpm"
    conditions = False

    def __init__(self, model: ModelSpec | None = None, privacy: PrivacySpec | None = None) -> None:
        super().__init__(model, privacy)
        self._options = read_options(_Options, self.model)
        self._rows: RowVariables | None = None
        self._network: Denoiser | None = None  # None: there is nothing to learn

    # Learning -------------------------------------------------------------------------------------------------------

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
        encoded = codec.encode_source(chosen, progress=progress)
        self._rows, self._network = RowVariables.fit(codec, encoded), None
        rows, plan, record = len(encoded.tokens), self._plan(len(encoded.tokens)), TrainingRecord()
        if codec.slots:
            record = self._learn(self._rows, encoded, plan, started, progress, checkpoint)
        self._record = {
            "rows": rows,
            "slots": len(codec.slots),
            "parameters": 0 if self._network is None else sum(p.numel() for p in self._network.parameters()),
            "batch_size": plan.batch_size,
            "seconds": round(time.monotonic() - started, 1),
            "device": str(choose_device(self.model.device)),
            **record.told(),
            "notes": list(codec.notes()),
        }
        return self

    def _plan(self, rows: int) -> TrainingPlan:
        budget = diffusion_budget(rows, self.model)
        return TrainingPlan(
            epochs=budget.epochs,
            batch_size=budget.batch_size,
            learning_rate=budget.learning_rate,
            weight_decay=0.0,
            patience=max(10, budget.epochs // 4),
            seed=self.model.seed,
        )

    def _learn(
        self,
        rows: RowVariables,
        encoded: Encoded,
        plan: TrainingPlan,
        started: float,
        progress: Progress,
        checkpoint: Path | None,
    ) -> TrainingRecord:
        device = choose_device(self.model.device)
        data = TrainingRows(rows, encoded, seed=self.model.seed, device=device)
        torch.manual_seed(self.model.seed)
        network = Denoiser(rows.variables, self._size()).to(device)
        network.prepare(data.tokens)
        if self.model.max_seconds is not None:
            left = self.model.max_seconds - (time.monotonic() - started)
            plan = dataclasses.replace(plan, max_seconds=max(1.0, left))
        record = train(
            network, data.loss, data.validation_loss, data.n_train, plan, progress=progress, checkpoint=checkpoint
        )
        self._network = network.cpu().eval()
        return record

    def _size(self) -> NetworkSize:
        asked = self._options
        return NetworkSize(asked.width, asked.depth, asked.timesteps)

    @property
    def _fitted(self) -> RowVariables:
        return learned(self._rows)

    @property
    def schema(self) -> TableSchema:
        """Schema of the rows that were learned."""
        return self._fitted.codec.schema

    # Sampling -------------------------------------------------------------------------------------------------------

    def sample_block(
        self,
        block: int,
        n_rows: int,
        *,
        seed: int,
        attempt: int = 0,
        given: Mapping[str, Any] | pa.Table | None = None,
        bounds: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """Draw one block of rows; see `Synthesizer.sample_block`. Bounds are left to re-sampling.

        Raises:
            SpecError: Values or cells are given; this method cannot condition on them.

        """
        self._refuse_given(given)
        rows = self._fitted
        parts = [self._draw(seed, block, attempt, part) for part in range(math.ceil(n_rows / _DRAWN_ROWS))]
        drawn = Rows(torch.cat([p.tokens for p in parts])[:n_rows], torch.cat([p.numbers for p in parts])[:n_rows])
        tokens, values = rows.decode(drawn)
        return rows.codec.decode(tokens, values, rows=row_numbers(block, n_rows), seed=seed)

    def _draw(self, seed: int, block: int, attempt: int, part: int) -> Rows:
        """Draw one part of a block, from a generator of its own."""
        if self._network is None:
            return Rows(torch.zeros(_DRAWN_ROWS, 0, dtype=torch.long), torch.zeros(_DRAWN_ROWS, 0))
        state = np.random.SeedSequence([seed, block, attempt, part]).generate_state(1, np.uint32)
        generator = torch.Generator().manual_seed(int(state[0]))
        return self._network.generate(_DRAWN_ROWS, self._options.steps, self._fitted.support, generator)

    # Bundles --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the bundle; see `Synthesizer.save`."""
        rows, network = self._fitted, self._network
        states = {} if network is None else network.state_dict()
        weights = {f"network.{k}": v.numpy() for k, v in states.items()} | rows.arrays()
        codecs, size = rows.codec.states(), asdict(self._size())
        write_bundle(
            Bundle(self.method, self.schema, codecs, self.model, self.privacy, size, self._record, weights), folder
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a bundle; see `Synthesizer.load`."""
        bundle = read_bundle(folder, cls.method)
        self = cls(bundle.model, bundle.privacy)
        codec = TableCodec.restore(bundle.schema, bundle.codecs)
        self._record = dict(bundle.record)
        with loading_weights(folder):
            self._rows = RowVariables(codec, bundle.weights["numbers.center"], bundle.weights["numbers.scale"])
            if codec.slots:
                network = Denoiser(self._rows.variables, NetworkSize(**bundle.network))
                network.load_state_dict(tensors_under("network.", bundle.weights))
                self._network = network.eval()
        return self
