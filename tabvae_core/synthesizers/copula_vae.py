"""`copula_vae`: exact margins outside, a small VAE for the dependence of the ranks.

The idea is that of copula autoencoders (Tagasovska, Ackerer & Vatter, 2019): margins are easy and are kept exactly, so
there is only their copula to learn. Here the network is the copula itself: rows are learned as normal scores, and what
it draws is brought back to uniform margins by the ranks of a large sample of its own, so that whatever it gets wrong,
it is not the distribution of a column.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from tabvae_core.budget import copula_budget
from tabvae_core.bundle import tensors_under
from tabvae_core.codecs.base import IntArray
from tabvae_core.models.copula_vae import CopulaSize, CopulaVAE
from tabvae_core.models.latent_prior import LatentPrior
from tabvae_core.progress import Progress
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import BLOCK_ROWS
from tabvae_core.synthesizers.copula import CopulaSynthesizer
from tabvae_core.synthesizers.margins import Margins
from tabvae_core.synthesizers.options import choose_device, read_options
from tabvae_core.training import TrainingPlan, TrainingRecord, train

__all__ = ["CopulaVAESynthesizer"]

Floats = npt.NDArray[np.float64]

_VALIDATION_SHARE, _VALIDATION_ROWS = 0.1, 5_000
_FREE_BITS = 0.25
_PRIOR_ROWS = 20_000
_RANKED_BLOCKS = 25
_KNOTS = 801
_FARTHEST = 4.2
"""Normal quantile of the outermost knot: one row of the sample that ranks are read from lies beyond."""
_BEYOND = 40.0
"""Stands for the infinite ends of intervals."""


@dataclass(frozen=True)
class _Options:
    """Options of the method, under `model.options`.

    Args:
        latent: Dimensions of the code; 0: follows from the number of variables.
        hidden: Width of the hidden layers.

    """

    latent: int = 0
    hidden: int = 256


class CopulaVAESynthesizer(CopulaSynthesizer):
    """VAE of normal scores under the margins of a table."""

    method = "copula_vae"
    conditions = False

    def __init__(self, model: ModelSpec | None = None, privacy: PrivacySpec | None = None) -> None:
        super().__init__(model, privacy)
        self._options = read_options(_Options, self.model)
        self._network: CopulaVAE | None = None
        self._prior: LatentPrior | None = None
        self._knots: Floats = np.zeros((0, _KNOTS))

    def _learn(
        self, margins: Margins, places: IntArray, started: float, progress: Progress, checkpoint: Path | None
    ) -> dict[str, Any]:
        device, d = choose_device(self.model.device), len(margins.variables)
        if not d:
            return {}
        rows = _Rows(margins, places, self.model.seed, device)
        torch.manual_seed(self.model.seed)
        latent = self._options.latent or max(4, min(d, 16))
        network = CopulaVAE(CopulaSize(d, latent, self._options.hidden)).to(device)
        budget, limit = copula_budget(len(places), self.model), self.model.max_seconds
        plan = TrainingPlan(
            epochs=budget.epochs,
            batch_size=budget.batch_size,
            learning_rate=budget.learning_rate,
            patience=max(8, budget.epochs // 3),
            seed=self.model.seed,
            max_seconds=None if limit is None else max(1.0, limit - (time.monotonic() - started)),
        )
        record = train(
            network, rows.loss, rows.validation_loss, rows.n_train, plan, progress=progress, checkpoint=checkpoint
        )
        self._prior = LatentPrior.fit(rows.codes(network, _PRIOR_ROWS), self.model.seed)
        self._network = network.cpu().eval()
        self._knots = self._learned_knots(margins)
        return _told(record, plan, network, device)

    def _draw(self, generator: torch.Generator) -> Floats:
        """Draw z of one block, shape (4096, d); its margins are the network's own."""
        network, prior = self._network, self._prior
        assert network is not None
        assert prior is not None
        noise = torch.randn(BLOCK_ROWS, network.size.latent, generator=generator)
        code = prior.transform(noise, torch.rand(BLOCK_ROWS, generator=generator))
        with torch.no_grad():
            mean, scale = network.decode(code)
        drawn = mean + scale * torch.randn(mean.shape, generator=generator)
        return drawn.numpy().astype(np.float64)

    def _learned_knots(self, margins: Margins) -> Floats:
        """Quantiles of what the network draws, at `_levels`, shape (d, knots); of values, where they are not null."""
        generator = _generator(self.model.seed, 0, 0)
        drawn = np.concatenate([self._draw(generator) for _ in range(_RANKED_BLOCKS)])
        knots = np.quantile(drawn, ndtr(_levels()), axis=0).T
        for j, null in enumerate(map(margins.null_of, range(drawn.shape[1]))):
            if null is not None:
                there = ndtr(np.interp(drawn[:, null], knots[null], _levels())) < margins.margins[null].edges[1]
                if there.any():
                    knots[j] = np.quantile(drawn[there, j], ndtr(_levels()))
        return np.asarray(knots, dtype=np.float64)

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
        ranks = np.zeros((n_rows, len(self._margins.variables)))
        if self._network is not None:
            drawn = self._draw(_generator(seed, block, attempt))[:n_rows]
            z = [np.interp(drawn[:, j], knots, _levels()) for j, knots in enumerate(self._knots)]
            ranks = ndtr(np.stack(z, axis=1))
        return self._rows(block, ranks, seed)

    def _shape(self) -> dict[str, Any]:
        return {} if self._network is None else {"size": asdict(self._network.size)}

    def _weights(self) -> dict[str, npt.NDArray[Any]]:
        network, prior = self._network, self._prior
        if network is None or prior is None:
            return {}
        parts = {f"network.{name}": part.numpy() for name, part in network.state_dict().items()}
        return parts | {f"prior.{name}": part.numpy() for name, part in vars(prior).items()} | {"knots": self._knots}

    def _take(self, network: Mapping[str, Any], weights: Mapping[str, npt.NDArray[Any]]) -> None:
        if "size" not in network:
            return
        self._network = CopulaVAE(CopulaSize(**network["size"])).eval()
        self._network.load_state_dict(tensors_under("network.", weights))
        self._prior, self._knots = LatentPrior(**tensors_under("prior.", weights)), weights["knots"]


class _Rows:
    """Rows as intervals of z on the device, split into training and validation rows.

    Args:
        margins: Margins of the table.
        places: Pieces of the rows, int32, shape (n, d).
        seed: Seed of the split.
        device: Where the network is.

    """

    def __init__(self, margins: Margins, places: IntArray, seed: int, device: torch.device) -> None:
        order = np.random.default_rng(seed).permutation(len(places))
        n_validation = max(1, min(int(len(places) * _VALIDATION_SHARE), _VALIDATION_ROWS))
        self.n_train, self._seed, self._device = len(places) - n_validation, seed, device
        # One table for the pieces of all variables, one after the other; the last entry is a cell that is not observed.
        scores = [margin.scores() for margin in margins.margins]
        first = np.cumsum([0, *(len(part) for part in scores)])
        entries = np.where(places < 0, first[-1], places + first[:-1])[order]
        ends = [np.clip(ndtri(margin.edges), -_BEYOND, _BEYOND) for margin in margins.margins]
        tables = (
            np.concatenate([*scores, [0.0]]),
            np.concatenate([*(part[:-1] for part in ends), [-_BEYOND]]),
            np.concatenate([*(part[1:] for part in ends), [_BEYOND]]),
        )
        self._entries = torch.from_numpy(entries.astype(np.int32)).to(device)
        self._tables = [torch.from_numpy(table.astype(np.float32)).to(device) for table in tables]

    def _cells(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, lower and upper ends of rows, each (b, d)."""
        entries = self._entries[rows.to(self._device)].long()
        scores, low, high = (table[entries] for table in self._tables)
        return scores, low, high

    def _loss(
        self, network: torch.nn.Module, rows: Tensor, generator: torch.Generator, free_bits: float = 0.0
    ) -> Tensor:
        assert isinstance(network, CopulaVAE)
        noise = torch.randn(len(rows), network.size.latent, generator=generator).to(self._device)
        return network.negative_elbo(*self._cells(rows), noise, free_bits=free_bits)

    def loss(self, network: torch.nn.Module, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Negative evidence lower bound of training rows, by number."""
        return self._loss(network, rows, generator, _FREE_BITS)

    def validation_loss(self, network: torch.nn.Module) -> float:
        """Negative evidence lower bound of the validation rows, the same noise every time."""
        generator, held = torch.Generator().manual_seed(self._seed), torch.arange(self.n_train, len(self._entries))
        parts = [float(self._loss(network, rows, generator)) * len(rows) for rows in torch.split(held, 1024)]
        return sum(parts) / len(held)

    def codes(self, network: CopulaVAE, limit: int) -> Floats:
        """One draw of the code from the posterior of each of at most `limit` training rows."""
        generator, drawn = torch.Generator().manual_seed(self._seed + 1), []
        network.eval()
        with torch.no_grad():
            for rows in torch.split(torch.arange(min(limit, self.n_train)), 2048):
                mean, log_variance = network.encode(self._cells(rows)[0])
                noise = torch.randn(mean.shape, generator=generator).to(self._device)
                drawn.append((mean + noise * (0.5 * log_variance).exp()).cpu())
        return torch.cat(drawn).numpy().astype(np.float64)


def _levels() -> Floats:
    """Normal quantiles of the knots, shape (knots,)."""
    return np.linspace(-_FARTHEST, _FARTHEST, _KNOTS)


def _generator(seed: int, block: int, attempt: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, block, attempt]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def _told(record: TrainingRecord, plan: TrainingPlan, network: CopulaVAE, device: torch.device) -> dict[str, Any]:
    """What the model card says of a training."""
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "batch_size": plan.batch_size,
        "device": str(device),
        **record.told(),
    }
