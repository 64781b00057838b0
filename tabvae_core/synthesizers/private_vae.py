"""`vae` with `privacy.epsilon`: what is learned of the rows passes through noise, and all of it is paid for.

    rows ─► private domain ─► codec ─┐
     ├────► noisy marginals ─► mixture ─► made-up rows ─► network, trained as ever ─┐
     └────► DP-SGD ────────────────────────────────────────────────────────────────┴─► network ─► prior of z

What follows from the made-up rows costs nothing more, however often they are read: first weights, early stopping and
the prior of z come from them. The steps on real rows then correct what pairs of columns do not say. Sizes, steps and
rates follow from the spec, the codec and the noisy number of rows. See docs/decisions/0032.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tabvae_core.codecs.table import TableCodec
from tabvae_core.models.latent_prior import LatentPrior
from tabvae_core.models.private_vae import PrivateVAE
from tabvae_core.models.vae import Layout, NetworkSize
from tabvae_core.privacy.accounting import Budget, Loss
from tabvae_core.privacy.domain import BOUNDS, DOMAINS, private_domain
from tabvae_core.privacy.dpsgd import PrivatePlan, SecretRandomness, sampled_gaussian, train_privately
from tabvae_core.privacy.noise import Noise
from tabvae_core.progress import Progress
from tabvae_core.schema import TableSchema
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.dp_marginals import MIXTURE_SHARES, learn_mixture, learned_rows, number_bins
from tabvae_core.synthesizers.options import choose_device
from tabvae_core.synthesizers.vae_rows import EncodedRows, TrainingRows
from tabvae_core.tables import TableSource
from tabvae_core.training import TrainingPlan, TrainingRecord, train

__all__ = ["Asked", "Learned", "PrivateTraining", "learn_privately", "private_training"]

_STEPS = "steps"
"""Share of the budget that DP-SGD uses: what the others leave, so it has no number."""
_SHARES = {BOUNDS: 0.05, DOMAINS: 0.1} | {name: 0.25 * part for name, part in MIXTURE_SHARES.items()}
_WIDTH, _HIDDEN, _DEPTH = 128, 64, 1
_MADE_ROWS, _LEAST_MADE_ROWS, _MADE_STEPS, _MADE_BATCH, _MADE_RATE = 50_000, 10_000, 500, 256, 4e-3
_SAMPLE_RATE, _MOST_BATCH, _PASSES = 0.1, 8_192, 8.0
_RATE = 8e-3
_PRIOR_ROWS = 20_000


@dataclass(frozen=True)
class Asked:
    """Options of `vae` that matter here; 0 or less: the defaults above.

    Args:
        width: Width of the sum that each slot sees.
        hidden: Width of each slot's layers.
        depth: Layers of each slot after the first.
        latent: Dimensions of z.
        free_bits: Nats a latent dimension of a row is given for nothing.
        given_rows: Share of the made-up rows of which some columns are given.

    """

    width: int
    hidden: int
    depth: int
    latent: int
    free_bits: float
    given_rows: float


@dataclass(frozen=True)
class PrivateTraining:
    """Steps on real rows, from public numbers alone.

    Args:
        steps: Steps of DP-SGD.
        sample_rate: Probability of each row to be in a batch.
        learning_rate: Peak of the learning rate.

    """

    steps: int
    sample_rate: float
    learning_rate: float


@dataclass(frozen=True)
class Learned:
    """A trained model; nothing in it is more than the budget paid for.

    Args:
        codec: The table's codecs.
        network: The network, on the CPU.
        prior: Prior of z.
        record: Training record.

    """

    codec: TableCodec
    network: PrivateVAE | None
    prior: LatentPrior | None
    record: dict[str, Any]


def private_training(rows: float, model: ModelSpec) -> PrivateTraining:
    """Choose steps, batches and learning rate from the noisy number of rows; what the spec says stands.

    Large batches: noise has the same size for any, so a row's share of it falls as they grow.
    """
    batch = model.batch_size or min(_SAMPLE_RATE * rows, _MOST_BATCH)
    rate = min(0.5, batch / max(rows, 1.0))
    return PrivateTraining(max(1, round((model.epochs or _PASSES) / rate)), rate, model.learning_rate or _RATE)


def learn_privately(
    source: TableSource, schema: TableSchema, model: ModelSpec, privacy: PrivacySpec, asked: Asked, progress: Progress
) -> Learned:
    """Learn a table within the budget of `privacy.epsilon` and `privacy.delta`.

    Args:
        source: The training rows.
        schema: Made without a look at them.
        model: Seed of all that is not secret, device, limits.
        privacy: The budget, and whether noise is drawn by exact arithmetic.
        asked: Options of the method.
        progress: Told of every step.

    Raises:
        SpecError: Opacus is not installed, or the budget is too small for anything.

    """
    clock, device = _Clock(model.max_seconds), choose_device(model.device)
    budget, noise = Budget.of(privacy, _SHARES), Noise(secure=privacy.secure_noise)
    domain = private_domain(source, schema, budget, noise, bins=number_bins, progress=progress)
    codec = domain.codec
    record = {"rows": round(domain.rows), "slots": len(codec.slots), "members": 0, "relations": []}
    network, prior = None, None
    if codec.slots:
        rows = min(domain.rows, float(model.max_rows))
        training = private_training(rows, model)
        sigma = _pay(budget, training)
        real = learned_rows(source, codec, rows / domain.rows, model.seed, progress)
        sizes = tuple(slot.n_tokens for slot in codec.slots)
        mixture, _ = learn_mixture(real, sizes, rows, budget, noise, seed=model.seed, progress=progress)
        network = _network(codec, asked, model.seed).to(device)
        uniforms = np.random.default_rng(model.seed).random((_made_rows(rows), 1 + len(sizes)))
        made = _as_training(mixture.draw({}, {}, uniforms), codec, asked, model.seed, device)
        first = _learn(network, made, model.seed, clock.left(0.5), progress)
        plan = PrivatePlan(
            training.steps, training.sample_rate, sigma, training.learning_rate,
            expected_batch=training.sample_rate * rows, max_seconds=clock.left(),
        )  # fmt: skip
        secret = SecretRandomness(secure=privacy.secure_noise)
        losses = _losses(network, real, secret, asked.free_bits)
        then = train_privately(network.private_layers, losses, len(real), plan, secret, progress=progress)
        prior = LatentPrior.fit(made.latents(network, _PRIOR_ROWS), model.seed)
        network.cpu().eval()
        record |= {
            "members": 1,
            "parameters": sum(p.numel() for p in network.parameters()),
            "epochs": first.epochs,
            "steps": first.steps + then.steps,
            "batch_size": round(plan.expected_batch),
            "stopped_by": then.stopped,
            "validation_loss": first.validation_loss,
        }
    record |= {
        "seconds": round(clock.spent, 1),
        "device": str(device),
        "notes": list(codec.notes()),
        "privacy": budget.record(),
    }
    return Learned(codec, network, prior, record)


class _Clock:
    """What is left of the time of a training, if that is limited."""

    def __init__(self, max_seconds: float | None) -> None:
        self._started, self._limit = time.monotonic(), max_seconds

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def left(self, share: float = 1.0) -> float | None:
        """A share of the seconds that are left, at least a moment; None without a limit."""
        return None if self._limit is None else max(0.5, share * (self._limit - self.spent))


def _pay(budget: Budget, training: PrivateTraining) -> float:
    """Find the noise that the budget affords beside its shares, and charge the steps, before anything takes long."""
    kept = Loss.zcdp(sum(budget.left(share) for share in budget.shares))

    def cost(sigma: float) -> Loss:
        return sampled_gaussian(sigma, training.sample_rate, training.steps)

    sigma = budget.calibrated(lambda noise: cost(noise) + kept, least=0.2, most=1e4)
    how = {"sigma": sigma, "sample_rate": training.sample_rate, "steps": training.steps}
    budget.spend(_STEPS, "DP-SGD on Poisson samples", cost(sigma), **how)
    return sigma


def _made_rows(rows: float) -> int:
    """Made-up rows to learn from: about as many again as there are real ones, so that none is seen often."""
    return int(np.clip(2 * rows, _LEAST_MADE_ROWS, _MADE_ROWS))


def _as_training(
    tokens: npt.NDArray[np.int32], codec: TableCodec, asked: Asked, seed: int, device: torch.device
) -> TrainingRows:
    """Made-up rows as the default training takes them."""
    nothing = np.zeros(tokens.shape, np.float32)
    arrays = EncodedRows(tokens, tokens, nothing, nothing).on(device)
    return TrainingRows(arrays, codec.columns, seed=seed, free_bits=asked.free_bits, given_rows=asked.given_rows)


def _learn(
    network: PrivateVAE, made: TrainingRows, seed: int, max_seconds: float | None, progress: Progress
) -> TrainingRecord:
    """Train on made-up rows, as on real ones by default."""
    epochs = math.ceil(_MADE_STEPS * _MADE_BATCH / made.n_train)
    plan = TrainingPlan(epochs, _MADE_BATCH, _MADE_RATE, seed=seed, max_seconds=max_seconds)
    return train(network, made.loss, made.validation_loss, made.n_train, plan, progress=progress)


def _network(codec: TableCodec, asked: Asked, seed: int) -> PrivateVAE:
    """Build the network, its softmaxes at the codec's noisy frequencies."""
    torch.manual_seed(seed)
    slots = codec.slots
    layout = Layout(tuple(slot.n_tokens for slot in slots), tuple(slot.n_levels for slot in slots), codec.parents)
    size = NetworkSize(
        asked.width or _WIDTH, asked.hidden or _HIDDEN, asked.depth or _DEPTH, asked.latent, dropout=0.0, frequencies=3
    )
    return PrivateVAE(layout, size, codec.log_priors(), codec.token_values(), codec.value_ranges())


def _losses(
    network: PrivateVAE, rows: npt.NDArray[np.int32], secret: SecretRandomness, free_bits: float
) -> Callable[[Tensor], Tensor]:
    """Losses of real rows by their numbers.

    The noise on z is secret, too: from a known seed, another row in the batch would shift that of the rows behind it.
    """
    tokens = torch.from_numpy(rows).to(next(network.parameters()).device)

    def losses(chosen: Tensor) -> Tensor:
        some = tokens[chosen.to(tokens.device)].long()
        latent = secret.normal((len(some), network.size.latent)).to(tokens.device)
        return network.row_losses(some, torch.zeros_like(some, dtype=torch.bool), latent, free_bits=free_bits)

    return losses
