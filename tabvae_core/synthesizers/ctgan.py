"""`ctgan`: the conditional GAN for tables of Xu, Skoularidou, Cuesta-Infante & Veeramachaneni (2019).

Numbers are normalised by the modes of their distribution (`codecs/modes.py`), the generator is told one category of
each row and trained on all of them (`ctgan_rows.py`), a critic of packs judges it (`models/ctgan.py`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tabvae_core.adversarial import AdversarialPlan, train_adversarial
from tabvae_core.budget import CTGAN_BATCH, ctgan_epochs
from tabvae_core.bundle import Bundle, loading_weights, read_bundle, tensors_under, write_bundle
from tabvae_core.codecs.flat import FlatTable
from tabvae_core.codecs.table import TableCodec
from tabvae_core.models.ctgan import Critic, Generator, condition_loss, critic_loss, soft_rows
from tabvae_core.progress import Progress, silent
from tabvae_core.schema import TableSchema
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import BLOCK_ROWS, Synthesizer, learned, row_numbers
from tabvae_core.synthesizers.ctgan_rows import Conditions, RowCodec, pick
from tabvae_core.synthesizers.options import choose_device, option, read_options
from tabvae_core.tables import TableSource

__all__ = ["CTGANSynthesizer"]


@dataclass(frozen=True)
class _Options:
    """Options of the method, under `model.options`.

    Args:
        latent: Dimensions of the generator's noise.
        hidden: Width of the hidden layers of both networks.
        modes: Modes of a number at most.
        pac: Rows that the critic judges together.
        discriminator_steps: Steps of the critic before each of the generator.
        average: Decay of the average of the generator's weights that is kept; 0 keeps the last weights.

    """

    latent: int = option(128, least=1)
    hidden: int = option(256, least=1)
    modes: int = option(10, least=1)
    pac: int = option(10, least=1)
    discriminator_steps: int = option(1, least=1)
    average: float = option(0.999, least=0, below=1)


class CTGANSynthesizer(Synthesizer):
    """Conditional GAN over modes of numbers and one-hot categories."""

    method = "ctgan"
    conditions = False

    def __init__(self, model: ModelSpec | None = None, privacy: PrivacySpec | None = None) -> None:
        super().__init__(model, privacy)
        self._options = read_options(_Options, self.model)
        self._rows: RowCodec | None = None
        self._generator: Generator | None = None

    def fit(
        self,
        table: pa.Table | TableSource,
        schema: TableSchema | None = None,
        *,
        progress: Progress = silent,
        checkpoint: Path | None = None,
    ) -> Self:
        """Learn a table; see `Synthesizer.fit`."""
        started, options = time.monotonic(), self._options
        source, schema, chosen = self._learnable(table, schema, progress)
        codec = TableCodec.fit(source, schema, self.privacy, progress=progress)
        flat = FlatTable(codec)
        flat.width(1 + options.modes)
        rows, places, codes = RowCodec.fit(
            flat, codec.encode_source(chosen, progress=progress), most_modes=options.modes,
            min_rows=max(self.privacy.min_category_rows, self.privacy.protect_extremes), seed=self.model.seed,
        )  # fmt: skip
        device = choose_device(self.model.device)
        torch.manual_seed(self.model.seed)
        generator = Generator(rows.layout, options.latent, options.hidden).to(device)
        critic = Critic(rows.layout, options.hidden, options.pac).to(device)
        duel = _Duel(generator, critic, places.to(device), codes.to(device), self._batch_size())
        plan = self._plan(len(codes), duel.batch_size, time.monotonic() - started)
        record = train_adversarial(
            generator, critic, duel.generator_loss, duel.critic_loss, plan, progress=progress, checkpoint=checkpoint
        )
        self._rows, self._generator = rows, generator.cpu()
        self._record = {
            "rows": len(codes),
            "features": rows.layout.width,
            "modes": sum(rows.layout.modes),
            "parameters": sum(p.numel() for network in (generator, critic) for p in network.parameters()),
            "epochs": record.epochs,
            "steps": record.steps,
            "batch_size": duel.batch_size,
            "seconds": round(time.monotonic() - started, 1),
            "device": str(device),
            "stopped_by": record.stopped,
            "train_loss": record.generator_loss,
            "critic_loss": record.critic_loss,
            "notes": list(codec.notes()),
        }
        return self

    def _batch_size(self) -> int:
        """Whole packs, two at least: a batch is normalised by itself."""
        return max(2, (self.model.batch_size or CTGAN_BATCH) // self._options.pac) * self._options.pac

    def _plan(self, n_rows: int, batch_size: int, spent: float) -> AdversarialPlan:
        return AdversarialPlan(
            epochs=self.model.epochs or ctgan_epochs(n_rows, batch_size),
            steps_an_epoch=max(1, n_rows // batch_size),
            critic_steps=self._options.discriminator_steps,
            learning_rate=self.model.learning_rate or 2e-4,
            average=self._options.average,
            seed=self.model.seed,
            max_seconds=None if self.model.max_seconds is None else max(1.0, self.model.max_seconds - spent),
        )

    @property
    def _fitted(self) -> tuple[RowCodec, Generator]:
        return learned(self._rows), learned(self._generator)

    @property
    def schema(self) -> TableSchema:
        """Schema of the rows that were learned."""
        return self._fitted[0].flat.codec.schema

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
        rows, generator = self._fitted
        state = np.random.SeedSequence([seed, block, attempt]).generate_state(1, np.uint32)
        random = torch.Generator().manual_seed(int(state[0]))
        # A whole block whatever the rows wanted: the first of them do not depend on how many follow.
        noise = torch.randn(BLOCK_ROWS, generator.latent, generator=random)
        uniform = torch.rand(BLOCK_ROWS, 1 + len(rows.layout.sizes), generator=random)
        with torch.no_grad():
            made = generator(noise, pick(rows.sampling_chances().cumsum(0), uniform[:, 0]))
        tokens, values = rows.decode(made[:n_rows], uniform[:n_rows, 1:])
        return rows.flat.codec.decode(tokens, values, rows=row_numbers(block, n_rows), seed=seed)

    def save(self, folder: Path) -> None:
        """Write the bundle; see `Synthesizer.save`."""
        rows, generator = self._fitted
        weights = {f"generator.{k}": v.numpy() for k, v in generator.state_dict().items()} | rows.arrays()
        shape = {"latent": self._options.latent, "hidden": self._options.hidden}
        codecs = rows.flat.codec.states()
        write_bundle(
            Bundle(self.method, self.schema, codecs, self.model, self.privacy, shape, self._record, weights), folder
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a bundle; see `Synthesizer.load`."""
        bundle = read_bundle(folder, cls.method)
        self = cls(bundle.model, bundle.privacy)
        self._record = dict(bundle.record)
        with loading_weights(folder):
            flat = FlatTable(TableCodec.restore(bundle.schema, bundle.codecs))
            self._rows = RowCodec.restore(flat, bundle.weights)
            self._generator = Generator(
                self._rows.layout, int(bundle.network["latent"]), int(bundle.network["hidden"])
            ).eval()
            self._generator.load_state_dict(tensors_under("generator.", bundle.weights))
        return self


class _Duel:
    """Batches and losses of the two networks.

    Args:
        generator: Makes rows.
        critic: Judges packs of them.
        places: Places within modes of the training rows, float32 (n, numbers).
        codes: Codes of modes and categories, int32 (n, parts).
        batch_size: Rows of a batch, a multiple of the critic's pack.

    """

    def __init__(self, generator: Generator, critic: Critic, places: Tensor, codes: Tensor, batch_size: int) -> None:
        self._generator, self._critic, self._layout = generator, critic, generator.layout
        self._places, self._codes, self.batch_size = places, codes, batch_size
        self._conditions = Conditions(codes[:, self._layout.n_numbers :], self._layout.cardinalities)

    def critic_loss(self, random: torch.Generator) -> Tensor:
        """Of rows made and real rows under the same conditions."""
        condition = self._conditions.draw(self.batch_size, random)
        chosen = self._conditions.rows(condition, random)
        real = self._layout.rows(self._places[chosen], self._codes[chosen].long())
        with torch.no_grad():
            made = soft_rows(self._generate(condition, random), self._layout, random)
        return critic_loss(self._critic, real, made, condition, random)

    def generator_loss(self, random: torch.Generator) -> Tensor:
        """The critic's score of rows made, and whether they are what they were told to be."""
        condition = self._conditions.draw(self.batch_size, random)
        made = self._generate(condition, random)
        score: Tensor = self._critic(soft_rows(made, self._layout, random), condition, random).mean()
        return condition_loss(made, self._layout, condition) - score

    def _generate(self, condition: Tensor, random: torch.Generator) -> Tensor:
        noise = torch.randn(len(condition), self._generator.latent, generator=random, device=condition.device)
        made: Tensor = self._generator(noise, condition)
        return made
