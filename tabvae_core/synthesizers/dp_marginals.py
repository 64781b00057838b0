"""`dp_marginals`: noisy counts of single columns and of chosen pairs, and a mixture of products that fits them.

All that is learned of the rows is noisy counts, paid for out of `privacy.epsilon`; there is no training without one.
At small budgets it is ahead of networks, whose every step costs. See `models/dp_marginals.py` for the maths,
`privacy/domain.py` for what is known of the columns.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.bundle import Bundle, loading_weights, read_bundle, write_bundle
from tabvae_core.codecs.base import IntArray
from tabvae_core.codecs.restrict import slot_limits
from tabvae_core.codecs.table import TableCodec
from tabvae_core.errors import SpecError
from tabvae_core.given import GivenColumn, given_cells, with_given
from tabvae_core.models.dp_marginals import Measured, Mixture, Pair, fit_mixture, pair_counts
from tabvae_core.privacy.accounting import Budget, Loss
from tabvae_core.privacy.domain import BOUNDS, DOMAINS, on_simplex, private_domain
from tabvae_core.privacy.noise import Noise
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.schema import TableSchema
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import BLOCK_ROWS, Synthesizer, learned, row_numbers
from tabvae_core.synthesizers.options import option, read_options
from tabvae_core.tables import TableSource, row_hash

__all__ = ["MIXTURE_SHARES", "DPMarginalsSynthesizer", "learn_mixture", "learned_rows", "number_bins"]

Floats = npt.NDArray[np.float64]

MIXTURE_SHARES = {"counts": 0.2, "selection": 0.1, "training": 0.7}
"""Shares that `learn_mixture` uses, as parts of them all: single counts, choice of pairs, counts of pairs."""
_SHARES = {BOUNDS: 0.05, DOMAINS: 0.15} | {name: 0.8 * part for name, part in MIXTURE_SHARES.items()}
"""Parts of the budget's rho."""
_COMPONENTS, _STEPS = 800, 100
_ROUNDS_PER_COLUMN, _MOST_ROUNDS = 3.0, 120
"""Pairs that are measured."""
_PAIRS_A_FIT = 3
_LEAST_BINS, _MOST_BINS = 8, 32


@dataclass(frozen=True)
class _Options:
    """Options of the method, under `model.options`.

    Args:
        components: Components of the mixture.
        pairs: Pairs of columns that are measured; 0: three a column.
        steps: Steps of each fit between measurements; the last one makes five times as many.

    """

    components: int = option(_COMPONENTS, least=1, below=20_001)
    pairs: int = option(0, least=0, below=10_001)
    steps: int = option(_STEPS, least=1, below=100_001)


class DPMarginalsSynthesizer(Synthesizer):
    """Mixture of products over noisy counts."""

    method = "dp_marginals"
    private = True
    needs_epsilon = True

    def __init__(self, model: ModelSpec | None = None, privacy: PrivacySpec | None = None) -> None:
        super().__init__(model, privacy)
        self._options = read_options(_Options, self.model)
        if self.privacy.epsilon is None:
            raise SpecError(
                "method 'dp_marginals' learns with differential privacy alone, however: privacy.epsilon is not set",
                hint="set it, for example --set privacy.epsilon=1, or use another method",
            )
        self._noise: Noise | None = None
        self._codec: TableCodec | None = None
        self._mixture: Mixture | None = None

    @classmethod
    def planned_loss(cls, privacy: PrivacySpec) -> Loss:
        """All of the budget; see `Synthesizer.planned_loss`."""
        budget = Budget.of(privacy, _SHARES)
        return Loss.zcdp(budget.rho, budget.threshold_delta)

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
        source, schema, _ = self._learnable(table, schema, progress)
        budget = Budget.of(self.privacy, _SHARES)
        noise = self._noise or Noise(secure=self.privacy.secure_noise)
        domain = private_domain(source, schema, budget, noise, bins=number_bins, progress=progress)
        self._codec = codec = domain.codec
        rows = min(domain.rows, float(self.model.max_rows))
        tokens = learned_rows(source, codec, rows / domain.rows, self.model.seed, progress)
        sizes, options = tuple(slot.n_tokens for slot in codec.slots), self._options
        self._mixture, pairs = learn_mixture(
            tokens, sizes, rows, budget, noise, components=options.components, pairs=options.pairs,
            steps=options.steps, seed=self.model.seed, progress=progress,
        )  # fmt: skip
        self._record = {
            "rows": round(rows),
            "columns": len(codec.slots),
            "pairs": pairs,
            "components": self._options.components,
            "seconds": round(time.monotonic() - started, 1),
            "notes": list(codec.notes()),
            "privacy": budget.record(),
        }
        return self

    @property
    def _fitted(self) -> TableCodec:
        return learned(self._codec)

    @property
    def schema(self) -> TableSchema:
        """Schema of the rows that were learned, its shares and counts noisy."""
        return self._fitted.schema

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
        codec, mixture = self._fitted, self._mixture
        assert mixture is not None
        cells = given_cells(given or {}, self.schema, n_rows)
        fixed = {slot: (tokens, mask) for slot, mask, tokens, _ in codec.encode_given(cells)}
        # Whole blocks are always drawn, so that a shorter last block begins like a full one.
        uniforms = np.random.default_rng([seed, block, attempt]).random((BLOCK_ROWS, 1 + len(codec.slots)))[:n_rows]
        tokens = mixture.draw(self._allowed(cells, bounds or {}), fixed, uniforms)
        nothing, rows = np.zeros(tokens.shape, np.float32), row_numbers(block, n_rows)
        decoded = codec.decode(tokens, nothing, rows=rows, seed=seed + 1_000_003 * attempt)
        return with_given(decoded, cells)

    def _allowed(self, cells: Mapping[str, GivenColumn], bounds: Mapping[str, Any]) -> dict[int, npt.NDArray[np.bool_]]:
        """Tokens that may be drawn: none that is too rare, no null where one is to be filled, none out of bounds."""
        codec, limits = self._fitted, slot_limits(self._fitted, bounds)
        result = {}
        for slot, (prior, name) in enumerate(zip(codec.log_priors(), _slot_names(codec), strict=True)):
            may = np.ones(codec.slots[slot].n_tokens, dtype=np.bool_) if prior is None else ~np.isneginf(prior)
            null = codec.codec_of(name).null_token
            if name in cells and null is not None and may.sum() > 1:
                may[null] = False
            if slot in limits and (may & limits[slot].tokens).any():
                may &= limits[slot].tokens
            if not may.all() and may.any():
                result[slot] = may
        return result

    def unlearned(self, given: pa.Table) -> dict[str, int]:
        """Count given cells of values that were never learned; see `Synthesizer.unlearned`."""
        return self._fitted.unlearned(given_cells(given, self.schema, given.num_rows))

    def save(self, folder: Path) -> None:
        """Write the bundle; see `Synthesizer.save`."""
        codec, mixture = self._fitted, self._mixture
        assert mixture is not None
        weights = {"weights": mixture.weights, "shares": mixture.shares}
        network = {"sizes": list(mixture.sizes)}
        write_bundle(
            Bundle(self.method, self.schema, codec.states(), self.model, self.privacy, network, self._record, weights),
            folder,
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a bundle; see `Synthesizer.load`."""
        bundle = read_bundle(folder, cls.method)
        self = cls(bundle.model, bundle.privacy)
        self._record = dict(bundle.record)
        with loading_weights(folder):
            self._codec = TableCodec.restore(bundle.schema, bundle.codecs)
            sizes = tuple(int(size) for size in bundle.network["sizes"])
            weights, shares = (np.asarray(bundle.weights[name], np.float64) for name in ("weights", "shares"))
            if sizes != tuple(slot.n_tokens for slot in self._codec.slots) or shares.shape != (
                len(weights),
                sum(sizes),
            ):
                raise ValueError("of another shape")
            self._mixture = Mixture(sizes, weights, shares)
        return self


def number_bins(rows: float, rho: float) -> int:
    """Bins of a number: the more rows and budget, the more, so that counts of pairs stand out of the noise."""
    return int(np.clip(round((rows * math.sqrt(rho)) ** (1 / 3)), _LEAST_BINS, _MOST_BINS))


def learned_rows(source: TableSource, codec: TableCodec, share: float, seed: int, progress: Progress) -> IntArray:
    """Tokens (n, slots) of a share of the rows: whether one is among them depends on no other and not on their number.

    A fixed number of rows would not do: where one leaves the table another one is let in, and two are not the same.
    """
    parts, first = [np.zeros((0, len(codec.slots)), np.int32)], 0
    for batch, encoded in codec.encode_batches(source, progress=progress):
        numbers = np.arange(first, first + batch.num_rows, dtype=np.uint64)
        parts.append(encoded.tokens[row_hash(numbers, seed) / 2.0**64 < share])
        first += batch.num_rows
    return np.concatenate(parts)


def learn_mixture(
    tokens: IntArray,
    sizes: tuple[int, ...],
    rows: float,
    budget: Budget,
    noise: Noise,
    *,
    components: int = _COMPONENTS,
    pairs: int = 0,
    steps: int = _STEPS,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Mixture, int]:
    """Measure, choose and fit in turn, at the cost of the shares of `MIXTURE_SHARES`; all pairs get as much of them.

    Args:
        tokens: Rows, shape (n, d).
        sizes: Tokens of each of the d columns.
        rows: Noisy number of rows.
        budget: Pays.
        noise: Randomness.
        components: Components of the mixture.
        pairs: Pairs of columns that are measured; 0: three a column.
        steps: Steps of each fit between measurements; the last one makes five times as many.
        seed: Of the first components.
        progress: Told of every fit.

    Returns:
        The mixture, and how many pairs were measured.

    """
    if not sizes:
        return Mixture((), np.ones(1), np.zeros((1, 0))), 0
    candidates = list(combinations(range(len(sizes)), 2))
    wanted = min(pairs or min(_MOST_ROUNDS, round(_ROUNDS_PER_COLUMN * len(sizes))), len(candidates))
    epsilon, sigma = _pair_costs(wanted, budget)
    single, single_sigma = _singles(tokens, rows, sizes, budget, noise)
    measured = Measured(single, {}, single_sigma / rows, sigma / rows)
    mixture: Mixture | None = None
    while True:
        done = len(measured.pairs) == wanted
        mixture = fit_mixture(
            sizes, measured, components=components, steps=steps * (5 if done else 1), seed=seed, start=mixture
        )
        progress(ProgressEvent("train", len(measured.pairs), max(wanted, 1), "pairs", f"{wanted} pairs to measure"))
        if done:
            return mixture, wanted
        for _ in range(min(_PAIRS_A_FIT, wanted - len(measured.pairs))):
            left = [pair for pair in candidates if pair not in measured.pairs]
            pair = _choose(left, tokens, rows, mixture, epsilon, sigma, noise)
            counts = noise.gaussian(pair_counts(tokens, *pair, sizes), sigma)
            measured.pairs[pair] = counts / rows


def _slot_names(codec: TableCodec) -> list[str]:
    return [codec.schema.names[column] for column in codec.columns]


def _singles(
    tokens: IntArray, rows: float, sizes: tuple[int, ...], budget: Budget, noise: Noise
) -> tuple[Floats, float]:
    """Measure the shares of each column's tokens, side by side, and say how noisy their counts are."""
    rho = budget.left("counts")
    sigma = math.sqrt(len(sizes) / (2 * rho))
    budget.spend(
        "counts", "Gaussian noise on counts of single columns", Loss.zcdp(rho), histograms=len(sizes), sigma=sigma
    )
    single = [
        on_simplex(noise.gaussian(np.bincount(tokens[:, j], minlength=size), sigma) / rows, 1.0)
        for j, size in enumerate(sizes)
    ]
    return np.concatenate(single), sigma


def _pair_costs(wanted: int, budget: Budget) -> tuple[float, float]:
    """Epsilon of each choice and noise of each pair's counts, so that all of them use the rest of the budget."""
    if not wanted:
        return 0.0, math.inf
    choosing = budget.left("selection")
    epsilon = math.sqrt(8 * choosing / wanted)
    budget.spend("selection", "exponential mechanism", Loss.zcdp(choosing), choices=wanted, epsilon_each=epsilon)
    counting = budget.left("training")
    sigma = math.sqrt(wanted / (2 * counting))
    budget.spend("training", "Gaussian noise on counts of pairs", Loss.zcdp(counting), histograms=wanted, sigma=sigma)
    return epsilon, sigma


def _choose(
    left: list[Pair], tokens: IntArray, rows: float, mixture: Mixture, epsilon: float, sigma: float, noise: Noise
) -> Pair:
    """Choose the pair that the model has most wrong, less what noise alone would add; sensitivity 1."""
    sizes = mixture.sizes
    scores = [
        float(np.abs(pair_counts(tokens, i, j, sizes) - rows * mixture.pair(i, j)).sum())
        - math.sqrt(2 / math.pi) * sigma * sizes[i] * sizes[j]
        for i, j in left
    ]
    return left[noise.choose(np.array(scores), epsilon, 1.0)]
