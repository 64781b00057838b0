"""Real processes and a real group of them; gloo on the CPU takes the place of NCCL between GPUs."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from torch import Tensor, distributed, nn

from tables_made import people
from tabvae_core.distributed import train_distributed
from tabvae_core.errors import DataError
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.options import training_devices
from tabvae_core.synthesizers.registry import create, load_bundle
from tabvae_core.training import TrainingPlan, TrainingRecord, train

TWO = (torch.device("cpu"), torch.device("cpu"))
ROWS = 160
X = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.unused = nn.Parameter(torch.ones(3, 3))


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


@dataclass
class Lines:
    """Rows of a linear rule. Every process writes down what it did, in a file of its own.

    Args:
        notes: Folder of these files.
        judged: Validation losses to pretend, in order.
        memory: Rows whose loss the memory of each process holds.
        draws: Whether the loss draws random numbers, which in one process come between those of the rows' order.
        breaks: What the second process does in its third step.
        judge_breaks: Epoch whose validation fails.

    """

    notes: Path
    judged: tuple[float, ...] = ()
    memory: int = ROWS
    draws: bool = True
    breaks: str = ""
    judge_breaks: int = 0
    n_train: int = ROWS
    rate: float = 0.0
    epochs: int = field(default=0, init=False)
    steps: int = field(default=0, init=False)

    def on(self, device: torch.device) -> Self:
        assert device.type == "cpu"
        return copy.copy(self)

    def loss(self, network: nn.Module, rows: Tensor, generator: torch.Generator) -> Tensor:
        assert isinstance(network, Network)
        if len(rows) > self.memory:
            raise torch.OutOfMemoryError("out of memory")
        self.steps += 1
        weights = b"".join(p.detach().numpy().tobytes() for p in network.parameters())
        note = {
            "pid": os.getpid(),
            "rows": rows.tolist(),
            "weights": hashlib.sha256(weights).hexdigest(),
            "noise": float(torch.rand(1, generator=generator)) if self.draws else None,
        }
        with (self.notes / f"{rank()}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")
        if rank() == 1 and self.steps == 3:
            if self.breaks == "error":
                raise ValueError("no such row")
            if self.breaks == "silence":
                threading.Event().wait()
            if self.breaks == "death":
                os._exit(7)
        return nn.functional.mse_loss(network.layers(X[rows]), Y[rows])

    def validation_loss(self, network: nn.Module) -> float:
        assert isinstance(network, Network)
        assert rank() == 0
        self.epochs += 1
        self.rate = float(self.epochs)
        if self.epochs == self.judge_breaks:
            raise DataError("nothing to judge by", hint="look")
        if self.judged:
            return self.judged[self.epochs - 1]
        with torch.no_grad():
            return float(nn.functional.mse_loss(network.layers(X), Y))

    def noted(self, rank: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.notes / f"{rank}.jsonl").read_text().splitlines()]


def plan(**settings: object) -> TrainingPlan:
    return TrainingPlan(**({"epochs": 6, "batch_size": 33, "learning_rate": 0.02, "seed": 3} | settings))  # type: ignore[arg-type]


def alone(rows: Lines, how: TrainingPlan) -> tuple[Network, TrainingRecord]:
    """Train in this process, on the same orders of rows."""
    network, rows.draws = Network(), False
    rows.notes.mkdir()
    return network, train(network, rows.loss, rows.validation_loss, ROWS, how)


def on_two(
    rows: Lines, how: TrainingPlan, progress: Progress = silent, checkpoint: Path | None = None
) -> tuple[Network, TrainingRecord]:
    network = Network()
    return network, train_distributed(network, rows, how, TWO, progress=progress, checkpoint=checkpoint)


def nobody_is_left(rows: Lines) -> bool:
    pids = [note["pid"] for each in rows.notes.glob("*.jsonl") for note in rows.noted(int(each.stem))]
    return (
        bool(pids) and not multiprocessing.active_children() and not any(Path(f"/proc/{pid}").exists() for pid in pids)
    )


def assert_close(one: nn.Module, other: nn.Module) -> None:
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_two_processes_take_the_steps_of_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    judged = (3.0, 2.0, 1.0, 4.0, 4.0)
    how = plan(epochs=12, patience=2, cooling_steps=9)
    single, expected = alone(Lines(tmp_path / "alone", judged), how)
    events: list[ProgressEvent] = []
    rows = Lines(tmp_path, judged)
    network, record = on_two(rows, how, events.append)
    assert (record.best_epoch, record.stopped, record.steps) == (3, "patience", expected.steps)
    assert record.train_loss == pytest.approx(expected.train_loss, abs=1e-4)
    assert_close(single, network)
    first, second = rows.noted(0), rows.noted(1)
    assert len({note["pid"] for note in first + second} | {os.getpid()}) == 3
    whole = [note["rows"] for note in Lines(tmp_path / "alone").noted(0)]
    assert [a["rows"] + b["rows"] for a, b in zip(first, second, strict=True)] == whole, "stripes of the same batches"
    assert {(len(a["rows"]), len(b["rows"])) for a, b in zip(first, second, strict=True)} == {(17, 16)}
    assert [note["weights"] for note in first] == [note["weights"] for note in second]
    assert len({note["noise"] for note in first + second}) == len(first + second), "noise is nobody else's"
    assert [event.done for event in events] == [1, 2, 3, 4, 5]
    assert not network.training
    assert rows.rate == 5
    assert nobody_is_left(rows)
    assert capfd.readouterr() == ("", "")


def test_an_error_is_itself_and_the_training_resumes_in_parts_where_one_device_has_too_little_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    # Batches of two rows and one: the first process takes two parts, the second one.
    how = plan(batch_size=3)
    single, expected = alone(Lines(tmp_path / "alone"), how)
    broken = Lines(tmp_path, judge_breaks=4)
    with pytest.raises(DataError, match="nothing to judge by") as caught:
        on_two(broken, how, checkpoint=tmp_path / "checkpoint")
    assert caught.value.hint == "look"
    assert nobody_is_left(broken)
    (tmp_path / "resumed").mkdir()
    rows = Lines(tmp_path / "resumed", memory=1)
    with caplog.at_level("INFO"):
        network, record = on_two(rows, how, checkpoint=tmp_path / "checkpoint")
    resumed = "resumed from the checkpoint of epoch 3"
    assert caplog.messages == [resumed, "out of memory with 2 rows at once: going on with 1", resumed]
    assert record.epochs == 6
    assert [len(note["rows"]) for note in rows.noted(0)] == [1, 1] * (expected.steps // 2)
    assert_close(single, network)


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        ("error", "^training on cpu failed: ValueError: no such row$"),
        ("death", "^the training process of cpu ended with exit code 7$"),
    ],
)
def test_whatever_else_ends_a_process_ends_the_others(tmp_path: Path, breaks: str, said: str) -> None:
    rows = Lines(tmp_path, breaks=breaks)
    with pytest.raises(RuntimeError, match=said):
        on_two(rows, plan())
    assert nobody_is_left(rows)


class Cancelled(Exception):
    pass


def test_cancelling_ends_all_processes_of_which_each_has_a_row(tmp_path: Path) -> None:
    def cancel(event: ProgressEvent) -> None:
        raise Cancelled

    rows, endless = Lines(tmp_path), plan(epochs=100_000, patience=10**9, batch_size=2)
    with pytest.raises(Cancelled):
        train_distributed(Network(), rows, endless, [*TWO, torch.device("cpu")], progress=cancel)
    assert nobody_is_left(rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.jsonl", "1.jsonl"]


_ENDLESS = """
from pathlib import Path
from test_distributed import TWO, Lines, Network, plan, train_distributed
train_distributed(Network(), Lines(Path({folder!r}), breaks="silence"), plan(), TWO)
"""


@contextlib.contextmanager
def running(source: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, *options, source], env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it never came to that")


def test_processes_end_with_a_caller_that_is_killed(tmp_path: Path) -> None:
    rows, both = Lines(tmp_path), [tmp_path / "0.jsonl", tmp_path / "1.jsonl"]
    with running(_ENDLESS.format(folder=str(tmp_path)), "-c") as caller:
        until(lambda: all(path.exists() and path.read_text().count("\n") == 3 for path in both))
        caller.kill()
    until(lambda: nobody_is_left(rows))


def test_a_script_that_starts_itself_again_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_ENDLESS.format(folder=str(tmp_path)))
    with running(str(script)) as caller:
        _, said = caller.communicate(timeout=120)
    assert caller.returncode == 1
    assert "before it began; a script that trains on several GPUs does so under if __name__ == '__main__'" in said


def test_vae_trains_on_two_devices_until_the_clock_of_one_says_so_and_its_bundle_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("tabvae_core.synthesizers.vae.training_devices", lambda name, batch_size: TWO)
    options = {"width": 16, "hidden": 16, "members": 1}
    spec = ModelSpec(epochs=100_000, batch_size=64, max_seconds=0.1, options=options)
    model = create("vae", spec, PrivacySpec()).fit(people(300))
    assert (model.record["device"], model.record["stopped_by"]) == ("cpu x 2", "max_seconds")
    assert model.record["rate_nats"][0] > 0
    model.save(tmp_path / "bundle")
    table = load_bundle(tmp_path / "bundle").sample(50, seed=1)
    assert table.num_rows == 50
    assert table.equals(model.sample(50, seed=1))


@pytest.mark.parametrize(
    ("name", "batch", "expected"),
    [
        ("auto", 256, ["cuda"]),
        ("auto", 512, ["cuda:0", "cuda:1"]),
        ("cuda", 10_000, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda:1", 10_000, ["cuda:1"]),
        ("cpu", 10_000, ["cpu"]),
    ],
)
def test_gpus_are_used_as_far_as_each_gets_a_usual_batch(
    monkeypatch: pytest.MonkeyPatch, name: str, batch: int, expected: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [str(device) for device in training_devices(name, batch)] == expected
