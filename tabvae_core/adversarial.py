"""The training loop of two networks against each other. It knows neither: it steps one loss, then the other."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from tabvae_core.checkpoints import (
    copy_state,
    load_optimizer,
    optimizer_state,
    read_checkpoint,
    same_shapes,
    write_checkpoint,
)
from tabvae_core.errors import DataError
from tabvae_core.progress import Progress, ProgressEvent, silent

__all__ = ["AdversarialPlan", "AdversarialRecord", "train_adversarial"]

_CHECKPOINTS = 50
"""Checkpoints of a training at most: an epoch of a small table is shorter than writing one."""


@dataclass(frozen=True)
class AdversarialPlan:
    """How to train.

    Args:
        epochs: Epochs.
        steps_an_epoch: Steps of the generator in each.
        critic_steps: Steps of the critic before each of the generator.
        learning_rate: Of both networks' Adam, whose betas are 0.5 and 0.9.
        average: Decay of the exponential moving average of the generator's weights; 0 uses the last weights.
        seed: Seed of all that the losses draw.
        max_seconds: Wall-clock limit.

    """

    epochs: int
    steps_an_epoch: int
    critic_steps: int = 1
    learning_rate: float = 2e-4
    average: float = 0.0
    seed: int = 0
    max_seconds: float | None = None


@dataclass
class AdversarialRecord:
    """What happened.

    Args:
        epochs: Epochs run.
        steps: Steps of the generator run.
        seconds: Wall-clock time, over all resumptions.
        generator_loss: Mean of each epoch.
        critic_loss: Mean of each epoch.
        stopped: "epochs" or "max_seconds".

    """

    epochs: int = 0
    steps: int = 0
    seconds: float = 0.0
    generator_loss: list[float] = field(default_factory=list)
    critic_loss: list[float] = field(default_factory=list)
    stopped: str = "epochs"


Loss = Callable[[torch.Generator], Tensor]


def train_adversarial(
    generator: nn.Module,
    critic: nn.Module,
    generator_loss: Loss,
    critic_loss: Loss,
    plan: AdversarialPlan,
    *,
    progress: Progress = silent,
    checkpoint: Path | None = None,
) -> AdversarialRecord:
    """Train two networks in place; the generator ends with its averaged weights.

    Args:
        generator: Its device decides where.
        critic: On the same device.
        generator_loss: Draws a batch, by the random numbers given alone, and judges the generator.
        critic_loss: The same for the critic.
        plan: How to train.
        progress: Told of every epoch, and every few seconds within one.
        checkpoint: Folder to save to, and to resume from.

    Returns:
        What happened.

    Raises:
        DataError: A loss is no finite number any more.

    """
    run = _Run(generator, critic, plan)
    if checkpoint is not None:
        run.resume(checkpoint)
    every = -(-plan.epochs // _CHECKPOINTS)
    generator.train()
    critic.train()
    while run.record.epochs < plan.epochs and run.record.stopped == "epochs":
        run.epoch(generator_loss, critic_loss, progress)
        if checkpoint is not None and run.record.epochs % every == 0:
            run.save(checkpoint)
        run.report(progress)
    generator.load_state_dict(run.averaged)
    generator.eval()
    critic.eval()
    return run.record


class _Run:
    """State of one training."""

    def __init__(self, generator: nn.Module, critic: nn.Module, plan: AdversarialPlan) -> None:
        self.networks = {"generator": generator, "critic": critic}
        self.optimizers = {
            name: torch.optim.Adam(network.parameters(), plan.learning_rate, betas=(0.5, 0.9), fused=True)
            for name, network in self.networks.items()
        }
        self.plan, self.record = plan, AdversarialRecord()
        self.averaged = copy_state(generator)

    def epoch(self, generator_loss: Loss, critic_loss: Loss, progress: Progress) -> None:
        # Random numbers of its own for each epoch: a resumed training draws what an unbroken one would have drawn.
        random = torch.Generator(next(self.networks["critic"].parameters()).device)
        random.manual_seed(self.plan.seed * 1_000_003 + self.record.epochs)
        started = last_word = time.monotonic()
        losses, done, plan = torch.zeros(2), 0, self.plan
        for _ in range(plan.steps_an_epoch):
            for _ in range(plan.critic_steps):
                critic_value = self._step("critic", critic_loss(random))
            losses += torch.stack([self._step("generator", generator_loss(random)), critic_value]).cpu()
            done += 1
            self.record.steps += 1
            self._average()
            now = time.monotonic()
            if now - last_word > 2:
                last_word = now
                at = self.record.epochs + done / plan.steps_an_epoch
                progress(ProgressEvent("train", at, plan.epochs, "epochs", _message(*(losses / done).tolist())))
            if plan.max_seconds is not None and self.record.seconds + now - started > plan.max_seconds:
                self.record.stopped = "max_seconds"
                break
        self.record.epochs += 1
        self.record.seconds += time.monotonic() - started
        for history, value in zip((self.record.generator_loss, self.record.critic_loss), losses / done, strict=True):
            if not math.isfinite(value):
                raise DataError(
                    f"training came apart in epoch {self.record.epochs}: a loss is no finite number",
                    hint="set model.learning_rate lower, or look for absurd numbers in the table",
                )
            history.append(round(float(value), 5))

    def _step(self, name: str, loss: Tensor) -> Tensor:
        parameters = list(self.networks[name].parameters())
        # Of this network alone: the other's gradients would be computed for nothing.
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        self.optimizers[name].step()
        return loss.detach()

    def _average(self) -> None:
        decay = min(self.plan.average, self.record.steps / (self.record.steps + 10.0))
        for name, value in self.networks["generator"].state_dict().items():
            if value.is_floating_point():
                self.averaged[name].lerp_(value, 1.0 - decay)
            else:
                self.averaged[name].copy_(value)

    def report(self, progress: Progress) -> None:
        record, plan = self.record, self.plan
        left = record.seconds / record.epochs * (plan.epochs - record.epochs)
        if plan.max_seconds is not None:
            left = min(left, max(0.0, plan.max_seconds - record.seconds))
        message = f"{_message(record.generator_loss[-1], record.critic_loss[-1])}, {left:.0f} s left"
        progress(ProgressEvent("train", record.epochs, plan.epochs, "epochs", message))

    def save(self, folder: Path) -> None:
        states = {name: copy_state(network) for name, network in self.networks.items()}
        states |= {f"{name} optimizer": optimizer_state(optimizer) for name, optimizer in self.optimizers.items()}
        meta = self._identity() | {"record": json.dumps(asdict(self.record))}
        write_checkpoint(folder, states | {"averaged": self.averaged}, meta)

    def _identity(self) -> dict[str, str]:
        """The plan without its time limit: what is left of that depends on when a run was killed."""
        return {"plan": json.dumps({key: value for key, value in asdict(self.plan).items() if key != "max_seconds"})}

    def resume(self, folder: Path) -> None:
        """Take up a checkpoint of the same plan and networks; any other is of another training and left alone."""
        found = read_checkpoint(folder, self._identity(), next(self.networks["critic"].parameters()).device)
        if found is None:
            return
        states, meta = found
        if not all(same_shapes(states.get(name, {}), network.state_dict()) for name, network in self.networks.items()):
            return
        for name, network in self.networks.items():
            network.load_state_dict(states[name])
            load_optimizer(self.optimizers[name], states[f"{name} optimizer"])
        self.averaged = states["averaged"]
        self.record = AdversarialRecord(**json.loads(meta["record"]))


def _message(generator_loss: float, critic_loss: float) -> str:
    return f"loss {generator_loss:.3f}, of the critic {critic_loss:.3f}"
