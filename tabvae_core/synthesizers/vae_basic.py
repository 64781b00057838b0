"""`vae_basic`: the article's plain VAE, kept as the point of reference that `vae` is measured against.

Numbers are standardised, categories one-hot encoded, both by scikit-learn; the network is trained on squared error
and sampled from N(0, I). What it is known to do badly (spikes, tails, rare classes, dependence) it does badly here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from tabvae_core.bundle import Bundle, loading_weights, read_bundle, tensors_under, write_bundle
from tabvae_core.codecs.base import Encoded
from tabvae_core.codecs.flat import FlatTable
from tabvae_core.codecs.table import TableCodec
from tabvae_core.models.vae_basic import BasicVAE
from tabvae_core.progress import Progress, silent
from tabvae_core.schema import TableSchema
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import BLOCK_ROWS, Synthesizer, learned, row_numbers
from tabvae_core.synthesizers.options import choose_device, read_options
from tabvae_core.tables import TableSource
from tabvae_core.training import TrainingPlan, train

__all__ = ["BasicVAESynthesizer"]


@dataclass(frozen=True)
class _Options:
    """Options of the method, under `model.options`.

    Args:
        latent: Dimensions of z.
        hidden: Width of the hidden layers.

    """

    latent: int = 8
    hidden: int = 64


class BasicVAESynthesizer(Synthesizer):
    """Plain VAE over standardised numbers and one-hot categories."""

    method = "vae_basic"
    conditions = False

    def __init__(self, model: ModelSpec | None = None, privacy: PrivacySpec | None = None) -> None:
        super().__init__(model, privacy)
        self._options = read_options(_Options, self.model)
        self._features: _Features | None = None
        self._network: BasicVAE | None = None

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
        features = _Features(codec)
        rows = torch.from_numpy(features.fit_transform(encoded))
        device = choose_device(self.model.device)
        order = torch.from_numpy(np.random.default_rng(self.model.seed).permutation(len(rows)))
        held = max(1, len(rows) // 10)
        validation, training = rows[order[:held]].to(device), rows[order[held:]].to(device)
        torch.manual_seed(self.model.seed)
        network = BasicVAE(rows.shape[1], self._options.latent, self._options.hidden).to(device)
        plan = TrainingPlan(
            epochs=self.model.epochs or 30,
            batch_size=self.model.batch_size or 128,
            learning_rate=self.model.learning_rate or 1e-3,
            weight_decay=0.0,
            average=0.0,
            seed=self.model.seed,
            final_rate=1.0,
            max_seconds=None if self.model.max_seconds is None else max(1.0, self.model.max_seconds),
        )

        def loss(model: torch.nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
            assert isinstance(model, BasicVAE)
            noise = torch.randn(len(index), model.latent, generator=generator).to(device)
            return model.loss(training[index.to(device)], noise)

        def validation_loss(model: torch.nn.Module) -> float:
            assert isinstance(model, BasicVAE)
            noise = torch.randn(len(validation), model.latent, generator=torch.Generator().manual_seed(0))
            return float(model.loss(validation, noise.to(device)))

        record = train(network, loss, validation_loss, len(training), plan, progress=progress, checkpoint=checkpoint)
        self._features, self._network = features, network.cpu()
        self._record = {
            "rows": len(rows),
            "validation_rows": held,
            "features": rows.shape[1],
            "parameters": sum(p.numel() for p in network.parameters()),
            "batch_size": plan.batch_size,
            "seconds": round(time.monotonic() - started, 1),
            "device": str(device),
            **record.told(),
            "notes": list(codec.notes()),
        }
        return self

    @property
    def _fitted(self) -> _Features:
        return learned(self._features)

    @property
    def schema(self) -> TableSchema:
        """Schema of the rows that were learned."""
        return self._fitted.flat.codec.schema

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
        features, network = self._fitted, self._network
        assert network is not None
        state = np.random.SeedSequence([seed, block, attempt]).generate_state(1, np.uint32)
        generator = torch.Generator().manual_seed(int(state[0]))
        z = torch.randn(BLOCK_ROWS, network.latent, generator=generator)[:n_rows]
        network.eval()
        with torch.no_grad():
            decoded = network.decoder(z).numpy()
        tokens, values = features.inverse_transform(decoded)
        return features.flat.codec.decode(tokens, values, rows=row_numbers(block, n_rows), seed=seed)

    def save(self, folder: Path) -> None:
        """Write the bundle; see `Synthesizer.save`."""
        features, network = self._fitted, self._network
        assert network is not None
        weights = {f"network.{k}": v.numpy() for k, v in network.state_dict().items()} | features.arrays()
        shape = {"latent": self._options.latent, "hidden": self._options.hidden, "features": features.width}
        codecs = features.flat.codec.states()
        write_bundle(
            Bundle(self.method, self.schema, codecs, self.model, self.privacy, shape, self._record, weights), folder
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a bundle; see `Synthesizer.load`."""
        bundle = read_bundle(folder, cls.method)
        self = cls(bundle.model, bundle.privacy)
        self._features = _Features(TableCodec.restore(bundle.schema, bundle.codecs))
        self._record = dict(bundle.record)
        with loading_weights(folder):
            self._features.restore(bundle.weights)
            self._network = BasicVAE(
                int(bundle.network["features"]), int(bundle.network["latent"]), int(bundle.network["hidden"])
            )
            self._network.load_state_dict(tensors_under("network.", bundle.weights))
        return self


class _Features:
    """A flat table as the article's features: each number standardised, every category one-hot."""

    def __init__(self, codec: TableCodec) -> None:
        self.flat = FlatTable(codec)
        self.width = self.flat.width()
        self._center = np.zeros(self.flat.n_numbers)
        self._scale = np.ones(self.flat.n_numbers)

    def fit_transform(self, encoded: Encoded) -> npt.NDArray[np.float32]:
        """Features of encoded rows, float32, shape (n, width)."""
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        numbers, categories = self.flat.flatten(encoded)
        parts: list[npt.NDArray[Any]] = []
        if self.flat.n_numbers:
            scaler = StandardScaler().fit(numbers)
            self._center, self._scale = scaler.mean_, scaler.scale_
            parts.append(np.nan_to_num(scaler.transform(numbers)))
        if self.flat.cardinalities:
            domains = [np.arange(size) for size in self.flat.cardinalities]
            parts.append(OneHotEncoder(categories=domains, sparse_output=False).fit_transform(categories))
        return np.concatenate(parts, axis=1).astype(np.float32)

    def inverse_transform(
        self, features: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Tokens and values, each (n, slots): the number as it is, of the others the largest feature."""
        at = self.flat.n_numbers
        numbers = features[:, :at] * self._scale + self._center
        categories = np.zeros((len(features), len(self.flat.cardinalities)), np.int64)
        for k, drawable in enumerate(self.flat.drawable):
            scores = np.where(drawable, features[:, at : at + len(drawable)], -np.inf)
            categories[:, k] = scores.argmax(axis=1)
            at += len(drawable)
        return self.flat.decode(numbers, categories, spikes=False)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What a bundle stores."""
        return {"scaler.center": self._center, "scaler.scale": self._scale}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what a bundle stored."""
        self._center, self._scale = arrays["scaler.center"], arrays["scaler.scale"]
