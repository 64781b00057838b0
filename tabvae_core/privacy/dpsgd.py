"""DP-SGD (Abadi et al., 2016): steps on noisy sums of the clipped gradients of Poisson samples of the rows.

    each row is in a batch with probability q, by itself ─► its gradient, cut to norm C ─► sum + N(0, (σC)²) ─► Adam

What leaves a step is the noisy sum alone, divided by numbers that are public, so any optimiser and any average of
weights may follow. The cost of all steps comes from Opacus' accountant (Rényi divergence of the Poisson-sampled
Gaussian mechanism: Mironov, Talwar & Zhang, 2019). Nothing ends training early but a clock.

Samples and noise have no seed: who knows which rows were in a batch, or the noise, is promised nothing.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tabvae_core.errors import SpecError
from tabvae_core.privacy.accounting import ORDERS, Loss
from tabvae_core.privacy.row_gradients import RowGradients
from tabvae_core.progress import Progress, ProgressEvent, silent

__all__ = ["PrivatePlan", "PrivateRecord", "SecretRandomness", "sampled_gaussian", "train_privately"]

Floats32 = npt.NDArray[np.float32]

_KNOTS = (1.25, 1.5, 1.75, 2.25, 2.5, 2.75, 3.5, 4.5, *range(2, 65), 80, 96, 128)
"""Orders at which Opacus is asked; fractions cost a hundred times more than whole numbers."""
_PARTS = 4
_CHUNK = 1 << 20


@dataclass(frozen=True)
class PrivatePlan:
    """How to train; nothing of it may come from the rows but through a mechanism that was paid for.

    Args:
        steps: Steps.
        sample_rate: Probability q of each row to be in a step's batch.
        noise: σ, standard deviation of the noise in units of `clip`.
        learning_rate: Peak of the learning rate, which warms up in a few steps and falls linearly to nothing.
        expected_batch: What sums are divided by; public, about q times the rows.
        clip: C, largest norm of a row's gradient.
        average: Decay of the exponential moving average of the weights.
        most_rows: Rows whose gradients are computed at once.
        max_seconds: Wall-clock limit.

    """

    steps: int
    sample_rate: float
    noise: float
    learning_rate: float
    expected_batch: float
    clip: float = 1.0
    average: float = 0.9
    most_rows: int = 1024
    max_seconds: float | None = None


@dataclass(frozen=True)
class PrivateRecord:
    """What happened, as far as it is public: no loss of real rows is among it.

    Args:
        steps: Steps run.
        seconds: Wall-clock time.
        stopped: "steps" or "max_seconds".

    """

    steps: int
    seconds: float
    stopped: str


class SecretRandomness:
    """Bits of the operating system, as batches and noise.

    Args:
        secure: Draw every number from the operating system's generator, each normal as a sum of several, so that the
            low bits of a number do not tell what it was added to (Holohan & Braghin, 2021); else from one generator
            that the operating system seeds.
        rng: Generator in its place; for tests alone.

    """

    def __init__(self, *, secure: bool = False, rng: np.random.Generator | None = None) -> None:
        self._secure = secure
        self._rng = np.random.default_rng(secrets.randbits(256)) if rng is None else rng

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, float32."""
        if not self._secure:
            return torch.from_numpy(self._rng.standard_normal(tuple(shape), dtype=np.float32))
        size = math.prod(shape)
        parts = [self._exact(min(_CHUNK, size - at)) for at in range(0, size, _CHUNK)]
        return torch.from_numpy(np.concatenate([*parts, np.empty(0, np.float32)]).reshape(tuple(shape)))

    def _exact(self, n: int) -> Floats32:
        """Sum independent normals by Box and Muller, from 53 bits a uniform."""
        bits = np.frombuffer(secrets.token_bytes(16 * _PARTS * n), dtype=np.uint64).reshape(2, _PARTS, n)
        uniform = ((bits >> np.uint64(11)) + 0.5) * 2.0**-53
        normals = np.sqrt(-2 * np.log(uniform[0])) * np.cos(2 * math.pi * uniform[1])
        return np.asarray(normals.sum(axis=0) / math.sqrt(_PARTS), dtype=np.float32)

    def sample(self, rows: int, rate: float) -> Tensor:
        """Row numbers of a Poisson sample: each row by itself with probability `rate`."""
        if self._secure:
            bits = np.frombuffer(secrets.token_bytes(8 * rows), dtype=np.uint64)
            uniform = (bits >> np.uint64(11)) * 2.0**-53
        else:
            uniform = self._rng.random(rows)
        return torch.from_numpy(np.flatnonzero(uniform < rate))


def sampled_gaussian(noise: float, sample_rate: float, steps: int) -> Loss:
    """Cost of the steps of DP-SGD, by Opacus' accountant.

    Between the orders it is asked at, (order - 1) times the divergence is convex, so a straight line lies above it;
    beyond the last one, sampling is not counted as protection.

    Args:
        noise: σ.
        sample_rate: q.
        steps: Steps.

    Raises:
        SpecError: Opacus is not installed.

    """
    try:
        from opacus.accountants.analysis.rdp import compute_rdp
    except ModuleNotFoundError:
        raise SpecError(
            "privacy.epsilon with method vae needs the package opacus", hint="pip install 'tabvae[dp]'"
        ) from None
    knots = np.array(sorted(_KNOTS), dtype=np.float64)
    whole = [int(order) if order == int(order) else order for order in knots]
    found = np.asarray(compute_rdp(q=sample_rate, noise_multiplier=noise, steps=steps, orders=whole), np.float64)
    unsampled = 0.5 * steps / noise**2 * ORDERS
    moments = np.interp(ORDERS - 1, np.append(0.0, knots - 1), np.append(0.0, found * (knots - 1)))
    inside = np.minimum(moments / (ORDERS - 1), unsampled)
    return Loss(np.where(knots[-1] >= ORDERS, np.where(np.isfinite(inside), inside, unsampled), unsampled))


def train_privately(
    layers: Sequence[nn.Module],
    losses: Callable[[Tensor], Tensor],
    n_rows: int,
    plan: PrivatePlan,
    randomness: SecretRandomness,
    *,
    progress: Progress = silent,
    observe: Callable[[list[Tensor]], None] | None = None,
) -> PrivateRecord:
    """Train layers in place; they end with their averaged weights.

    Args:
        layers: See `RowGradients`; other parameters stay as they are.
        losses: Losses of the rows with the given numbers (int64, CPU), (b,) for b of them; each depends on its row
            alone.
        n_rows: Rows to sample from; used for nothing else, as it is no public number.
        plan: How to train.
        randomness: Batches and noise.
        progress: Told of every few steps; not of losses.
        observe: Shown the noisy sum of every step before it is used, in units of `clip`: all that an attacker can
            learn who watches the training, for the audit.

    """
    gradients, started = RowGradients(layers), time.monotonic()
    parameters = gradients.parameters
    device = parameters[0].device
    optimizer = torch.optim.Adam(parameters, lr=plan.learning_rate, betas=(0.9, 0.99))
    averaged = [p.detach().clone() for p in parameters]
    stopped, step, last_word = "steps", 0, started
    for step in range(plan.steps):
        sums = [torch.zeros_like(p) for p in parameters]
        rows = randomness.sample(n_rows, plan.sample_rate)
        for some in torch.split(rows, plan.most_rows) if len(rows) else ():
            parts, _ = gradients.clipped_sum(partial(losses, some), plan.clip)
            torch._foreach_add_(sums, parts)
        for total in sums:
            total /= plan.clip
            total += plan.noise * randomness.normal(total.shape).to(device)
        if observe is not None:
            observe(sums)
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * min(1.0, (step + 1) / 5) * (1 - step / plan.steps)
        for parameter, total in zip(parameters, sums, strict=True):
            parameter.grad = total / plan.expected_batch
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averaged, [p.detach() for p in parameters], 1 - min(plan.average, step / (step + 10)))
        now = time.monotonic()
        if now - last_word > 2:
            last_word = now
            progress(ProgressEvent("train", step + 1, plan.steps, "steps", "steps with noise"))
        if plan.max_seconds is not None and now - started > plan.max_seconds:
            stopped = "max_seconds"
            break
    with torch.no_grad():
        for parameter, value in zip(parameters, averaged, strict=True):
            parameter.copy_(value)
            parameter.grad = None
    progress(ProgressEvent("train", plan.steps, plan.steps, "steps", "steps with noise"))
    return PrivateRecord(step + 1, round(time.monotonic() - started, 1), stopped)
