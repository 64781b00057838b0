"""One refresh of a target at a time, on a disk and in both kinds of object store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tabvae_core import lease
from tabvae_core.errors import PublishConflict
from tabvae_core.lake import list_folder, write_bytes
from tabvae_core.lease import turn
from tabvae_core.progress import ProgressEvent
from tabvae_core.spec import TargetSpec

if TYPE_CHECKING:
    from conftest import Place


def target_of(place: Place) -> TargetSpec:
    return TargetSpec(uri=f"{place.uri}/target", storage=place.storage)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_ASKED_EVERY", 0.05)


def test_the_second_fails_or_waits_and_nothing_is_left(place: Place) -> None:
    target, events, order = target_of(place), list[ProgressEvent](), list[str]()
    waiting, others = threading.Event(), "who came later"

    def listen(event: ProgressEvent) -> None:
        events.append(event)
        waiting.set()

    def second() -> None:
        with turn(target, progress=listen):
            order.append(others)

    with turn(target):
        with (
            pytest.raises(PublishConflict, match=rf"another refresh .* running \(process {os.getpid()} on") as busy,
            turn(target, wait=False),
        ):
            pass
        assert busy.value.exit_code == 5
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(30)
        order.append("who came first")
    thread.join(30)
    assert order == ["who came first", others]
    assert events[0].step == "wait"
    assert "waiting for it" in events[0].message
    assert list_folder(place.uri, place.storage) == {}, "neither lock nor lease is left"
    with turn(target, wait=False):
        pass


def test_a_refresh_that_fails_gives_its_turn_back(place: Place) -> None:
    target = target_of(place)
    with pytest.raises(ZeroDivisionError), turn(target):
        raise ZeroDivisionError
    with turn(target, wait=False):
        pass


def test_a_lease_that_nobody_renews_is_taken_over(place: Place) -> None:
    if "://" not in place.uri:
        pytest.skip("a local lock ends with its holder")
    target = target_of(place)

    def stands(renewed_at: datetime) -> None:
        left = lease._Lease(holder="a machine that is gone", token="t", renewed_at=renewed_at)
        write_bytes(f"{target.uri}/.refresh-lease.json", left.model_dump_json().encode(), target.storage)

    stands(datetime.now(UTC))
    with pytest.raises(PublishConflict, match="a machine that is gone"), turn(target, wait=False):
        pass
    stands(datetime.now(UTC) - timedelta(seconds=lease._LOST_AFTER + 1))
    with turn(target, wait=False):
        pass


def test_a_holder_renews_its_lease_and_notices_when_it_is_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if "://" not in place.uri:
        pytest.skip("a local lock is not renewed")
    monkeypatch.setattr(lease, "_RENEWED_EVERY", 0.05)
    target, uri = target_of(place), f"{place.uri}/target/.refresh-lease.json"
    renewed, put = threading.Event(), lease._LeaseObject.renew

    def renew(one: lease._LeaseObject) -> bool:
        alive = put(one)
        renewed.set()
        return alive

    monkeypatch.setattr(lease._LeaseObject, "renew", renew)
    with turn(target):
        assert renewed.wait(30)
        other = lease._Lease(holder="another", token="other", renewed_at=datetime.now(UTC))
        # Written without a condition, again and again, as a renewal may be under way.
        while any(thread.name == "tabvae-lease" for thread in threading.enumerate()):
            write_bytes(uri, other.model_dump_json().encode(), target.storage)
            renewed.clear()
            renewed.wait(0.5)
    assert "another refresh took this one's lease" in caplog.text
    assert list(list_folder(target.uri, target.storage)) == [".refresh-lease.json"], "the other's lease stays"


def test_a_killed_holder_of_a_local_target_blocks_nobody(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from tabvae_core.lease import turn\n"
        "from tabvae_core.spec import TargetSpec\n"
        "with turn(TargetSpec(uri=sys.argv[1])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "target")], check=False)
    assert killed.returncode == -signal.SIGKILL
    with turn(TargetSpec(uri=str(tmp_path / "target")), wait=False):
        pass
