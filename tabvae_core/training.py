"""The training loop. It knows no model: it turns a loss over row indices into averaged, early-stopped weights."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tabvae_core.progress import Progress, ProgressEvent, silent

__all__ = ["TrainingPlan", "TrainingRecord", "train"]

_COOLING_RATE, _COOL = 0.2, 0.02
"""Learning rate that cooling begins with at most, and that needs none, as shares of the peak."""


@dataclass(frozen=True)
class TrainingPlan:
    """How to train.

    Args:
        epochs: Passes over the training rows at most.
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


def train(
    model: nn.Module,
    loss: Callable[[nn.Module, Tensor, torch.Generator], Tensor],
    validation_loss: Callable[[nn.Module], float],
    n_rows: int,
    plan: TrainingPlan,
    *,
    progress: Progress = silent,
    checkpoint: Path | None = None,
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

    Returns:
        What happened.

    """
    run = _Run(model, plan, n_rows)
    if checkpoint is not None:
        run.resume(checkpoint)
    while run.record.epochs < plan.epochs and run.record.stopped == "epochs":
        started = time.monotonic()
        with _train_mode(model):
            run.epoch(loss, progress, started)
        run.judge(validation_loss)
        run.record.seconds += time.monotonic() - started
        if checkpoint is not None:
            run.save(checkpoint)
        run.report(progress)
    model.load_state_dict(run.best)
    if plan.cooling_steps and run.record.stopped != "max_seconds":
        started = time.monotonic()
        with _train_mode(model):
            run.cool(loss, progress)
        run.record.seconds += time.monotonic() - started
    return run.record


class _Run:
    """State of one training."""

    def __init__(self, model: nn.Module, plan: TrainingPlan, n_rows: int) -> None:
        self.model, self.plan, self.n_rows = model, plan, n_rows
        decayed = [p for p in model.parameters() if p.ndim >= 2]
        others = [p for p in model.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=plan.learning_rate, betas=(0.9, 0.99), fused=True,
        )  # fmt: skip
        self.record = TrainingRecord()
        self.live = dict(model.named_parameters())
        self.averaged = _copy(model)
        self.best = _copy(model)
        self.batch = min(plan.batch_size, n_rows)
        self.steps_an_epoch = max(1, n_rows // self.batch)

    def epoch(
        self, loss: Callable[[nn.Module, Tensor, torch.Generator], Tensor], progress: Progress, started: float
    ) -> None:
        # A generator of its own for each epoch: a resumed training draws what an unbroken one would have drawn.
        generator = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + self.record.epochs)
        order = torch.randperm(self.n_rows, generator=generator)
        total, done, last_word = 0.0, 0, started
        for step in range(self.steps_an_epoch):
            rows = order[step * self.batch : (step + 1) * self.batch]
            value = self._step(loss, rows, generator, self._rate(time.monotonic() - started))
            self._average()
            total, done = total + value, done + 1
            now = time.monotonic()
            if now - last_word > 2:
                last_word = now
                at = self.record.epochs + done / self.steps_an_epoch
                progress(ProgressEvent("train", at, self.plan.epochs, "epochs", f"loss {total / done:.3f}"))
            if self._out_of_time(now - started):
                self.record.stopped = "max_seconds"
                break
        self.record.epochs += 1
        self.record.train_loss.append(round(total / max(done, 1), 5))

    def _step(
        self, loss: Callable[[nn.Module, Tensor, torch.Generator], Tensor], rows: Tensor,
        generator: torch.Generator, rate: float,
    ) -> float:  # fmt: skip
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        value = loss(self.model, rows, generator)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        self.optimizer.step()
        self.record.steps += 1
        return float(value.detach())

    def cool(self, loss: Callable[[nn.Module, Tensor, torch.Generator], Tensor], progress: Progress) -> None:
        start = min(_COOLING_RATE, self._decay(self.record.best_epoch / self.plan.epochs))
        if start < _COOL:
            return
        steps, last_word = self.plan.cooling_steps, time.monotonic()
        generator = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + self.plan.epochs)
        order = torch.empty(0, dtype=torch.long)
        for step in range(steps):
            if len(order) < self.batch:
                order = torch.randperm(self.n_rows, generator=generator)
            rows, order = order[: self.batch], order[self.batch :]
            value = self._step(loss, rows, generator, self.plan.learning_rate * start * (1 - step / steps))
            if time.monotonic() - last_word > 2:
                last_word = time.monotonic()
                message = f"cooling down, step {step + 1} of {steps}, loss {value:.3f}"
                progress(ProgressEvent("train", self.record.epochs, self.plan.epochs, "epochs", message))

    def judge(self, validation_loss: Callable[[nn.Module], float]) -> None:
        current = _copy(self.model)
        self.model.load_state_dict(self.averaged)
        self.model.eval()
        with torch.no_grad():
            value = validation_loss(self.model)
        history = self.record.validation_loss
        if math.isfinite(value) and value < min(history, default=math.inf):
            self.best = _copy(self.model)
            self.record.best_epoch = self.record.epochs
        history.append(round(value, 5))
        self.model.load_state_dict(current)
        if self.record.epochs - self.record.best_epoch >= self.plan.patience:
            self.record.stopped = "patience"

    def report(self, progress: Progress) -> None:
        record = self.record
        left = record.seconds / record.epochs * (self.plan.epochs - record.epochs)
        if self.plan.max_seconds is not None:
            left = min(left, max(0.0, self.plan.max_seconds - record.seconds))
        message = f"loss {record.train_loss[-1]:.3f}, validation {record.validation_loss[-1]:.3f}, {left:.0f} s left"
        progress(ProgressEvent("train", record.epochs, self.plan.epochs, "epochs", message))

    def _rate(self, in_epoch: float) -> float:
        done = self.record.steps / (self.plan.epochs * self.steps_an_epoch)
        if self.plan.max_seconds is not None:
            done = max(done, (self.record.seconds + in_epoch) / self.plan.max_seconds)
        warm = min(1.0, (self.record.steps + 1) / max(20, 0.04 * self.plan.epochs * self.steps_an_epoch))
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
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"{part}/{k}": v.contiguous() for part, state in self._states() for k, v in state.items()}
        for index, parameter in enumerate(p for g in self.optimizer.param_groups for p in g["params"]):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{index}/{key}"] = value.contiguous()
        meta = {
            "record": json.dumps(asdict(self.record)),
            "plan": self._identity(),
            "rows": str(self.n_rows),
        }
        partial = folder / "checkpoint.partial"
        save_file(tensors, partial, metadata=meta)
        os.replace(partial, folder / "checkpoint.safetensors")

    def _identity(self) -> str:
        """The plan without its time limit: what is left of that depends on when a run was killed."""
        return json.dumps({key: value for key, value in asdict(self.plan).items() if key != "max_seconds"})

    def _states(self) -> list[tuple[str, dict[str, Tensor]]]:
        return [("model", _copy(self.model)), ("averaged", self.averaged), ("best", self.best)]

    def resume(self, folder: Path) -> None:
        """Take up a checkpoint of the same plan and rows; any other is of another training and left alone."""
        from safetensors import safe_open

        file = folder / "checkpoint.safetensors"
        if not file.exists():
            return
        with safe_open(file, "pt") as opened:
            meta = opened.metadata() or {}
        if meta.get("plan") != self._identity() or meta.get("rows") != str(self.n_rows):
            return
        device = next(self.model.parameters()).device
        tensors = {k: v.to(device) for k, v in load_file(file).items()}
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = value
        if {k: v.shape for k, v in parts["model"].items()} != {k: v.shape for k, v in _copy(self.model).items()}:
            return
        self.model.load_state_dict(parts["model"])
        self.averaged, self.best = parts["averaged"], parts["best"]
        for index, parameter in enumerate(p for g in self.optimizer.param_groups for p in g["params"]):
            prefix = f"{index}/"
            state = {k.removeprefix(prefix): v for k, v in parts.get("optimizer", {}).items() if k.startswith(prefix)}
            if state:
                state["step"] = state["step"].cpu()
                self.optimizer.state[parameter] = state
        self.record = TrainingRecord(**json.loads(meta["record"]))


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


@contextlib.contextmanager
def _train_mode(model: nn.Module) -> Iterator[None]:
    model.train()
    try:
        yield
    finally:
        model.eval()
