"""`vae`: tabvae's own synthesizer. Codecs make slots, a VAE with an autoregressive decoder learns them.

See `models/vae.py` for the network and `docs/decisions/` for what was measured on the way.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from tabvae_core.budget import SMALL_ROWS, training_budget
from tabvae_core.bundle import Bundle, read_bundle, write_bundle
from tabvae_core.codecs.base import Encoded
from tabvae_core.codecs.restrict import slot_limits
from tabvae_core.codecs.table import TableCodec
from tabvae_core.errors import DataError, ModelFileError, SpecError
from tabvae_core.models.vae import Draws, Layout, NetworkSize, Restriction, TabularVAE
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.schema import TableSchema
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import BLOCK_ROWS, Synthesizer
from tabvae_core.synthesizers.options import choose_device, read_options
from tabvae_core.tables import TableSource
from tabvae_core.training import TrainingPlan, TrainingRecord, train

__all__ = ["VAESynthesizer"]

_HEAD_WIDTH = 32
_VALIDATION_SHARE = 0.1
_VALIDATION_ROWS = 5_000


@dataclass(frozen=True)
class _Options:
    """Options of the method, under `model.options`; 0 or less: follows from the table.

    Args:
        width: Width of the network.
        depth: Transformer blocks.
        latent: Dimensions of z.
        dropout: Dropout in training.
        cell_dropout: Share of cells hidden in training.
        frequencies: Octaves of the periodic features of a number.
        free_bits: Nats a latent dimension is given for nothing, which holds its rate there.
        random_order: Share of the batches in which a random subset of the columns comes first, for `given`.

    """

    width: int = 0
    depth: int = 0
    latent: int = 8
    dropout: float = -1.0
    cell_dropout: float = -1.0
    frequencies: int = 0
    free_bits: float = 0.1
    random_order: float = 0.25


class VAESynthesizer(Synthesizer):
    """Variational autoencoder with an autoregressive decoder over slots."""

    method = "vae"

    def __init__(self, model: ModelSpec | None = None, privacy: PrivacySpec | None = None) -> None:
        super().__init__(model, privacy)
        self._options = read_options(_Options, self.model)
        self._codec: TableCodec | None = None
        self._network: TabularVAE | None = None
        self._prior: _LatentPrior | None = None
        self._record: dict[str, Any] = {}

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
        codec, encoded = self._encode(table, schema, progress)
        rows = len(encoded.tokens)
        self._codec = codec
        record = TrainingRecord()
        device = choose_device(self.model.device)
        plan = self._plan(rows, time.monotonic() - started)
        if codec.slots:
            torch.manual_seed(self.model.seed)
            network = _build(codec, self._size(rows)).to(device)
            data = _TrainingData(encoded, network, device, self.model.seed, self._options)
            progress(ProgressEvent("train", 0, plan.epochs, "epochs", f"{rows:,} rows, {len(codec.slots)} slots"))
            record = train(
                network, data.loss, data.validation_loss, data.n_train, plan, progress=progress, checkpoint=checkpoint
            )
            self._prior = _LatentPrior.fit(data.latents(network, 20_000), self.model.seed)
            self._network = network.cpu()
        self._record = {
            "rows": rows,
            "validation_rows": data.n_validation if codec.slots else 0,
            "slots": len(codec.slots),
            "parameters": sum(p.numel() for p in self._network.parameters()) if self._network else 0,
            "epochs": record.epochs,
            "best_epoch": record.best_epoch,
            "steps": record.steps,
            "batch_size": plan.batch_size,
            "seconds": round(time.monotonic() - started, 1),
            "device": str(device),
            "stopped_by": record.stopped,
            "rate_nats": round(data.rate, 3) if codec.slots else 0.0,
            "train_loss": record.train_loss,
            "validation_loss": record.validation_loss,
            "notes": list(codec.notes()),
        }
        return self

    def _size(self, rows: int) -> NetworkSize:
        """Few rows ask for coarser features of numbers and more regularisation, or the network knows rows by heart."""
        asked, small = self._options, rows < SMALL_ROWS
        width = asked.width or 96
        if width <= 0 or width % _HEAD_WIDTH:
            raise SpecError(f"model.options.width must be a multiple of {_HEAD_WIDTH}, however: {width}")
        return NetworkSize(
            width=width,
            hidden=2 * width,
            depth=asked.depth or 3,
            heads=width // _HEAD_WIDTH,
            latent=asked.latent,
            dropout=asked.dropout if asked.dropout >= 0 else (0.2 if small else 0.1),
            cell_dropout=asked.cell_dropout if asked.cell_dropout >= 0 else (0.1 if small else 0.0),
            frequencies=asked.frequencies or (3 if small else 5 if rows < 10_000 else 8),
        )

    def _plan(self, rows: int, spent: float) -> TrainingPlan:
        budget = training_budget(rows, len(self._fitted.slots), self.model)
        return TrainingPlan(
            epochs=budget.epochs,
            batch_size=budget.batch_size,
            learning_rate=budget.learning_rate,
            weight_decay=0.02,
            patience=max(8, budget.epochs // 3),
            seed=self.model.seed,
            max_seconds=None if self.model.max_seconds is None else max(1.0, self.model.max_seconds - spent),
        )

    @property
    def schema(self) -> TableSchema:
        """Schema of the rows that were learned."""
        return self._fitted.schema

    @property
    def record(self) -> Mapping[str, Any]:
        """The training record of the model card."""
        return self._record

    @property
    def _fitted(self) -> TableCodec:
        if self._codec is None:
            raise DataError("the synthesizer has learned nothing yet", hint="call fit, or load a bundle")
        return self._codec

    # Sampling -------------------------------------------------------------------------------------------------------

    def sample_block(
        self,
        block: int,
        n_rows: int,
        *,
        seed: int,
        attempt: int = 0,
        given: Mapping[str, Any] | None = None,
        bounds: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """Draw one block of rows; see `Synthesizer.sample_block`."""
        codec = self._fitted
        rows = np.arange(block * BLOCK_ROWS, block * BLOCK_ROWS + n_rows, dtype=np.uint64)
        if self._network is None or self._prior is None:
            empty = np.zeros((n_rows, 0))
            table = codec.decode(empty.astype(np.int32), empty.astype(np.float32), rows=rows, seed=seed)
        else:
            generator = _generator(seed, block, attempt)
            # Whole blocks are always drawn, so that a shorter last block begins like a full one.
            draws = Draws.make(BLOCK_ROWS, len(codec.slots), self._options.latent, generator)
            pick = torch.rand(BLOCK_ROWS, generator=generator)
            draws = Draws(*(t[:n_rows] for t in (draws.latent, draws.tokens, draws.components, draws.values)))
            z = self._prior.transform(draws.latent, pick[:n_rows])
            tokens, values = self._generate(z, draws, given or {}, bounds or {})
            table = codec.decode(tokens, values, rows=rows, seed=seed)
        return _with_given(table, given or {})

    def _generate(
        self, z: Tensor, draws: Draws, given: Mapping[str, Any], bounds: Mapping[str, Any]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        assert self._network is not None
        codec, network = self._fitted, self._network
        limits = {
            slot: Restriction(limit.tokens, limit.low, limit.high) for slot, limit in slot_limits(codec, bounds).items()
        }
        tokens = torch.zeros(len(z), len(codec.slots), dtype=torch.long)
        values = torch.zeros(len(z), len(codec.slots))
        first: list[int] = []
        for slot, token, value in codec.encode_given(given):
            tokens[:, slot], values[:, slot] = token, value
            first.append(slot)
        order = [*sorted(first), *(s for s in range(len(codec.slots)) if s not in set(first))]
        network.eval()
        drawn, numbers = network.generate(
            z, draws, order, given_tokens=tokens, given_values=values, n_given=len(first), restrictions=limits
        )
        return drawn.numpy().astype(np.int32), numbers.numpy()

    # Bundles --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the bundle; see `Synthesizer.save`."""
        codec = self._fitted
        weights: dict[str, npt.NDArray[Any]] = {}
        network: dict[str, Any] = {}
        if self._network is not None and self._prior is not None:
            weights |= {f"network.{k}": v.numpy() for k, v in self._network.state_dict().items()}
            weights |= {f"prior.{k}": v.numpy() for k, v in vars(self._prior).items()}
            network = asdict(self._network.size)
        write_bundle(
            Bundle(self.method, codec.schema, codec.states(), self.model, self.privacy, network, self._record, weights),
            folder,
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a bundle; see `Synthesizer.load`."""
        bundle = read_bundle(folder)
        if bundle.method != cls.method:
            raise ModelFileError(f"the bundle in {folder} is of method {bundle.method!r}, not {cls.method!r}")
        self = cls(bundle.model, bundle.privacy)
        self._codec = TableCodec.restore(bundle.schema, bundle.codecs)
        self._record = dict(bundle.record)
        if bundle.network:
            try:
                self._network = _build(self._codec, NetworkSize(**bundle.network))
                parts = {k: torch.from_numpy(v) for k, v in bundle.weights.items()}
                self._network.load_state_dict(
                    {k.removeprefix("network."): v for k, v in parts.items() if k.startswith("network.")}
                )
                self._network.eval()
                self._prior = _LatentPrior(
                    **{k.removeprefix("prior."): v for k, v in parts.items() if k.startswith("prior.")}
                )
            except (RuntimeError, TypeError) as error:
                raise ModelFileError(
                    f"the weights in {folder} do not fit its network: {error.__class__.__name__}",
                    hint="fit the model again",
                ) from None
        return self


class _TrainingData:
    """Encoded rows on the device, split into training and validation rows."""

    def __init__(
        self, encoded: Encoded, network: TabularVAE, device: torch.device, seed: int, options: _Options
    ) -> None:
        rows = len(encoded.tokens)
        order = np.random.default_rng(seed).permutation(rows)
        self.n_validation = max(1, min(int(rows * _VALIDATION_SHARE), _VALIDATION_ROWS))
        self.n_train = rows - self.n_validation
        self._held = torch.from_numpy(order[self.n_train :]).to(device)
        self._train = torch.from_numpy(order[: self.n_train])
        self._tokens = torch.from_numpy(encoded.tokens).to(device)
        self._low = torch.from_numpy(encoded.low).to(device)
        self._width = torch.from_numpy(encoded.high - encoded.low).to(device)
        self._device, self._layout = device, network.layout
        self._seed = seed
        self._table_order = torch.arange(self._layout.n_slots, device=device)
        self._free_bits, self._random_order = options.free_bits, options.random_order
        self.rate = 0.0

    def _rows(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Tokens and values; a value lies anywhere in its cell, anew at every step (uniform dequantisation)."""
        place = torch.rand(len(rows), self._layout.n_slots, generator=generator).to(self._device)
        return self._tokens[rows].long(), self._low[rows] + place * self._width[rows]

    def _order(self, generator: torch.Generator) -> Tensor:
        if torch.rand((), generator=generator) >= self._random_order:
            return self._table_order
        return self._subset_first(generator)

    def _subset_first(self, generator: torch.Generator) -> Tensor:
        """A random subset of the columns in the table's order, then the others in it: the order `given` needs."""
        columns = torch.tensor(self._layout.columns)
        chosen = torch.rand(int(columns.max()) + 1, generator=generator) < torch.rand((), generator=generator)
        first = chosen[columns]
        slots = torch.arange(self._layout.n_slots)
        return torch.cat([slots[first], slots[~first]]).to(self._device)

    def loss(self, network: torch.nn.Module, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Negative evidence lower bound of the rows with these indices among the training rows."""
        assert isinstance(network, TabularVAE)
        tokens, values = self._rows(self._train[rows].to(self._device), generator)
        noise = torch.randn(len(rows), network.size.latent, generator=generator).to(self._device)
        order = self._order(generator)
        loss, _ = network.negative_elbo(tokens, values, order, free_bits=self._free_bits, noise=noise)
        return loss

    def validation_loss(self, network: torch.nn.Module) -> float:
        """Negative evidence lower bound of the validation rows, the same noise every time."""
        assert isinstance(network, TabularVAE)
        generator = torch.Generator().manual_seed(self._seed)
        total = rate = 0.0
        for start in range(0, self.n_validation, 1024):
            rows = self._held[start : start + 1024]
            tokens, values = self._rows(rows, generator)
            noise = torch.randn(len(rows), network.size.latent, generator=generator).to(self._device)
            # Both ways of use count: the table's order, and what follows from given columns.
            orders = [(self._table_order, 1 - self._random_order)]
            orders += [(self._subset_first(generator), self._random_order / 4) for _ in range(4)]
            for order, share in orders:
                loss, kl = network.negative_elbo(tokens, values, order, free_bits=0.0, noise=noise)
                total, rate = total + share * float(loss) * len(rows), rate + share * float(kl) * len(rows)
        self.rate = rate / self.n_validation
        return total / self.n_validation

    def latents(self, network: TabularVAE, limit: int) -> npt.NDArray[np.float64]:
        """One draw of z from the posterior of each of at most `limit` training rows."""
        generator = torch.Generator().manual_seed(self._seed + 1)
        drawn = []
        network.eval()
        with torch.no_grad():
            for rows in torch.split(self._train[:limit].to(self._device), 2048):
                tokens, values = self._rows(rows, generator)
                mean, log_variance = network.encode(tokens, values)
                noise = torch.randn(mean.shape, generator=generator).to(self._device)
                drawn.append((mean + noise * (0.5 * log_variance).exp()).cpu())
        return torch.cat(drawn).numpy().astype(np.float64)


class _LatentPrior:
    """Mixture of Gaussians over z, fitted to the aggregate posterior: the prior that the posterior does match.

    Args:
        weights: Float32, shape (k,).
        means: Float32, shape (k, latent).
        factors: Cholesky factors of the covariances, float32, shape (k, latent, latent).

    """

    def __init__(self, weights: Tensor, means: Tensor, factors: Tensor) -> None:
        self.weights, self.means, self.factors = weights, means, factors

    @classmethod
    def fit(cls, z: npt.NDArray[np.float64], seed: int) -> _LatentPrior:
        """Fit by expectation maximisation; few components, each over many rows, so that none is a row's own."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        components = int(np.clip(len(z) // 200, 1, 16))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture = GaussianMixture(components, reg_covar=1e-3, random_state=seed, max_iter=60).fit(z)
        factors = np.linalg.cholesky(mixture.covariances_)
        parts = (mixture.weights_, mixture.means_, factors)
        return cls(*(torch.from_numpy(np.asarray(part, dtype=np.float32)) for part in parts))

    def transform(self, noise: Tensor, pick: Tensor) -> Tensor:
        """Turn standard normal noise (B, latent) and uniforms (B,) into draws (B, latent)."""
        cumulative = self.weights.double().cumsum(0)
        chosen = torch.searchsorted(cumulative, pick.double() * cumulative[-1]).clamp(max=len(self.weights) - 1)
        return self.means[chosen] + torch.einsum("bij,bj->bi", self.factors[chosen], noise)


def _build(codec: TableCodec, size: NetworkSize) -> TabularVAE:
    slots = codec.slots
    layout = Layout(
        tuple(slot.n_tokens for slot in slots),
        tuple(slot.n_levels for slot in slots),
        codec.parents,
        codec.columns,
    )
    return TabularVAE(layout, size, codec.log_priors(), codec.token_values(), codec.value_ranges())


def _generator(seed: int, block: int, attempt: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, block, attempt]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def _with_given(table: pa.Table, given: Mapping[str, Any]) -> pa.Table:
    """Set given columns to exactly what was given, also where the codec knows values only roughly."""
    for name, value in given.items():
        index = table.schema.get_field_index(name)
        field = table.schema.field(index)
        table = table.set_column(index, field, pa.array([value] * table.num_rows, type=field.type))
    return table
