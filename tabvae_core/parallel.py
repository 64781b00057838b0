"""Jobs side by side on the cores of one machine, with one stream of progress."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from tabvae_core.progress import Progress, ProgressEvent

__all__ = ["run_members"]

Result = TypeVar("Result")

_POLL_SECONDS = 0.2


class _Stopped(Exception):
    """Ends a job whose result nobody waits for any more."""


def run_members(jobs: Sequence[Callable[[Progress], Result]], workers: int, progress: Progress) -> list[Result]:
    """Run jobs that compute with torch, some at a time, each on its share of torch's threads.

    Small products keep one core busy, not two: jobs side by side are nearly twice as fast as one after another.

    Args:
        jobs: Called with the listener of their own progress.
        workers: Jobs run at the same time.
        progress: Told from the calling thread; what it raises ends all jobs. Events of several jobs are summed up.

    Returns:
        What each job returned, in order.

    """
    if len(jobs) == 1:
        return [jobs[0](progress)]
    events: queue.SimpleQueue[tuple[int, ProgressEvent]] = queue.SimpleQueue()
    stop, threads = threading.Event(), torch.get_num_threads()
    done = [0.0] * len(jobs)

    def listener(job: int) -> Progress:
        def listen(event: ProgressEvent) -> None:
            if stop.is_set():
                raise _Stopped
            events.put((job, event))

        return listen

    def forward(timeout: float) -> None:
        try:
            job, event = events.get(timeout=timeout)
        except queue.Empty:
            return
        done[job] = event.done / event.total if event.total else 0.0
        total = None if event.total is None else event.total * len(jobs)
        message = f"{job + 1} of {len(jobs)}: {event.message}"
        progress(ProgressEvent(event.step, sum(done) * (event.total or 0.0), total, event.unit, message))

    try:
        share = max(1, threads // workers)
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(share,)) as pool:
            # In the caller's context, so that what a job logs is known to belong to the caller's run.
            futures: list[Future[Result]] = [
                pool.submit(contextvars.copy_context().run, job, listener(k)) for k, job in enumerate(jobs)
            ]
            try:
                while not all(future.done() for future in futures):
                    forward(_POLL_SECONDS)
                    if any(future.done() and future.exception() for future in futures):
                        break
                while not events.empty():
                    forward(0.0)
            finally:
                stop.set()
                for future in futures:
                    future.cancel()
    finally:
        torch.set_num_threads(threads)
    failed = [future.exception() for future in futures if not future.cancelled() and future.exception()]
    for error in sorted(failed, key=lambda error: isinstance(error, _Stopped)):
        assert error is not None
        raise error
    return [future.result() for future in futures]
