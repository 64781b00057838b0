"""`vae`: tabvae's own synthesizer. Codecs make slots, a VAE with an autoregressive decoder learns them.

See `models/vae.py` for the network and `docs/decisions/` for what was measured on the way.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from tabvae_core.budget import FEW_ROWS, SMALL_ROWS, WIDE_SLOTS, Budget, training_budget
from tabvae_core.bundle import Bundle, loading_weights, read_bundle, tensors_under, write_bundle
from tabvae_core.codecs.edges import find_edges
from tabvae_core.codecs.links import Links
from tabvae_core.codecs.ratios import Ratios
from tabvae_core.codecs.restrict import slot_limits
from tabvae_core.codecs.settling import Settling
from tabvae_core.codecs.table import TableCodec
from tabvae_core.distributed import train_distributed
from tabvae_core.errors import DataError, ModelFileError, SpecError
from tabvae_core.given import GivenColumn, given_cells, with_given
from tabvae_core.models.calibration import Calibration
from tabvae_core.models.drawing import Drawn, Draws, Given, Restriction, generate
from tabvae_core.models.latent_prior import LatentPrior
from tabvae_core.models.pairs import Balance, PairShares
from tabvae_core.models.vae import NetworkSize, TabularVAE
from tabvae_core.parallel import run_members
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.relations import MAX_ROWS, find_relations
from tabvae_core.schema import TableSchema
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import BLOCK_ROWS, Synthesizer, learned, row_numbers
from tabvae_core.synthesizers.options import option, read_options, training_devices
from tabvae_core.synthesizers.vae_chain import Chain, Structure
from tabvae_core.synthesizers.vae_latent import VAELatentSpace
from tabvae_core.synthesizers.vae_rows import EncodedRows, TrainingRows, encode_rows
from tabvae_core.tables import TableSource, as_source, collect, take_rows
from tabvae_core.training import TrainingPlan, TrainingRecord, train

__all__ = ["VAESynthesizer"]

_OCTAVES = ((25_000, 8), (20_000, 6), (12_000, 5), (0, 3))
"""Octaves of the periodic features by training rows."""
_WIDE = 20
_MANY_TOKENS = 20_000
_PRIOR_ROWS = 20_000
_COOLING_STEPS = 150
_WORTHWHILE = 0.006
"""Nats a slot that an epoch must still bring halfway for training to take twice as long."""
_CANDIDATE_CELLS = 1_200
"""Cells of all candidates of a row: memory of a block does not grow with the columns beyond."""
_PIECE_CELLS = 200_000
"""Cells of all candidates that are drawn at once: each is kept as W numbers, twice."""
_GROUP_CELLS, _LEAST_GROUP, _FIRST_GROUP = 80_000, 1_024, 128
"""Cells of the rows that are drawn side by side: wide tables have small groups, since a few rows cost a whole one. But
not below so many rows, at which a slot takes as long as for fewer, except for the first ones of a sample."""
_CALIBRATION_CELLS, _CALIBRATION_ROWS = 400_000, (2_048, 16_384)
"""Cells that margins are fitted with, and the fewest and most rows."""
_PAIR_ROWS, _LEAST_ROWS = 50_000, 10
"""Rows that pairs of cells are counted in at most, and the fewest that a counted cell has."""
_STRIDE = 7_919
"""Between the seeds of members: seeds of models that users count up share none."""


@dataclass(frozen=True)
class _Options:
    """Options of the method, under `model.options`; 0 or less: follows from the table.

    Args:
        width: Width of the sum that each slot sees.
        hidden: Width of each slot's layers.
        depth: Layers of each slot after the first.
        latent: Dimensions of z.
        dropout: Dropout in training.
        cell_dropout: Share of cells hidden in training.
        frequencies: Octaves of the periodic features of a number.
        members: Networks of the ensemble.
        free_bits: Nats a latent dimension is given for nothing, which holds its rate there.
        beta: Price of a nat beyond the free ones; below 1 z holds more, above less, but never less than is free.
        tc: Price of a nat of total correlation between latent dimensions, for dimensions with meanings of their own.
        candidates: Rows drawn for each row with given cells, of which one is kept.
        given_rows: Share of the training rows of which a random subset of the columns is given, for `given`.
        choices: Cells drawn where one is wanted: of 2 one is kept, so that all pairs of columns are as in the training
            rows; 1 draws faster.

    """

    width: int = 0
    hidden: int = 0
    depth: int = 0
    latent: int = 8
    dropout: float = -1.0
    cell_dropout: float = -1.0
    frequencies: int = 0
    members: int = 0
    free_bits: float = 0.1
    beta: float = option(1.0, least=0)
    tc: float = option(0.0, least=0)
    candidates: int = 16
    given_rows: float = 0.25
    choices: int = option(2, least=1, below=3)


@dataclass(frozen=True)
class _Drawing:
    """Rows of a block that are drawn at once.

    Args:
        rows: Numbers of the n rows that are kept.
        draws: Randomness of all B candidates.
        pick: Picks the parts of the priors, shape (B,).
        luck: Gumbel noise of the choice among the candidates of a row, shape (B,).
        times: Candidates of each row, of which one is kept.
        free: Whether nothing is given, so that rows are drawn side by side.
        balance: Chooses between two cells for each one; None: there is but one.

    """

    rows: npt.NDArray[np.uint64]
    draws: Draws
    pick: torch.Tensor
    luck: torch.Tensor
    times: int
    free: bool
    balance: Balance | None = None


@dataclass(frozen=True)
class _Given:
    """What is asked of rows, in the slots of a chain.

    Args:
        chain: The chain.
        cells: Given cells; None where none is.
        limits: What slots may draw.

    """

    chain: Chain
    cells: Given | None
    limits: Mapping[int, Restriction]

    @classmethod
    def of_rows(cls, chain: Chain, cells: Mapping[str, GivenColumn], bounds: Mapping[str, Any], rows: int) -> Self:
        """Encode given cells and bounds of columns."""
        limits = slot_limits(chain.codec, bounds).items()
        restrictions = {slot: Restriction(limit.tokens, limit.low, limit.high) for slot, limit in limits}
        return cls(chain, chain.given(cells, rows), restrictions)

    @property
    def comes_first(self) -> bool:
        """Whether every row's given cells come before all others."""
        if self.cells is None:
            return False
        mask = self.cells.mask.long()
        return bool((mask == mask.cumprod(dim=1)).all())

    def of_candidates(self, rows: slice, times: int) -> Self:
        """The same of some rows, each as often as it has candidates."""
        if self.cells is None:
            return self
        some = self.cells.of(rows)
        repeated = Given(*(part.repeat_interleave(times, dim=0) for part in (some.mask, some.tokens, some.values)))
        return dataclasses.replace(self, cells=repeated)


class VAESynthesizer(Synthesizer):
    """Variational autoencoder with an autoregressive decoder over slots."""

    method = "vae"
    private = True

    def __init__(self, model: ModelSpec | None = None, privacy: PrivacySpec | None = None) -> None:
        super().__init__(model, privacy)
        self._options = read_options(_Options, self.model)
        if self.privacy.epsilon is not None:
            _refuse_meaningless(self.model)
        self._schema: TableSchema | None = None
        self._chains: tuple[Chain, ...] = ()  # member m draws columns in the order of chain m mod their number
        self._networks: list[TabularVAE] = []
        self._priors: list[LatentPrior] = []
        self._pairs: PairShares | None = None

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
        if self.privacy.epsilon is not None:
            return self._learn_privately(source, schema, progress)
        some = collect(chosen, max_rows=MAX_ROWS)
        relations = find_relations(as_source(some), schema, progress=progress)
        structure = Structure(some, tuple(relations), find_edges(some, schema, relations))
        turned, order = structure.arranged(schema.names)
        codec = TableCodec.fit(source, schema.reordered(order), self.privacy, progress=progress)
        first = Chain.fit(codec, structure.links(turned, codec), structure, chosen.num_rows, self._least_rows)
        self._schema, self._chains = schema, (first,)
        encoded = encode_rows(chosen, codec, first.links, first.ratios, progress)
        budget = self._budget(len(encoded))
        devices = training_devices(self.model.device, min(budget.batch_size, len(encoded)))
        records: list[TrainingRecord] = []
        rates: list[float] = []
        if codec.slots:
            records, rates = self._learn(chosen, encoded, structure, budget, devices, started, progress, checkpoint)
        self._record = {
            "rows": len(encoded),
            "slots": len(codec.slots),
            "members": len(self._networks),
            "parameters": sum(p.numel() for network in self._networks for p in network.parameters()),
            "epochs": max((record.epochs for record in records), default=0),
            "best_epoch": [record.best_epoch for record in records],
            "steps": sum(record.steps for record in records),
            "batch_size": budget.batch_size,
            "seconds": round(time.monotonic() - started, 1),
            "device": str(devices[0]) if len(devices) == 1 else f"{devices[0].type} x {len(devices)}",
            "stopped_by": ", ".join(sorted({record.stopped for record in records})),
            "rate_nats": [round(rate, 3) for rate in rates],
            "train_loss": [record.train_loss for record in records],
            "validation_loss": [record.validation_loss for record in records],
            "relations": [relation.text() for relation in relations],
            "ratios": [ratio.text() for ratio in first.ratios.ratios],
            "notes": list(codec.notes()),
        }
        return self

    def _learn(
        self,
        chosen: TableSource,
        encoded: EncodedRows,
        structure: Structure,
        budget: Budget,
        devices: tuple[torch.device, ...],
        started: float,
        progress: Progress,
        checkpoint: Path | None,
    ) -> tuple[list[TrainingRecord], list[float]]:
        """Train the members, each on rows of its own choice: several at a time, or each on several devices."""
        seed, split = self.model.seed, len(devices) > 1
        # Processes of several devices load what they need themselves: this one leaves their memory alone.
        device = torch.device("cpu") if split else devices[0]
        # A GPU is filled by one member, cores are not.
        workers = 1 if split or device.type != "cpu" else torch.get_num_threads()
        n_members = self._n_members(budget, workers)
        workers = min(workers, n_members)
        encodings = [encoded]
        if n_members > 1 and (other := self._other_chain(structure, len(encoded))) is not None:
            self._chains = (*self._chains, other)
            encodings.append(encode_rows(chosen, other.codec, other.links, other.ratios, progress))
        arrays, size, n_chains = [one.on(device) for one in encodings], self._size(len(encoded)), len(self._chains)
        data = [
            TrainingRows(
                arrays[member % n_chains], self._chains[member % n_chains].codec.columns, seed=seed + _STRIDE * member,
                free_bits=self._options.free_bits, given_rows=self._options.given_rows,
                beta=self._options.beta, tc=self._options.tc,
            )
            for member in range(n_members)
        ]  # fmt: skip
        networks: list[TabularVAE] = []
        for member in range(n_members):
            torch.manual_seed(seed + _STRIDE * member)
            network = self._chains[member % n_chains].network(size, encodings[member % n_chains].targets).to(device)
            if member < n_chains:
                network.prepare(data[member].sample())
            else:
                network.additive.load_state_dict(networks[member % n_chains].additive.state_dict())
            networks.append(network)
        steps = budget.epochs * max(1, data[0].n_train // budget.batch_size)
        plan = TrainingPlan(
            epochs=budget.epochs,
            batch_size=budget.batch_size,
            learning_rate=budget.learning_rate,
            weight_decay=0.3,
            patience=max(5, budget.epochs // 5),
            cooling_steps=min(_COOLING_STEPS, steps // 6),
            worthwhile=math.inf if self.model.epochs else _WORTHWHILE * len(self._fitted.slots),
        )
        if self.model.max_seconds is not None:
            rounds, spent = math.ceil(n_members / workers), time.monotonic() - started
            plan = dataclasses.replace(plan, max_seconds=max(1.0, (self.model.max_seconds - spent) / rounds))
        said = f"{len(encoded):,} rows, {len(self._fitted.slots)} slots, {n_members} networks"
        progress(ProgressEvent("train", 0, plan.epochs * n_members, "epochs", said))

        def job(member: int) -> Callable[[Progress], TrainingRecord]:
            rows, folder = data[member], None if checkpoint is None else checkpoint / f"member-{member}"
            own = dataclasses.replace(plan, seed=seed + _STRIDE * member)
            if split:
                return lambda listen: train_distributed(
                    networks[member], rows, own, devices, progress=listen, checkpoint=folder
                )
            return lambda listen: train(
                networks[member], rows.loss, rows.validation_loss, rows.n_train, own, progress=listen, checkpoint=folder
            )

        records = run_members([job(member) for member in range(n_members)], workers, progress)
        self._priors = [
            LatentPrior.fit(rows.latents(network, _PRIOR_ROWS), seed)
            for rows, network in zip(data, networks, strict=True)
        ]
        self._networks = [network.cpu() for network in networks]
        fits = [functools.partial(self._calibrate, member, encodings[member % n_chains]) for member in range(n_members)]
        run_members(fits, min(n_members, torch.get_num_threads()), progress)
        self._pairs = self._count_pairs(encoded)
        return records, [rows.rate for rows in data]

    def _calibrate(self, member: int, encoded: EncodedRows, progress: Progress) -> None:
        """Draw from a member, and fit its margins to the training rows on the way."""
        chain, network, prior = self._chain_of(member), self._networks[member], self._priors[member]
        slots = len(chain.codec.slots)
        rows = min(max(_CALIBRATION_CELLS // slots, _CALIBRATION_ROWS[0]), _CALIBRATION_ROWS[1])
        seed = self.model.seed + _STRIDE * member
        generator = torch.Generator().manual_seed(seed)
        draws = Draws.make_even(rows, slots, self._options.latent, generator)
        latent = prior.transform(draws.latent, torch.rand(rows, generator=generator))
        fitting = Calibration(network, encoded.targets, encoded.low, encoded.high, seed)
        generate(network, latent, draws, chain.settling(), spread=True, fitting=fitting)
        progress(ProgressEvent("calibrate", 1, 1, "networks", "margins are those of the training rows"))

    def _count_pairs(self, encoded: EncodedRows) -> PairShares | None:
        """Shares of the cells of pairs; None where there is no pair, or too many of them."""
        (first, *_), slots = self._chains, len(self._fitted.slots)
        if self._options.choices == 1 or not 1 < slots <= WIDE_SLOTS:
            return None
        some = np.sort(np.random.default_rng(self.model.seed).permutation(len(encoded))[:_PAIR_ROWS])
        return PairShares.fit(
            encoded.tokens[some],
            encoded.low[some],
            encoded.high[some],
            [slot.n_levels for slot in first.codec.slots],
            first.codec.token_values(),
            [slot.n_tokens for slot in first.codec.slots],
            self._least_rows,
        )

    @property
    def _least_rows(self) -> int:
        """Rows that must share what a bundle keeps of them beside its codecs."""
        return max(_LEAST_ROWS, self.privacy.min_category_rows)

    def _other_chain(self, structure: Structure, n_rows: int) -> Chain | None:
        """The columns the other way round; None where fewer relations could be computed so.

        Edges say themselves in which order their columns are to be drawn: in another, less is known of the rest, too.
        """
        if structure.edges:
            return None
        (first,) = self._chains
        turned, order = structure.arranged(self.schema.names[::-1])
        order = first.ratios.arranged(order)
        if order == first.codec.schema.names:
            return None
        codec = first.codec.reordered(order)
        links = structure.links(turned, codec)
        return (
            None
            if len(links.links) < len(first.links.links)
            else Chain.fit(codec, links, structure, n_rows, self._least_rows)
        )

    def _chain_of(self, member: int) -> Chain:
        return self._chains[member % len(self._chains)]

    def _learn_privately(self, source: TableSource, schema: TableSchema, progress: Progress) -> Self:
        from tabvae_core.synthesizers.private_vae import Asked, learn_privately

        asked = Asked(**{field.name: getattr(self._options, field.name) for field in dataclasses.fields(Asked)})
        found = learn_privately(source, schema, self.model, self.privacy, asked, progress)
        self._schema, self._chains = found.codec.schema, (Chain(found.codec, Links(), Ratios()),)
        self._record = found.record
        if found.network is not None and found.prior is not None:
            self._networks, self._priors = [found.network], [found.prior]
        return self

    def _n_members(self, budget: Budget, workers: int) -> int:
        """Networks of the ensemble: one where it is large itself, no more than run at once where time is short."""
        if self._options.members > 0:
            return self._options.members
        if sum(slot.n_tokens for slot in self._fitted.slots) > _MANY_TOKENS:
            return 1
        return budget.members if self.model.max_seconds is None else min(budget.members, workers)

    def _size(self, rows: int) -> NetworkSize:
        """Few rows ask for coarser features of numbers and more regularisation, or the network knows rows by heart.

        Wide tables get narrower layers: a step of 500 columns would take ten seconds of two cores.
        """
        asked, small, slots = self._options, rows < SMALL_ROWS, len(self._fitted.slots)
        wide, narrow = slots >= _WIDE, slots > WIDE_SLOTS
        return NetworkSize(
            width=asked.width or (128 if narrow else 192),
            hidden=asked.hidden or (64 if narrow else 128),
            depth=asked.depth or 1,
            latent=asked.latent,
            dropout=asked.dropout if asked.dropout >= 0 else (0.2 if small or wide else 0.1),
            cell_dropout=asked.cell_dropout if asked.cell_dropout >= 0 else (0.1 if rows < FEW_ROWS else 0.0),
            frequencies=asked.frequencies or next(octaves for least, octaves in _OCTAVES if rows >= least),
            weighed=slots <= WIDE_SLOTS,
        )

    def _budget(self, rows: int) -> Budget:
        slots = self._fitted.slots
        return training_budget(rows, len(slots), sum(slot.n_levels > 0 for slot in slots), self.model)

    @property
    def schema(self) -> TableSchema:
        """Schema of the rows that were learned."""
        return learned(self._schema)

    @property
    def _n_slots(self) -> int:
        return len(self._fitted.slots)

    @property
    def _fitted(self) -> TableCodec:
        return learned(self._chains[0] if self._chains else None).codec

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
        cells = given_cells(given or {}, codec.schema, n_rows)
        if not self._networks:
            empty, rows = np.zeros((n_rows, 0)), row_numbers(block, n_rows)
            table = codec.decode(empty.astype(np.int32), empty.astype(np.float32), rows=rows, seed=seed)
        else:
            table = self._draw(block, n_rows, seed, attempt, cells, bounds or {})
        return with_given(table.select(list(self.schema.names)), cells)

    def _draw(
        self,
        block: int,
        wanted: int,
        seed: int,
        attempt: int,
        cells: Mapping[str, GivenColumn],
        bounds: Mapping[str, Any],
    ) -> pa.Table:
        """Draw the rows of a block; where cells are given, a few candidates for each row, of which one is kept."""
        generator = _generator(seed, block, attempt)
        chains = [_Given.of_rows(chain, cells, bounds, wanted) for chain in self._chains]
        # Where given cells come first in a chain's order, what follows is drawn to suit anyway.
        exact = [chain.comes_first for chain in chains]
        members = [m for m in range(len(self._networks)) if not any(exact) or exact[m % len(chains)]]
        free = all(chain.cells is None for chain in chains)
        times = 1 if free or any(exact) else max(1, min(self._options.candidates, _CANDIDATE_CELLS // self._n_slots))
        balance = None
        # Rows that are bounded, or drawn to replace others, need not have the pairs of a whole table, nor those with
        # cells of their own, be it of columns without slots.
        is_whole = attempt == 0 and not any(chain.limits for chain in chains)
        if self._pairs is not None and is_whole and not any(column.mask.any() for column in cells.values()):
            orders = [self._fitted.slots_like(chain.codec) for chain in self._chains]
            balance = Balance(self._pairs, block * BLOCK_ROWS, seed, generator, orders)
        most = BLOCK_ROWS * times
        # Whole blocks are always drawn, so that a shorter last block begins like a full one.
        make = Draws.make_even if free else Draws.make
        draws = make(most, self._n_slots, self._options.latent, generator)
        pick = torch.rand(most, generator=generator)
        luck = -(-torch.rand(most, generator=generator).clamp(1e-12, 1 - 1e-7).log()).log()
        pieces = self._groups(block, wanted, whole=attempt == 0) if free else self._pieces(wanted, times)
        numbers = row_numbers(block, pieces[-1][1])
        parts = []
        for first, last in pieces:
            some = slice(first * times, last * times)
            drawing = _Drawing(numbers[first:last], draws.of(some), pick[some], luck[some], times, free, balance)
            own = {name: _slice(column.cells, first, last) for name, column in cells.items()}
            parts.append(
                self._draw_piece(
                    drawing, members, [chain.of_candidates(slice(first, last), times) for chain in chains], own, seed
                )
            )
        return pa.concat_tables(parts).slice(0, wanted).combine_chunks()

    def _groups(self, block: int, rows: int, *, whole: bool) -> list[tuple[int, int]]:
        """Rows from and to of what is drawn side by side, where rows of a group depend on each other.

        Whole groups are drawn, so that the first rows are the same however many follow. Those of the first block begin
        small, so that few rows are spread evenly, too.
        """
        most = max(_LEAST_GROUP, min(BLOCK_ROWS, 1 << (_GROUP_CELLS // self._n_slots).bit_length() - 1))
        groups, first = [], 0
        while first < max(rows, 1):
            size = most if block or not whole else min(most, max(first, _FIRST_GROUP))
            groups.append((first, first + size if whole else min(first + size, rows)))
            first += size
        return groups

    def _pieces(self, rows: int, times: int) -> list[tuple[int, int]]:
        """Rows from and to of what is drawn at once: cells of all candidates are kept while a piece is drawn."""
        if times == 1:
            return [(0, rows)]
        members = len(self._networks)
        at_once = max(1, _PIECE_CELLS // (times * self._n_slots * members)) * members
        return [(first, min(first + at_once, rows)) for first in range(0, rows, at_once)]

    def _draw_piece(
        self,
        piece: _Drawing,
        members: Sequence[int],
        given: Sequence[_Given],
        cells: Mapping[str, pa.Array],
        seed: int,
    ) -> pa.Table:
        """Draw candidate i from member i mod M, so that few rows come from all members, too; keep as many as rows."""
        n, times, step = len(piece.pick), piece.times, len(members)
        walks: list[tuple[npt.NDArray[np.int64], Settling, Drawn]] = []
        log_weights = piece.luck.clone()
        for place, member in enumerate(members[:n]):
            own, candidates = slice(place, n, step), np.arange(place, n, step)
            chain = given[member % len(given)]
            settling = chain.chain.settling(
                {name: column.take(pa.array(candidates // times)) for name, column in cells.items()}
            )
            drawn = generate(
                self._networks[member], self._priors[member].transform(piece.draws.latent[own], piece.pick[own]),
                piece.draws.of(own), settling, given=None if chain.cells is None else chain.cells.of(own),
                restrictions=chain.limits, weighed=times > 1, spread=piece.free,
                choosing=None if piece.balance is None else piece.balance.walk(len(candidates), member % len(given)),
            )  # fmt: skip
            log_weights[own] += drawn.log_weights
            walks.append((candidates, settling, drawn))
        is_kept = np.zeros(n, dtype=np.bool_)
        best = log_weights.view(-1, times).argmax(dim=1).numpy()
        is_kept[np.arange(n // times) * times + best] = True
        row_of = np.cumsum(is_kept) - 1
        tables, order = [], []
        for candidates, settling, drawn in walks:
            kept = np.flatnonzero(is_kept[candidates])
            settling.keep(kept)
            rows = row_of[candidates[kept]]
            table = settling.decode(drawn.tokens[kept], drawn.values[kept], rows=piece.rows[rows], seed=seed)
            tables.append(table.select(list(self.schema.names)))
            order.append(rows)
        return take_rows(pa.concat_tables(tables).combine_chunks(), np.argsort(np.concatenate(order)))

    def unlearned(self, given: pa.Table) -> dict[str, int]:
        """Count given cells of values that were never learned; see `Synthesizer.unlearned`."""
        return self._fitted.unlearned(given_cells(given, self.schema, given.num_rows))

    def latent_space(self, member: int = 0) -> VAELatentSpace:
        """The latent space of one member; see `Synthesizer.latent_space`."""
        members = len(self._networks)
        if not members:
            raise DataError("the model has no latent space: its table has no column that varies", hint="fit another")
        if not 0 <= member < members:
            raise SpecError(
                f"there is no member {member}: the model has {members} network{'s' if members > 1 else ''}",
                hint=f"members are counted from 0 to {members - 1}",
            )
        return VAELatentSpace(
            self.schema, self._chain_of(member), self._networks[member], self._priors[member], member, members
        )

    # Bundles --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the bundle; see `Synthesizer.save`."""
        codec, schema = self._fitted, self.schema
        drawn = dict(zip(codec.schema.names, codec.states(), strict=True))
        states = [drawn[name] for name in schema.names]  # bundles of all methods hold codecs in the table's order
        weights: dict[str, npt.NDArray[Any]] = {}
        network: dict[str, Any] = {"chains": [chain.to_json() for chain in self._chains]}
        for member, (net, prior) in enumerate(zip(self._networks, self._priors, strict=True)):
            weights |= {f"network.{member}.{k}": v.numpy() for k, v in net.state_dict().items()}
            weights |= {f"prior.{member}.{k}": v.numpy() for k, v in vars(prior).items()}
        if self._networks:
            network |= {"size": asdict(self._networks[0].size), "members": len(self._networks)}
        if self._pairs is not None:
            weights |= {f"pairs.{k}": v for k, v in self._pairs.arrays().items()}
        write_bundle(
            Bundle(self.method, schema, states, self.model, self.privacy, network, self._record, weights),
            folder,
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a bundle; see `Synthesizer.load`."""
        bundle = read_bundle(folder, cls.method)
        self = cls(bundle.model, bundle.privacy)
        self._schema, self._record = bundle.schema, dict(bundle.record)
        try:
            codec = TableCodec.restore(bundle.schema, bundle.codecs)
            self._chains = tuple(Chain.from_json(stored, codec) for stored in bundle.network["chains"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"the bundle in {folder} lacks {error}", hint="it is of another version: fit the model again"
            ) from None
        if "size" in bundle.network:
            with loading_weights(folder):
                size = NetworkSize(**bundle.network["size"])
                for member in range(int(bundle.network["members"])):
                    network = self._chain_of(member).network(size)
                    network.load_state_dict(tensors_under(f"network.{member}.", bundle.weights))
                    self._networks.append(network.eval())
                    self._priors.append(LatentPrior(**tensors_under(f"prior.{member}.", bundle.weights)))
                if pairs := tensors_under("pairs.", bundle.weights):
                    self._pairs = PairShares.from_arrays({name: part.numpy() for name, part in pairs.items()})
        return self


def _refuse_meaningless(model: ModelSpec) -> None:
    """Refuse options of what differential privacy leaves no room for."""
    for name in ("members", "dropout", "cell_dropout", "frequencies", "beta", "tc", "choices"):
        if name in model.options:
            raise SpecError(
                f"model.options.{name} means nothing with privacy.epsilon",
                hint="leave it out: one network is trained, and noise regularises it",
            )


def _slice(cells: pa.Array, first: int, last: int) -> pa.Array:
    """Cells from and to; null beyond the last one, in rows that are drawn to complete a group."""
    some = cells.slice(first, last - first)
    missing = last - first - len(some)
    return pa.concat_arrays([some, pa.nulls(missing, some.type)]) if missing else some


def _generator(seed: int, block: int, attempt: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, block, attempt]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))
