"""`vae`: tabvae's own synthesizer. Codecs make slots, a VAE with an autoregressive decoder learns them.

See `models/vae.py` for the network and `docs/decisions/` for what was measured on the way.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from tabvae_core.budget import SMALL_ROWS, training_budget
from tabvae_core.bundle import Bundle, read_bundle, write_bundle
from tabvae_core.codecs.links import Links
from tabvae_core.codecs.ordering import arrange
from tabvae_core.codecs.restrict import slot_limits
from tabvae_core.codecs.settling import Settling
from tabvae_core.codecs.table import TableCodec
from tabvae_core.errors import DataError, ModelFileError
from tabvae_core.given import GivenColumn, given_cells, with_given
from tabvae_core.models.latent_prior import LatentPrior
from tabvae_core.models.vae import Draws, Given, Layout, NetworkSize, Restriction, TabularVAE
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.relations import MAX_ROWS, find_relations
from tabvae_core.schema import TableSchema
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import BLOCK_ROWS, Synthesizer
from tabvae_core.synthesizers.options import choose_device, read_options
from tabvae_core.synthesizers.vae_rows import TrainingRows, encode_rows
from tabvae_core.tables import TableSource, as_source, collect
from tabvae_core.training import TrainingPlan, TrainingRecord, train

__all__ = ["VAESynthesizer"]

_OCTAVES = ((25_000, 8), (20_000, 6), (12_000, 5), (0, 3))
"""Octaves of the periodic features by training rows."""
_WIDE = 20


@dataclass(frozen=True)
class _Options:
    """Options of the method, under `model.options`; 0 or less: follows from the table.

    Args:
        width: Width of the network's running sum.
        hidden: Width of each slot's layers.
        depth: Layers of each slot after the first.
        latent: Dimensions of z.
        dropout: Dropout in training.
        cell_dropout: Share of cells hidden in training.
        frequencies: Octaves of the periodic features of a number.
        free_bits: Nats a latent dimension is given for nothing, which holds its rate there.
        given_rows: Share of the training rows of which a random subset of the columns is given, for `given`.

    """

    width: int = 0
    hidden: int = 0
    depth: int = 0
    latent: int = 8
    dropout: float = -1.0
    cell_dropout: float = -1.0
    frequencies: int = 0
    free_bits: float = 0.1
    given_rows: float = 0.25


class VAESynthesizer(Synthesizer):
    """Variational autoencoder with an autoregressive decoder over slots."""

    method = "vae"

    def __init__(self, model: ModelSpec | None = None, privacy: PrivacySpec | None = None) -> None:
        super().__init__(model, privacy)
        self._options = read_options(_Options, self.model)
        self._schema: TableSchema | None = None
        self._codec: TableCodec | None = None  # its columns in the order in which they are drawn
        self._links = Links()
        self._network: TabularVAE | None = None
        self._prior: LatentPrior | None = None
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
        source, schema, chosen = self._learnable(table, schema, progress)
        some = collect(chosen, max_rows=MAX_ROWS)
        relations = find_relations(as_source(some), schema, progress=progress)
        turned, order = arrange(relations, some, schema.names)
        codec = TableCodec.fit(source, schema.reordered(order), self.privacy, progress=progress)
        self._schema, self._codec, self._links = schema, codec, Links.fit(turned, codec, some)
        encoded = encode_rows(chosen, codec, self._links, progress)
        rows = len(encoded)
        record, rate = TrainingRecord(), 0.0
        device = choose_device(self.model.device)
        plan = self._plan(rows, time.monotonic() - started)
        if codec.slots:
            torch.manual_seed(self.model.seed)
            network = _build(codec, self._links, self._size(rows), encoded.targets)
            data = TrainingRows(
                encoded, codec.columns, device, seed=self.model.seed,
                free_bits=self._options.free_bits, given_rows=self._options.given_rows,
            )  # fmt: skip
            network.to(device).prepare(data.sample())
            progress(ProgressEvent("train", 0, plan.epochs, "epochs", f"{rows:,} rows, {len(codec.slots)} slots"))
            record = train(
                network, data.loss, data.validation_loss, data.n_train, plan, progress=progress, checkpoint=checkpoint
            )
            rate = data.rate
            self._prior = LatentPrior.fit(data.latents(network, 20_000), self.model.seed)
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
            "rate_nats": round(rate, 3),
            "train_loss": record.train_loss,
            "validation_loss": record.validation_loss,
            "relations": [relation.text() for relation in relations],
            "notes": list(codec.notes()),
        }
        return self

    def _size(self, rows: int) -> NetworkSize:
        """Few rows ask for coarser features of numbers and more regularisation, or the network knows rows by heart."""
        asked, small, wide = self._options, rows < SMALL_ROWS, len(self._fitted.slots) >= _WIDE
        return NetworkSize(
            width=asked.width or 192,
            hidden=asked.hidden or 128,
            depth=asked.depth or 1,
            latent=asked.latent,
            dropout=asked.dropout if asked.dropout >= 0 else (0.2 if small or wide else 0.1),
            cell_dropout=asked.cell_dropout if asked.cell_dropout >= 0 else (0.1 if small else 0.0),
            frequencies=asked.frequencies or next(octaves for least, octaves in _OCTAVES if rows >= least),
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
        if self._schema is None:
            raise DataError("the synthesizer has learned nothing yet", hint="call fit, or load a bundle")
        return self._schema

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
        given: Mapping[str, Any] | pa.Table | None = None,
        bounds: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """Draw one block of rows; see `Synthesizer.sample_block`."""
        codec = self._fitted
        rows = np.arange(block * BLOCK_ROWS, block * BLOCK_ROWS + n_rows, dtype=np.uint64)
        cells = given_cells(given or {}, codec.schema, n_rows)
        if self._network is None or self._prior is None:
            empty = np.zeros((n_rows, 0))
            table = codec.decode(empty.astype(np.int32), empty.astype(np.float32), rows=rows, seed=seed)
        else:
            generator = _generator(seed, block, attempt)
            # Whole blocks are always drawn, so that a shorter last block begins like a full one.
            draws = Draws.make(BLOCK_ROWS, len(codec.slots), self._options.latent, generator).first(n_rows)
            z = self._prior.transform(draws.latent, torch.rand(BLOCK_ROWS, generator=generator)[:n_rows])
            settling = Settling(codec, self._links, {name: part.cells for name, part in cells.items()})
            limits = {
                slot: Restriction(limit.tokens, limit.low, limit.high)
                for slot, limit in slot_limits(codec, bounds or {}).items()
            }
            self._network.eval()
            tokens, values = self._network.generate(
                z, draws, settling, given=self._given(cells, n_rows), restrictions=limits
            )
            table = settling.decode(tokens, values, rows=rows, seed=seed)
        return with_given(table.select(list(self.schema.names)), cells)

    def unlearned(self, given: pa.Table) -> dict[str, int]:
        """Count given cells of values that were never learned; see `Synthesizer.unlearned`."""
        return self._fitted.unlearned(given_cells(given, self.schema, given.num_rows))

    def _given(self, cells: Mapping[str, GivenColumn], rows: int) -> Given | None:
        """Given cells as slots; None where no slot is given."""
        codec = self._fitted
        shape = (rows, len(codec.slots))
        mask = np.zeros(shape, dtype=np.bool_)
        tokens, values = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        for slot, known, token, value in codec.encode_given(cells):
            mask[:, slot], tokens[:, slot], values[:, slot] = known, token, value
        if not mask.any():
            return None
        return Given(torch.from_numpy(mask), torch.from_numpy(tokens), torch.from_numpy(values))

    # Bundles --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the bundle; see `Synthesizer.save`."""
        codec, schema = self._fitted, self.schema
        drawn = dict(zip(codec.schema.names, codec.states(), strict=True))
        states = [drawn[name] for name in schema.names]  # bundles of all methods hold codecs in the table's order
        weights: dict[str, npt.NDArray[Any]] = {}
        network: dict[str, Any] = {"order": list(codec.schema.names), "links": self._links.to_json()}
        if self._network is not None and self._prior is not None:
            weights |= {f"network.{k}": v.numpy() for k, v in self._network.state_dict().items()}
            weights |= {f"prior.{k}": v.numpy() for k, v in vars(self._prior).items()}
            network["size"] = asdict(self._network.size)
        write_bundle(
            Bundle(self.method, schema, states, self.model, self.privacy, network, self._record, weights),
            folder,
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a bundle; see `Synthesizer.load`."""
        bundle = read_bundle(folder)
        if bundle.method != cls.method:
            raise ModelFileError(f"the bundle in {folder} is of method {bundle.method!r}, not {cls.method!r}")
        self = cls(bundle.model, bundle.privacy)
        self._schema, self._record = bundle.schema, dict(bundle.record)
        try:
            states = dict(zip(bundle.schema.names, bundle.codecs, strict=True))
            order = bundle.network["order"]
            self._codec = TableCodec.restore(bundle.schema.reordered(order), [states[name] for name in order])
            self._links = Links.from_json(bundle.network["links"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"the bundle in {folder} lacks {error}", hint="it is of another version: fit the model again"
            ) from None
        if "size" in bundle.network:
            try:
                self._network = _build(self._codec, self._links, NetworkSize(**bundle.network["size"]), None)
                parts = {k: torch.from_numpy(v) for k, v in bundle.weights.items()}
                self._network.load_state_dict(
                    {k.removeprefix("network."): v for k, v in parts.items() if k.startswith("network.")}
                )
                self._network.eval()
                self._prior = LatentPrior(
                    **{k.removeprefix("prior."): v for k, v in parts.items() if k.startswith("prior.")}
                )
            except (RuntimeError, TypeError) as error:
                raise ModelFileError(
                    f"the weights in {folder} do not fit its network: {error.__class__.__name__}",
                    hint="fit the model again",
                ) from None
        return self


def _build(codec: TableCodec, links: Links, size: NetworkSize, targets: npt.NDArray[np.int32] | None) -> TabularVAE:
    """Build the network of a table; `targets` (n, slots) start the softmaxes, None where weights are loaded next."""
    slots = codec.slots
    extra = [links.extra(index) for index in range(len(slots))]
    layout = Layout(
        tuple(slot.n_tokens + more for slot, more in zip(slots, extra, strict=True)),
        tuple(slot.n_levels for slot in slots),
        codec.parents,
    )
    priors, places = codec.log_priors(), codec.token_values()
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
    return TabularVAE(layout, size, priors, places, codec.value_ranges())


def _generator(seed: int, block: int, attempt: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, block, attempt]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))
