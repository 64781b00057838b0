"""One training on several devices of a machine: a process for each, through torch's distributed data parallel.

    caller ──spawns──► process of device 0: judges, saves, decides ─┐
       ▲               process of device 1 ─────────────────────────┤ gradients: NCCL between GPUs, gloo on the CPU
       │               ...                                          │ decisions: gloo
       └── progress, log, errors, through a pipe from each ◄────────┘ on the loopback interface, met through a file

Every process runs `training.train` on its stripe of every batch. DistributedDataParallel averages their gradients
(Li et al., 2020), so the weights stay the same everywhere; only noise differs. The trained weights come back in a file
of tensors. Rows reach the processes through shared memory, once for all of them.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import logging.handlers
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed import FileStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from tabvae_core.errors import TabvaeError
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.training import Crew, TrainingPlan, TrainingRecord, train

__all__ = ["Rows", "train_distributed"]

_WEIGHTS, _STORE = "weights.safetensors", "store"
_PATIENCE = timedelta(hours=1)
"""For another process: the first one's judgement of an epoch is waited for."""
_GRACE_SECONDS = 10.0
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_LAST_WORDS = 2_000


class Rows(Protocol):
    """Rows that a network learns; they cross processes, so they are of a class that can be imported.

    Args:
        n_train: Training rows.
        rate: Whatever `validation_loss` notes beside the loss, as of the last epoch.

    """

    n_train: int
    rate: float

    def on(self, device: torch.device) -> Self:
        """Put them on another device."""
        ...

    def loss(self, network: nn.Module, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of the training rows with the given indices, see `train`."""
        ...

    def validation_loss(self, network: nn.Module) -> float:
        """Loss of the validation rows."""
        ...


def train_distributed(
    network: nn.Module,
    rows: Rows,
    plan: TrainingPlan,
    devices: Sequence[torch.device],
    *,
    progress: Progress = silent,
    checkpoint: Path | None = None,
) -> TrainingRecord:
    """Train a network in place as `train` does, on several devices at once.

    Every batch of the plan is split into stripes, one for each device; of more devices than a batch has rows, the last
    ones are left out. A step that does not fit in a device's memory is taken in parts on all of them, from the last
    checkpoint on.

    Args:
        network: Trained, wherever it is; of a class that can be imported.
        rows: What it learns; `rate` is set as the first process found it.
        plan: How to train; the batch size is that of all devices together. The time limit counts from this call.
        devices: One process for each: CUDA devices with indices, or the CPU several times.
        progress: Told from the calling thread; what it raises ends all processes.
        checkpoint: Folder to save to after every epoch, and to resume from, on however many devices.

    Returns:
        What happened.

    Raises:
        TabvaeError: A process raised it.
        RuntimeError: A process raised anything else, or died.

    """
    used, begun, parts = tuple(devices[: max(1, min(plan.batch_size, rows.n_train))]), time.monotonic(), 1
    while True:
        with tempfile.TemporaryDirectory(prefix="tabvae-") as name:
            folder = Path(name)
            # A copy: what crosses processes moves to shared memory for good.
            sent, cpu = copy.deepcopy(network).cpu(), torch.device("cpu")
            done = _run(_Job(sent, rows.on(cpu), plan, used, checkpoint, folder, parts, begun), progress)
            if isinstance(done, _Done):
                network.load_state_dict(load_file(folder / _WEIGHTS))
                network.eval()
                rows.rate = done.rate
                return done.record
            parts = done.parts


@dataclass(frozen=True)
class _Job:
    """What all processes are told."""

    network: nn.Module
    rows: Rows
    plan: TrainingPlan
    devices: tuple[torch.device, ...]
    checkpoint: Path | None
    folder: Path
    parts: int
    begun: float


@dataclass(frozen=True)
class _Done:
    """Last word of a process that trained."""

    record: TrainingRecord
    rate: float


class _TooMuchAtOnce(Exception):
    """Memory of one device did not hold its step: the others wait for gradients, so that all have to begin again.

    Args:
        parts: Parts to take a step in.

    """

    def __init__(self, parts: int) -> None:
        super().__init__(parts)
        self.parts = parts


# The caller's side --------------------------------------------------------------------------------------------------


def _run(job: _Job, progress: Progress) -> _Done | _TooMuchAtOnce:
    """Start the processes, listen to them, and leave none."""
    context, workers, pipes = multiprocessing.get_context("spawn"), [], []
    try:
        for rank in range(len(job.devices)):
            pipe, end = context.Pipe(duplex=False)
            pipes.append(pipe)
            worker = context.Process(target=_work, args=(job, rank, end), name=f"tabvae-{rank}", daemon=True)
            worker.start()
            workers.append(worker)
            end.close()  # so that the pipe ends with the process
        return _listen(job, workers, pipes, progress)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(_GRACE_SECONDS)
            worker.kill()  # one that a signal does not end, as within a call of a driver
            worker.join()
            worker.close()
        for pipe in pipes:
            pipe.close()


def _listen(
    job: _Job, workers: list[SpawnProcess], pipes: list[Connection], progress: Progress
) -> _Done | _TooMuchAtOnce:
    done: dict[int, _Done] = {}
    speaking = {pipe: rank for rank, pipe in enumerate(pipes)}
    while speaking:
        ready = wait(list(speaking))
        for pipe in [pipe for pipe in speaking if pipe in ready]:
            try:
                word: object = pipe.recv()
            except EOFError:
                rank = speaking.pop(pipe)
                workers[rank].join(_GRACE_SECONDS)
                if rank not in done:
                    raise RuntimeError(_obituary(job, rank, workers[rank])) from None
                continue
            match word:
                case ProgressEvent():
                    progress(word)
                case logging.LogRecord() if logging.getLogger(word.name).isEnabledFor(word.levelno):
                    logging.getLogger(word.name).handle(word)
                case _Done():
                    done[speaking[pipe]] = word
                case _TooMuchAtOnce():
                    return word
                case TabvaeError():
                    raise word
                case Exception():
                    # Where one was killed, as for its memory, the others hear of a lost connection.
                    dead = [rank for rank, worker in enumerate(workers) if worker.exitcode]
                    raise RuntimeError(_obituary(job, dead[0], workers[dead[0]])) if dead else word
    return done[0]


def _obituary(job: _Job, rank: int, worker: SpawnProcess) -> str:
    said = f"the training process of {job.devices[rank]} ended with exit code {worker.exitcode}"
    file = _last_words(job, rank)
    if not file.exists():
        return f"{said} before it began; a script that trains on several GPUs does so under if __name__ == '__main__'"
    words = file.read_text(encoding="utf-8", errors="replace")[-_LAST_WORDS:].strip()
    return f"{said}: {words}" if words else said


def _last_words(job: _Job, rank: int) -> Path:
    return job.folder / f"stderr-{rank}.txt"


# The processes' side ------------------------------------------------------------------------------------------------


class _Ranks(Crew):
    """The processes of a group, of which this is one."""

    def __init__(self, parallel: DistributedDataParallel, parts: int) -> None:
        self.rank, self.size, self.parts = distributed.get_rank(), distributed.get_world_size(), parts
        self._parallel = parallel

    def share(self, rows: Tensor) -> Tensor:
        return rows.tensor_split(self.size)[self.rank]

    def agree(self, value: float) -> float:
        told = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(told, src=0)
        return float(told)

    def mean(self, value: float) -> float:
        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total)
        return float(total) / self.size

    def noise(self, generator: torch.Generator) -> torch.Generator:
        # A CPU generator takes the lower half of a seed alone, so ranks cannot be told apart in the upper one.
        state = np.random.SeedSequence([generator.initial_seed(), self.rank]).generate_state(1, np.uint32)
        return torch.Generator().manual_seed(int(state[0]))

    def part(self, last: bool) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if last else self._parallel.no_sync()

    def take_parts(self, parts: int) -> None:
        raise _TooMuchAtOnce(parts)


class _Loss(nn.Module):
    """A loss as a module's forward, which is what DistributedDataParallel takes part in."""

    def __init__(self, network: nn.Module, loss: Callable[[nn.Module, Tensor, torch.Generator], Tensor]) -> None:
        super().__init__()
        self.network, self._loss = network, loss

    def forward(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        return self._loss(self.network, rows, generator)


class _Telling(logging.handlers.QueueHandler):
    """Gives log records to a pipe."""

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.send(record)  # type: ignore[attr-defined]


def _work(job: _Job, rank: int, pipe: Connection) -> None:
    """Run one process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller hears it as well, and ends this process
    threading.Thread(target=_end_with_caller, daemon=True).start()
    _speak_through(pipe, _last_words(job, rank))
    word: object
    try:
        word = _trained(job, rank, pipe)
    except (TabvaeError, _TooMuchAtOnce) as error:
        word = error
    except Exception as error:
        word = RuntimeError(f"training on {job.devices[rank]} failed: {type(error).__name__}: {error}")
    pipe.send(word)
    if isinstance(word, Exception):
        # Until the caller ends this process: the others' failure for want of it must not be heard first.
        threading.Event().wait()


def _end_with_caller() -> None:
    caller = parent_process()
    if caller is not None:
        caller.join()
        os._exit(1)


def _speak_through(pipe: Connection, last_words: Path) -> None:
    """Give what is logged and warned of to the caller, and keep what libraries print for when the process dies."""
    with last_words.open("wb") as file:
        os.dup2(file.fileno(), 2)
    logging.getLogger().addHandler(_Telling(pipe))  # type: ignore[arg-type]
    logging.getLogger("tabvae_core").setLevel(logging.INFO)
    logging.captureWarnings(True)


def _trained(job: _Job, rank: int, pipe: Connection) -> _Done:
    device, size, plan = job.devices[rank], len(job.devices), job.plan
    torch.set_num_threads(1)
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", _LOOPBACK)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=FileStore(str(job.folder / _STORE), size), rank=rank, world_size=size, timeout=_PATIENCE,
    )  # fmt: skip
    # What arrived is shared: on the CPU all processes would train the same memory.
    network, rows = copy.deepcopy(job.network).to(device), job.rows.on(device)
    # No device_ids, which would move the rows' indices. A network may have parameters that a table has no use for.
    parallel = DistributedDataParallel(_Loss(network, rows.loss), find_unused_parameters=True)
    parallel.broadcast_buffers = False  # none of them changes; the argument of that name is deprecated in torch 2.13
    crew = _Ranks(parallel, job.parts)
    if plan.max_seconds is not None:
        spent = crew.agree(time.monotonic() - job.begun)
        plan = dataclasses.replace(plan, max_seconds=max(1.0, plan.max_seconds - spent))
    record = train(
        network, lambda _, chosen, generator: parallel(chosen, generator), rows.validation_loss, rows.n_train, plan,
        progress=pipe.send if rank == 0 else silent, checkpoint=job.checkpoint, crew=crew,
    )  # fmt: skip
    if rank == 0:
        save_file({name: value.cpu().contiguous() for name, value in network.state_dict().items()},
                  job.folder / _WEIGHTS)  # fmt: skip
    distributed.destroy_process_group()
    return _Done(record, rows.rate)
