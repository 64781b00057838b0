"""One refresh of a target at a time: the others wait for their turn.

- A local target: the kernel's lock on `TARGET/.refresh.lock`, which ends with the process that holds it.
- An object store: `TARGET/.refresh-lease.json`, put only if nobody else's stands. Its holder renews it while it works;
  one that is not renewed has lost its holder and is taken over. Where the store ignores conditional puts, two that come
  within moments may both begin.

A lease saves work and keeps order. It is not what protects readers: whoever publishes still moves the pointer only from
where it was read, so that of two writers one gets a conflict whatever became of their leases.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tabvae_core import lake as store
from tabvae_core.errors import PublishConflict, TabvaeError
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.spec import TargetSpec

__all__ = ["turn"]

_log = logging.getLogger(__name__)

_LOCK, _LEASE = ".refresh.lock", ".refresh-lease.json"
_RENEWED_EVERY = 20.0
_LOST_AFTER = 120.0
"""Seconds: a holder that has missed six renewals is gone. Clocks of two machines may differ by less."""
_ASKED_EVERY = 5.0
_ASKED_EVERY_LOCALLY = 0.2


@contextmanager
def turn(target: TargetSpec, *, wait: bool = True, progress: Progress = silent) -> Iterator[None]:
    """Hold a target for one refresh while the block runs.

    Args:
        target: Where releases go.
        wait: Wait for a refresh that is running; else fail.
        progress: Told, as step "wait", for whom this one waits.

    Raises:
        PublishConflict: Another refresh of the target is running, and `wait` is false.
        StorageError: The target cannot be written.

    """
    holding = _local_turn if store.is_local(target.uri) else _leased_turn
    with holding(target, _Queue(target, wait, progress)):
        yield


class _Queue:
    """Says for whom one waits, or that one does not."""

    def __init__(self, target: TargetSpec, wait: bool, progress: Progress) -> None:
        self._uri, self._wait, self._progress = store.safe_uri(target.uri), wait, progress

    def stand(self, holder: str, seconds: float) -> None:
        """Wait a moment.

        Raises:
            PublishConflict: Nobody wants to wait.

        """
        running = f"another refresh of {self._uri} is running ({holder})"
        if not self._wait:
            raise PublishConflict(running, hint="wait until it has ended, or leave out --no-wait")
        self._progress(ProgressEvent("wait", 0, message=f"{running}: waiting for it"))
        time.sleep(seconds)


def _oneself() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


# ---------------------------------------------------------------- a local target


@contextmanager
def _local_turn(target: TargetSpec, queue: _Queue) -> Iterator[None]:
    folder = store.filesystem(target.uri)[1]
    path = os.path.join(folder, _LOCK)
    made = [place for place in (Path(folder), *Path(folder).parents) if not place.exists()]
    with store.storage_errors(target.uri):
        handle = _lock(path, queue)
    try:
        yield
    finally:
        # Removed while it is held: whoever waits for this file finds that it is no longer the one in its place.
        with suppress(OSError):
            os.unlink(path)
        os.close(handle)
        with suppress(OSError):
            for place in made:
                place.rmdir()  # a target to which nothing was written


def _lock(path: str, queue: _Queue) -> int:
    while True:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # who held it removed an empty target in between
            continue
        holder = None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_in_place(handle, path):
                os.ftruncate(handle, 0)
                os.write(handle, _oneself().encode())
                return handle
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace")
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if holder is not None:
            queue.stand(holder, _ASKED_EVERY_LOCALLY)


def _is_in_place(handle: int, path: str) -> bool:
    """Whether a file that was opened is still the one of its name."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.stat(path))
    return False


# ---------------------------------------------------------------- an object store


class _Lease(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    holder: str
    token: str
    """Tells two leases of one process apart."""
    renewed_at: datetime

    @property
    def is_lost(self) -> bool:
        return datetime.now(UTC) - self.renewed_at > timedelta(seconds=_LOST_AFTER)


class _LeaseObject:
    """The lease of a target, and the tag under which this process last wrote it."""

    def __init__(self, target: TargetSpec) -> None:
        self._uri, self._storage = store.join_uri(target.uri, _LEASE), target.storage
        self._guarantee: store.Guarantee = (
            "conditional" if store.probe_conditional_puts(target.uri, target.storage) else "compare-then-write"
        )
        self._token = secrets.token_hex(8)

    def take(self) -> _Lease | None:
        """Take the lease where nobody holds it; else give the one that stands."""
        found = store.read_with_etag(self._uri, self._storage)
        standing = None if found is None else _read(found[0])
        if standing is not None and not standing.is_lost:
            return standing
        if standing is not None:
            _log.info("the refresh by %s shows no sign of life: its lease is taken over", standing.holder)
        try:
            self._put(None if found is None else found[1])
        except PublishConflict:
            return self.take()
        return None

    def renew(self) -> bool:
        """Say that its holder is alive; False where another holds it now."""
        found = store.read_with_etag(self._uri, self._storage)
        if found is None or not self._is_ours(found[0]):
            return False
        try:
            self._put(found[1])
        except PublishConflict:
            return False
        return True

    def release(self) -> None:
        """Remove the lease, if it is still ours."""
        found = store.read_with_etag(self._uri, self._storage)
        if found is not None and self._is_ours(found[0]):
            store.remove_file(self._uri, self._storage)

    def _is_ours(self, data: bytes) -> bool:
        lease = _read(data)
        return lease is not None and lease.token == self._token

    def _put(self, etag: str | None) -> None:
        lease = _Lease(holder=_oneself(), token=self._token, renewed_at=datetime.now(UTC))
        data = lease.model_dump_json().encode()
        store.put_if_match(self._uri, data, etag, self._storage, guarantee=self._guarantee)


def _read(data: bytes) -> _Lease | None:
    """Read a lease; one that cannot be read is nobody's."""
    try:
        return _Lease.model_validate(json.loads(data))
    except (ValueError, ValidationError):
        return None


@contextmanager
def _leased_turn(target: TargetSpec, queue: _Queue) -> Iterator[None]:
    lease = _LeaseObject(target)
    while (standing := lease.take()) is not None:
        queue.stand(standing.holder, _ASKED_EVERY)
    ended = threading.Event()
    beat = threading.Thread(target=_keep_alive, args=(lease, ended), name="tabvae-lease", daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join(_RENEWED_EVERY)
        with suppress(TabvaeError):
            lease.release()


def _keep_alive(lease: _LeaseObject, ended: threading.Event) -> None:
    while not ended.wait(_RENEWED_EVERY):
        # A store that does not answer for a moment costs no lease: the next renewal may still come in time.
        with suppress(TabvaeError):
            if not lease.renew():
                _log.warning("another refresh took this one's lease: only one of them can publish")
                return
