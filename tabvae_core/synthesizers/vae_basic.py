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

from tabvae_core.bundle import Bundle, read_bundle, write_bundle
from tabvae_core.codecs.base import Codec
from tabvae_core.codecs.category import CategoryCodec
from tabvae_core.codecs.table import TableCodec
from tabvae_core.errors import DataError, ModelFileError, SpecError
from tabvae_core.models.vae_basic import BasicVAE
from tabvae_core.progress import Progress, silent
from tabvae_core.schema import TableSchema
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import BLOCK_ROWS, Synthesizer
from tabvae_core.synthesizers.options import choose_device, read_options
from tabvae_core.tables import TableSource
from tabvae_core.training import TrainingPlan, train

__all__ = ["BasicVAESynthesizer"]

_LARGEST = 1e150
"""Numbers beyond stand for infinities, whose squares would leave the scaler nothing to scale by."""
_MAX_FEATURES = 20_000


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
        self._record: dict[str, Any] = {}

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
        tokens, values = encoded.tokens, (encoded.low + encoded.high) / 2
        rows = torch.from_numpy(features.fit_transform(tokens, values))
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
            "epochs": record.epochs,
            "best_epoch": record.best_epoch,
            "steps": record.steps,
            "batch_size": plan.batch_size,
            "seconds": round(time.monotonic() - started, 1),
            "device": str(device),
            "stopped_by": record.stopped,
            "train_loss": record.train_loss,
            "validation_loss": record.validation_loss,
            "notes": list(codec.notes()),
        }
        return self

    @property
    def _fitted(self) -> _Features:
        if self._features is None:
            raise DataError("the synthesizer has learned nothing yet", hint="call fit, or load a bundle")
        return self._features

    @property
    def schema(self) -> TableSchema:
        """Schema of the rows that were learned."""
        return self._fitted.codec.schema

    @property
    def record(self) -> Mapping[str, Any]:
        """The training record of the model card."""
        return self._record

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
        if given is not None and len(given):
            raise SpecError("method 'vae_basic' cannot fix given values", hint="use method vae")
        features, network = self._fitted, self._network
        assert network is not None
        state = np.random.SeedSequence([seed, block, attempt]).generate_state(1, np.uint32)
        generator = torch.Generator().manual_seed(int(state[0]))
        z = torch.randn(BLOCK_ROWS, network.latent, generator=generator)[:n_rows]
        network.eval()
        with torch.no_grad():
            decoded = network.decoder(z).numpy()
        tokens, values = features.inverse_transform(decoded)
        rows = np.arange(block * BLOCK_ROWS, block * BLOCK_ROWS + n_rows, dtype=np.uint64)
        return features.codec.decode(tokens, values, rows=rows, seed=seed)

    def save(self, folder: Path) -> None:
        """Write the bundle; see `Synthesizer.save`."""
        features, network = self._fitted, self._network
        assert network is not None
        weights = {f"network.{k}": v.numpy() for k, v in network.state_dict().items()} | features.arrays()
        shape = {"latent": self._options.latent, "hidden": self._options.hidden, "features": features.width}
        write_bundle(
            Bundle(
                self.method,
                self.schema,
                features.codec.states(),
                self.model,
                self.privacy,
                shape,
                self._record,
                weights,
            ),
            folder,
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a bundle; see `Synthesizer.load`."""
        bundle = read_bundle(folder)
        if bundle.method != cls.method:
            raise ModelFileError(f"the bundle in {folder} is of method {bundle.method!r}, not {cls.method!r}")
        self = cls(bundle.model, bundle.privacy)
        self._features = _Features(TableCodec.restore(bundle.schema, bundle.codecs))
        self._record = dict(bundle.record)
        try:
            self._features.restore(bundle.weights)
            self._network = BasicVAE(
                int(bundle.network["features"]), int(bundle.network["latent"]), int(bundle.network["hidden"])
            )
            self._network.load_state_dict(
                {k.removeprefix("network."): torch.from_numpy(v) for k, v in bundle.weights.items() if "network." in k}
            )
        except (RuntimeError, KeyError, ValueError) as error:
            raise ModelFileError(
                f"the weights in {folder} do not fit its network: {error.__class__.__name__}",
                hint="fit the model again",
            ) from None
        return self


class _Features:
    """Slots as the article's features: each number standardised, everything else one-hot.

    A numeric slot gives one standardised feature, its value in the column's own units, and, where it has a null,
    a one-hot pair. Spikes and levels are not told apart: the article's network does not know them.
    """

    def __init__(self, codec: TableCodec) -> None:
        self.codec = codec
        self._numbers: list[int] = []
        self._categories: list[int] = []
        at = 0
        for column in codec.codecs:
            for k in range(len(column.slots)):
                (self._numbers if _is_number(column, k) else self._categories).append(at + k)
            at += len(column.slots)
        self._slots = codec.slots
        self._null_of = {slot: self._null_token(slot) for slot in self._numbers}
        self._tables = self._token_tables()
        self._never = [_never(prior) for prior in codec.log_priors()]
        self._center = np.zeros(len(self._numbers))
        self._scale = np.ones(len(self._numbers))

    def _null_token(self, slot: int) -> int | None:
        column = self.codec.codecs[self.codec.columns[slot]]
        table = getattr(column, "table", None) or getattr(column, "day", None)
        first = self.codec.slots_of(self.codec.schema.names[self.codec.columns[slot]])[0]
        return table.null_token if table is not None and table.has_null and slot == first else None

    def _token_tables(self) -> list[npt.NDArray[np.float32]]:
        tables = self.codec.token_values()
        return [t if t is not None else np.zeros(0, np.float32) for t in tables]

    @property
    def width(self) -> int:
        """Features of a row."""
        nulls = sum(token is not None for token in self._null_of.values())
        if not self._slots:
            raise DataError("no column can be learned: all are keys, constants or left null", hint="use method vae")
        width = len(self._numbers) + 2 * nulls + sum(self._slots[s].n_tokens for s in self._categories)
        if width > _MAX_FEATURES:
            raise DataError(
                f"one-hot encoding would make {width:,} features, more than {_MAX_FEATURES:,}",
                hint="use method vae, which needs none, or drop columns of many categories",
            )
        return width

    def fit_transform(self, tokens: npt.NDArray[np.int32], values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Features of encoded rows, float32, shape (n, width)."""
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        _ = self.width
        parts: list[npt.NDArray[Any]] = []
        if self._numbers:
            numbers = np.stack([self._number(s, tokens[:, s], values[:, s]) for s in self._numbers], axis=1)
            scaler = StandardScaler().fit(numbers)
            self._center, self._scale = scaler.mean_, scaler.scale_
            parts.append(np.nan_to_num(scaler.transform(numbers)))
        for slot, null in self._null_of.items():
            if null is not None:
                parts.append(np.eye(2)[(tokens[:, slot] == null).astype(int)])
        if self._categories:
            domains = [np.arange(self._slots[s].n_tokens) for s in self._categories]
            encoder = OneHotEncoder(categories=domains, sparse_output=False)
            parts.append(encoder.fit_transform(tokens[:, self._categories]))
        return np.concatenate(parts, axis=1).astype(np.float32) if parts else np.zeros((len(tokens), 0), np.float32)

    def inverse_transform(
        self, features: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Tokens and values, each (n, slots): the number as it is, of the others the largest feature."""
        n, at = len(features), len(self._numbers)
        tokens = np.zeros((n, len(self._slots)), np.int32)
        values = np.zeros((n, len(self._slots)), np.float32)
        numbers = features[:, :at] * self._scale + self._center
        for k, slot in enumerate(self._numbers):
            tokens[:, slot], values[:, slot] = self._cell(slot, numbers[:, k])
        for slot, null in self._null_of.items():
            if null is not None:
                if null not in self._never[slot]:
                    tokens[features[:, at + 1] > features[:, at], slot] = null
                at += 2
        for slot in self._categories:
            size = self._slots[slot].n_tokens
            drawable = features[:, at : at + size].copy()
            drawable[:, self._never[slot]] = -np.inf
            tokens[:, slot] = drawable.argmax(axis=1)
            at += size
        return tokens, values

    def _numeric(self, slot: int) -> Any:
        column = self.codec.codecs[self.codec.columns[slot]]
        table = getattr(column, "table", None)
        if table is not None:
            return table
        first = self.codec.slots_of(self.codec.schema.names[self.codec.columns[slot]])[0]
        return getattr(column, "day" if slot == first else "clock")

    def _number(self, slot: int, tokens: npt.NDArray[Any], values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Value of each cell as an offset in the column's units; NaN for null."""
        table = self._numeric(slot)
        known = np.minimum(tokens, table.n_tokens - 1)
        decoded, valid = table.decode(known, values)
        offsets = np.clip(table.offsets(decoded), -_LARGEST, _LARGEST)
        return np.where(valid & (tokens < table.n_tokens), offsets, np.nan)

    def _cell(self, slot: int, offsets: npt.NDArray[np.float64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Token and value that decode to (nearly) an offset."""
        table = self._numeric(slot)
        if table.n_levels:
            return np.full(len(offsets), table.n_levels - 1), table.to_z(offsets)
        nearest = np.abs(offsets[:, None] - table.spikes[None]).argmin(axis=1)
        return nearest + table.n_tokens - len(table.spikes), np.zeros(len(offsets))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What a bundle stores."""
        return {"scaler.center": self._center, "scaler.scale": self._scale}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what a bundle stored."""
        self._center, self._scale = arrays["scaler.center"], arrays["scaler.scale"]


def _never(prior: npt.NDArray[np.float32] | None) -> npt.NDArray[np.int64]:
    """Tokens that must not be drawn: nulls that the spec forbids, the stand-in for rare categories."""
    if prior is None or prior.ndim == 2:
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(np.isneginf(prior))


def _is_number(codec: Codec, slot: int) -> bool:
    """Whether a slot of a codec holds a number: those of dates count, weekdays do not."""
    if isinstance(codec, CategoryCodec):
        return False
    if getattr(codec, "table", None) is not None:
        return True
    if getattr(codec, "day", None) is not None:
        return not codec.slots[slot].name.endswith(".weekday")
    return False
