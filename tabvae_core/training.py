"""The training loop. It knows no model: it turns a loss over row indices into averaged, early-stopped weights."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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

__all__ = ["Crew", "TrainingPlan", "TrainingRecord", "train"]

_log = logging.getLogger(__name__)

_COOLING_RATE, _COOL = 0.2, 0.02
"""Learning rate that cooling begins with at most, and that needs none, as shares of the peak."""


@dataclass(frozen=True)
class TrainingPlan:
    """How to train.

    Args:
        epochs: Passes over the training rows, or twice as many, see `worthwhile`.
        batch_size: Rows a step.
        learning_rate: Peak of the learning rate, which warms up linearly and decays along a half cosine.
        weight_decay: AdamW's decoupled weight decay (Loshchilov & Hutter, 2019).
        average: Decay of the exponential moving average of the weights; 0 uses the last weights.
        patience: Epochs without a better validation loss before training stops.
        clip: Largest gradient norm.
        seed: Seed of batches, noise and dropout.
        max_seconds: Wall-clock limit; the learning rate's decay is fitted to it.
        final_rate: Learning rate at the end, as a share of the peak.
        cooling_steps: Steps from the best weights on, while the learning rate falls to nothing: weights kept from the
            middle of a schedule have not settled, which a likelihood hardly notices and margins do. None after a
            training whose rate had fallen by then, as it has where a time limit ended it.
        worthwhile: Nats a row by which the validation loss must fall in the epoch that ends the first half, for the
            number of epochs to be doubled: a table that still teaches so much then takes longer to learn.

    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01
    average: float = 0.998
    patience: int = 10
    clip: float = 1.0
    seed: int = 0
    max_seconds: float | None = None
    final_rate: float = 0.01
    cooling_steps: int = 0
    worthwhile: float = math.inf


@dataclass
class TrainingRecord:
    """What happened.

    Args:
        epochs: Epochs run.
        steps: Steps run.
        seconds: Wall-clock time, over all resumptions.
        train_loss: Mean loss of each epoch, nats a row.
        validation_loss: Loss of the averaged weights on the validation rows after each epoch, nats a row.
        best_epoch: Epoch (from 1) whose weights were kept.
        stopped: "epochs", "patience" or "max_seconds".

    """

    epochs: int = 0
    steps: int = 0
    seconds: float = 0.0
    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best_epoch: int = 0
    stopped: str = "epochs"

    def told(self) -> dict[str, Any]:
        """What a model card says of it."""
        return {
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "steps": self.steps,
            "stopped_by": self.stopped,
            "train_loss": self.train_loss,
            "validation_loss": self.validation_loss,
        }


class Crew:
    """The processes that train one model, each on its share of every batch; this one is a single process.

    All of them run the same loop, so all must take the same way through it: whatever a way depends on, and could differ
    between processes, is agreed on. See `distributed` for several.
    """

    rank, size = 0, 1
    parts = 1
    """Parts that a step begins to be taken in, see `_Run._gradients`."""

    def share(self, rows: Tensor) -> Tensor:
        """Rows of a batch that this process takes."""
        return rows

    def agree(self, value: float) -> float:
        """Take the first process' value for it."""
        return value

    def mean(self, value: float) -> float:
        """Mean over the processes."""
        return value

    def noise(self, generator: torch.Generator) -> torch.Generator:
        """Generator of what is random in this process' rows, from that of the order of all rows."""
        return generator

    def part(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Surround the loss and gradients of a part of a step; gradients are exchanged with the last one."""
        return contextlib.nullcontext()

    def take_parts(self, parts: int) -> None:
        """Hear that a step goes on in so many parts."""


_ALONE = Crew()


def train(
    model: nn.Module,
    loss: Callable[[nn.Module, Tensor, torch.Generator], Tensor],
    validation_loss: Callable[[nn.Module], float],
    n_rows: int,
    plan: TrainingPlan,
    *,
    progress: Progress = silent,
    checkpoint: Path | None = None,
    crew: Crew = _ALONE,
) -> TrainingRecord:
    """Train a model in place; it ends with the weights that were best on the validation rows, cooled down.

    Args:
        model: Trained; its device decides where.
        loss: Loss of the rows with the given indices (int64, CPU, shape (b,)), to be differentiated; all that is
            random in it comes from the generator, so that trainings side by side do not disturb each other.
        validation_loss: Loss of a model on the validation rows.
        n_rows: Training rows, of which indices are drawn.
        plan: How to train.
        progress: Told of every epoch, and every few seconds within one.
        checkpoint: Folder to save to after every epoch, and to resume from.
        crew: The processes that train it, of which the first judges, saves and decides.

    Returns:
        What happened.

    Raises:
        DataError: The device's memory does not hold the step of a single row.

    """
    run = _Run(model, plan, n_rows, crew)
    if checkpoint is not None:
        run.resume(checkpoint)
    while run.record.epochs < run.epochs and run.record.stopped == "epochs":
        started = time.monotonic()
        with _train_mode(model):
            run.epoch(loss, progress, started)
        run.judge(validation_loss)
        run.record.seconds += run.elapsed(started)
        if checkpoint is not None and crew.rank == 0:
            run.save(checkpoint)
        run.report(progress)
    model.load_state_dict(run.best)
    if plan.cooling_steps and run.record.stopped != "max_seconds":
        started = time.monotonic()
        with _train_mode(model):
            run.cool(loss, progress)
        run.record.seconds += run.elapsed(started)
    return run.record


class _Run:
    """State of one training."""

    def __init__(self, model: nn.Module, plan: TrainingPlan, n_rows: int, crew: Crew) -> None:
        self.model, self.plan, self.n_rows, self.crew = model, plan, n_rows, crew
        decayed = [p for p in model.parameters() if p.ndim >= 2]
        others = [p for p in model.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=plan.learning_rate, betas=(0.9, 0.99), fused=True,
        )  # fmt: skip
        self.record = TrainingRecord()
        self.live = dict(model.named_parameters())
        self.averaged = copy_state(model)
        self.best = copy_state(model)
        self.batch = min(plan.batch_size, n_rows)
        self.parts = crew.parts
        self.steps_an_epoch = max(1, n_rows // self.batch)

    @property
    def epochs(self) -> int:
        """Epochs, as far as is known by now."""
        planned, losses = self.plan.epochs, self.record.validation_loss
        half = (planned + 1) // 2
        goes_on = 1 < half <= len(losses) and losses[half - 2] - losses[half - 1] > self.plan.worthwhile
        return 2 * planned if goes_on else planned

    def epoch(
        self, loss: Callable[[nn.Module, Tensor, torch.Generator], Tensor], progress: Progress, started: float
    ) -> None:
        # A generator of its own for each epoch: a resumed training draws what an unbroken one would have drawn.
        generator = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + self.record.epochs)
        order = torch.randperm(self.n_rows, generator=generator)
        noise = self.crew.noise(generator)
        total, done, last_word, in_epoch = 0.0, 0, started, 0.0
        for step in range(self.steps_an_epoch):
            rows = order[step * self.batch : (step + 1) * self.batch]
            value = self._step(loss, rows, noise, self._rate(in_epoch))
            self._average()
            total, done = total + value, done + 1
            in_epoch = self.elapsed(started)
            if time.monotonic() - last_word > 2:
                last_word = time.monotonic()
                at = self.record.epochs + done / self.steps_an_epoch
                progress(ProgressEvent("train", at, self.epochs, "epochs", f"loss {total / done:.3f}"))
            if self._out_of_time(in_epoch):
                self.record.stopped = "max_seconds"
                break
        self.record.epochs += 1
        self.record.train_loss.append(round(self.crew.mean(total / max(done, 1)), 5))

    def elapsed(self, started: float) -> float:
        """Seconds since then; those of the first process where a limit makes training depend on them."""
        seconds = time.monotonic() - started
        return seconds if self.plan.max_seconds is None else self.crew.agree(seconds)

    def _step(
        self, loss: Callable[[nn.Module, Tensor, torch.Generator], Tensor], rows: Tensor,
        generator: torch.Generator, rate: float,
    ) -> float:  # fmt: skip
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        value = self._gradients(loss, rows, generator)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        self.optimizer.step()
        self.record.steps += 1
        return value

    def _gradients(
        self, loss: Callable[[nn.Module, Tensor, torch.Generator], Tensor], rows: Tensor, generator: torch.Generator
    ) -> float:
        """Compute the gradients of the rows' mean loss, and return it (in a crew: this process' estimate of it).

        Where memory does not hold all rows at once, they are taken in halves, quarters, and so on, whose gradients add
        up to those of the whole batch: the training stays the one that was planned, only slower.
        """
        own = self.crew.share(rows)
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            with contextlib.suppress(torch.OutOfMemoryError):
                parts = own.chunk(self.parts)
                # A crew's gradients are averaged: times its size, shares of any lengths add up to the whole batch.
                return sum(
                    self._part(loss, part, len(part) / len(rows) * self.crew.size, generator, part is parts[-1])
                    for part in parts
                )
            # Here and not in a handler, whose exception would keep the tensors of the failed step alive.
            self._take_less(len(own))

    def _part(
        self, loss: Callable[[nn.Module, Tensor, torch.Generator], Tensor], rows: Tensor, share: float,
        generator: torch.Generator, last: bool,
    ) -> float:  # fmt: skip
        with self.crew.part(last):
            value = loss(self.model, rows, generator) * share
            value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    def _take_less(self, rows: int) -> None:
        if self.parts >= rows:
            raise DataError(
                f"{next(self.model.parameters()).device} has too little memory to train on a single row",
                hint="use a device with more memory, or model.device: cpu",
            )
        self.parts *= 2
        torch.cuda.empty_cache()  # does nothing where there is no GPU
        _log.warning("out of memory with %d rows at once: going on with %d", rows * 2 // self.parts, rows // self.parts)
        self.crew.take_parts(self.parts)

    def cool(self, loss: Callable[[nn.Module, Tensor, torch.Generator], Tensor], progress: Progress) -> None:
        start = min(_COOLING_RATE, self._decay(self.record.best_epoch / self.epochs))
        if start < _COOL:
            return
        steps, last_word = self.plan.cooling_steps, time.monotonic()
        generator = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + self.epochs)
        order, noise = torch.empty(0, dtype=torch.long), self.crew.noise(generator)
        for step in range(steps):
            if len(order) < self.batch:
                order = torch.randperm(self.n_rows, generator=generator)
            rows, order = order[: self.batch], order[self.batch :]
            value = self._step(loss, rows, noise, self.plan.learning_rate * start * (1 - step / steps))
            if time.monotonic() - last_word > 2:
                last_word = time.monotonic()
                message = f"cooling down, step {step + 1} of {steps}, loss {value:.3f}"
                progress(ProgressEvent("train", self.record.epochs, self.epochs, "epochs", message))

    def judge(self, validation_loss: Callable[[nn.Module], float]) -> None:
        value = self.crew.agree(self._validated(validation_loss) if self.crew.rank == 0 else math.nan)
        history = self.record.validation_loss
        if math.isfinite(value) and value < min(history, default=math.inf):
            self.best = {name: tensor.clone() for name, tensor in self.averaged.items()}
            self.record.best_epoch = self.record.epochs
        history.append(round(value, 5))
        if self.record.epochs - self.record.best_epoch >= self.plan.patience:
            self.record.stopped = "patience"

    def _validated(self, validation_loss: Callable[[nn.Module], float]) -> float:
        """Loss of the averaged weights."""
        current = copy_state(self.model)
        self.model.load_state_dict(self.averaged)
        self.model.eval()
        with torch.no_grad():
            value = validation_loss(self.model)
        self.model.load_state_dict(current)
        return value

    def report(self, progress: Progress) -> None:
        record = self.record
        left = record.seconds / record.epochs * (self.epochs - record.epochs)
        if self.plan.max_seconds is not None:
            left = min(left, max(0.0, self.plan.max_seconds - record.seconds))
        message = f"loss {record.train_loss[-1]:.3f}, validation {record.validation_loss[-1]:.3f}, {left:.0f} s left"
        progress(ProgressEvent("train", record.epochs, self.epochs, "epochs", message))

    def _rate(self, in_epoch: float) -> float:
        done = self.record.steps / (self.epochs * self.steps_an_epoch)
        if self.plan.max_seconds is not None:
            done = max(done, (self.record.seconds + in_epoch) / self.plan.max_seconds)
        warm = min(1.0, (self.record.steps + 1) / max(20, 0.04 * self.epochs * self.steps_an_epoch))
        return self.plan.learning_rate * warm * self._decay(done)

    def _decay(self, done: float) -> float:
        """Learning rate after a share of the training, as a share of the peak."""
        low = self.plan.final_rate
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def _average(self) -> None:
        # The warm-up keeps the random start out of the average, which would cost points of fidelity on short runs.
        decay = min(self.plan.average, self.record.steps / (self.record.steps + 10.0))
        with torch.no_grad():
            averaged = [self.averaged[name] for name in self.live]
            torch._foreach_lerp_(averaged, list(self.live.values()), 1.0 - decay)

    def _out_of_time(self, in_epoch: float) -> bool:
        return self.plan.max_seconds is not None and self.record.seconds + in_epoch > self.plan.max_seconds

    def save(self, folder: Path) -> None:
        states = {
            "model": copy_state(self.model),
            "averaged": self.averaged,
            "best": self.best,
            "optimizer": optimizer_state(self.optimizer),
        }
        write_checkpoint(folder, states, self._identity() | {"record": json.dumps(asdict(self.record))})

    def _identity(self) -> dict[str, str]:
        """Rows, and the plan without its time limit: what is left of that depends on when a run was killed."""
        plan = {key: value for key, value in asdict(self.plan).items() if key != "max_seconds"}
        return {"plan": json.dumps(plan), "rows": str(self.n_rows)}

    def resume(self, folder: Path) -> None:
        """Take up a checkpoint of the same plan and rows; any other is of another training and left alone."""
        found = read_checkpoint(folder, self._identity(), next(self.model.parameters()).device)
        if found is None or not same_shapes(found[0]["model"], self.model.state_dict()):
            return
        states, meta = found
        self.model.load_state_dict(states["model"])
        self.averaged, self.best = states["averaged"], states["best"]
        load_optimizer(self.optimizer, states.get("optimizer", {}))
        self.record = TrainingRecord(**json.loads(meta["record"]))
        if self.crew.rank == 0:
            _log.info("resumed from the checkpoint of epoch %d", self.record.epochs)


@contextlib.contextmanager
def _train_mode(model: nn.Module) -> Iterator[None]:
    model.train()
    try:
        yield
    finally:
        model.eval()
