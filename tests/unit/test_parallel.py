from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar

import pytest
import torch

from tabvae_core.parallel import run_members
from tabvae_core.progress import Progress, ProgressEvent, silent


def counting(result: int, steps: int = 4) -> Callable[[Progress], int]:
    def job(listen: Progress) -> int:
        for step in range(steps):
            listen(ProgressEvent("train", step + 1, steps, "epochs", "loss"))
        return result

    return job


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_keep_their_order_and_progress_sums_up(workers: int) -> None:
    events: list[ProgressEvent] = []
    caller = threading.get_ident()

    def listen(event: ProgressEvent) -> None:
        assert threading.get_ident() == caller
        events.append(event)

    assert run_members([counting(k) for k in range(3)], workers, listen) == [0, 1, 2]
    assert len(events) == 12
    assert {event.total for event in events} == {12}
    assert max(event.done for event in events) == 12
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert {event.message.partition(":")[0] for event in events} == {"1 of 3", "2 of 3", "3 of 3"}


def test_a_single_job_speaks_for_itself() -> None:
    events: list[ProgressEvent] = []
    run_members([counting(0)], 1, events.append)
    assert [event.message for event in events] == ["loss"] * 4


def endless(begun: threading.Event) -> Callable[[Progress], int]:
    def job(listen: Progress) -> int:
        while True:
            begun.set()
            listen(ProgressEvent("train", 0, 1))

    return job


def test_an_error_of_one_job_ends_the_others() -> None:
    begun = threading.Event()

    def breaks(listen: Progress) -> int:
        assert begun.wait(10)
        raise ValueError("no loss")

    with pytest.raises(ValueError, match="no loss"):
        run_members([endless(begun), breaks], 2, silent)


def test_what_the_listener_raises_ends_all_jobs() -> None:
    class Cancelled(Exception):
        pass

    def cancels(event: ProgressEvent) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        run_members([endless(threading.Event()), endless(threading.Event())], 2, cancels)


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    run_members([lambda listen: torch.get_num_threads() for _ in range(2)], 2, silent)
    assert torch.get_num_threads() == before


def test_jobs_run_in_the_context_of_their_caller() -> None:
    """What they log is known to belong to the caller's run."""
    name: ContextVar[str] = ContextVar("name", default="nobody")
    name.set("caller")
    assert run_members([lambda _: name.get(), lambda _: name.get()], 2, silent) == ["caller", "caller"]
