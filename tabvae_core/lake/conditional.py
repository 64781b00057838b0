"""Conditional writes: replace an object only if it is still the one that was read.

- S3 that honours `If-Match`: the store checks. Of two writers exactly one wins.
- A local disk: a lock, then compare and rename. The same promise, between processes that reach the disk
through one
  kernel or through a file server with locks.
- Any other store: we compare, write, and read back. A late writer is noticed, unless both write within
moments.

A lock file `.NAME.lock` stays beside a local object. It is empty and never stale: the lock is the kernel's
`flock` on it, which ends with the process that holds it, not the file's existence.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from tabvae_core.errors import PublishConflict, StorageError
from tabvae_core.spec import StorageSpec
from tabvae_core.storage import (
    filesystem,
    is_local,
    join_uri,
    remove_file,
    replacing,
    response_code,
    safe_uri,
    storage_errors,
    write_bytes,
)

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["Guarantee", "probe_conditional_puts", "put_if_match", "read_with_etag"]

Guarantee = Literal["conditional", "compare-then-write"]
"""What a place promises two writers: the store or a lock checks, or we compare and then write."""

LOCK_SECONDS = 30.0
# 412: the condition failed. 409: another conditional write to the same key was under way, and this one was
# dropped.
_REFUSED = {"412", "409", "PreconditionFailed", "ConditionalRequestConflict"}
# The store answered and did nothing: no credentials, no bucket, or it does not know conditions at all.
_NOT_DONE = (PermissionError, FileNotFoundError)


class _Outcome(Enum):
    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"


def _is_s3(fs: AbstractFileSystem) -> bool:
    protocol = fs.protocol
    return "s3" in ((protocol,) if isinstance(protocol, str) else protocol)


def read_with_etag(uri: str, storage: StorageSpec | None = None) -> tuple[bytes, str] | None:
    """Read an object together with the tag that identifies this content of it.

    Returns:
        Content and tag, from one request; None when there is no such object.

    """
    fs, path = filesystem(uri, storage)
    with storage_errors(uri):
        try:
            if _is_s3(fs):
                return _get_s3(fs, path)
            data = bytes(fs.cat_file(path))
        except FileNotFoundError as error:
            if response_code(error) == "NoSuchBucket":
                raise
            return None
    return data, _tag(data)


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _get_s3(fs: Any, path: str) -> tuple[bytes, str]:
    from fsspec.asyn import sync

    bucket, _, key = path.partition("/")

    async def get() -> tuple[bytes, str]:
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key)
        async with answer["Body"] as body:
            return bytes(await body.read()), str(answer["ETag"])

    result: tuple[bytes, str] = sync(fs.loop, get)
    return result


def put_if_match(
    uri: str,
    data: bytes,
    etag: str | None,
    storage: StorageSpec | None = None,
    *,
    guarantee: Guarantee | None = None,
) -> None:
    """Write an object if it still has the tag that it was read with.

    Args:
        uri: The object.
        data: New content; it must differ from what any other writer would put, or a lost race could pass for
            a won one.
        etag: Tag from `read_with_etag`; None: the object must not exist yet.
        storage: Access to it.
        guarantee: What the place promises, if it is known already; None: it is probed.

    Raises:
        PublishConflict: Another writer was first; ours did not land, or was replaced at once.
        StorageError: Storage failed. Where the connection broke after sending, the object was read again to
            find out whether the write had landed, and it had not.

    """
    if is_local(uri):
        _put_local(uri, data, etag, storage)
        return
    if guarantee is None:
        guarantee = "conditional" if probe_conditional_puts(uri.rsplit("/", 1)[0], storage) else "compare-then-write"
    conditional = guarantee == "conditional"
    if not conditional and _current_tag(uri, storage) != etag:
        raise _conflict(uri)
    with storage_errors(uri):
        outcome = _put_once(uri, data, etag, storage, conditional)
    if outcome is _Outcome.DONE and conditional:
        return
    _settle_outcome(uri, data, etag, storage, outcome)


def _put_once(uri: str, data: bytes, etag: str | None, storage: StorageSpec | None, conditional: bool) -> _Outcome:
    # One request, never repeated: a repeat after a lost answer would meet its own first write and look like a
    # conflict.
    fs, path = filesystem(uri, storage, retries=False)
    try:
        if _is_s3(fs):
            bucket, _, key = path.partition("/")
            fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **(_condition(etag) if conditional else {}))
        else:
            fs.pipe_file(path, data)
    except _NOT_DONE as error:
        # If-Match on an object that is gone: another writer removed it.
        if etag is not None and response_code(error) == "NoSuchKey":
            return _Outcome.REFUSED
        raise
    except Exception as error:
        code = response_code(error)
        if code in _REFUSED:
            return _Outcome.REFUSED
        if code.startswith("4"):
            raise
        return _Outcome.UNKNOWN
    return _Outcome.DONE


def _condition(etag: str | None) -> dict[str, str]:
    return {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}


def _settle_outcome(uri: str, data: bytes, etag: str | None, storage: StorageSpec | None, outcome: _Outcome) -> None:
    """Read the object again: it says whether our write is the one that stands."""
    found = read_with_etag(uri, storage)
    if found is not None and found[0] == data:
        return
    if outcome is _Outcome.UNKNOWN and (found[1] if found else None) == etag:
        raise StorageError(
            f"{safe_uri(uri)} was not written: the store gave no answer, and the object is as it was before",
            hint="run again; a repeated publish of the same version is safe",
        )
    raise _conflict(uri)


def _conflict(uri: str) -> PublishConflict:
    return PublishConflict(
        f"{safe_uri(uri)} was changed by another writer since it was read",
        hint="look at `tabvae releases`; run again to publish on top of that version",
    )


def _current_tag(uri: str, storage: StorageSpec | None) -> str | None:
    found = read_with_etag(uri, storage)
    return found[1] if found else None


def _put_local(uri: str, data: bytes, etag: str | None, storage: StorageSpec | None) -> None:
    _, path = filesystem(uri, storage)
    with storage_errors(uri):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with _locked(path), replacing(path) as temporary:
            if _current_tag(uri, storage) != etag:
                raise _conflict(uri)
            with open(temporary, "wb") as file:
                file.write(data)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    folder, name = os.path.split(path)
    handle = os.open(os.path.join(folder, f".{name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StorageError(
                        f"{path} has been locked by another process for {LOCK_SECONDS:.0f} s",
                        hint="find the process that publishes there; the lock ends with it",
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def probe_conditional_puts(folder: str, storage: StorageSpec | None = None) -> bool:
    """Find out whether a place honours conditional writes, by trying them on an object of its own.

    Args:
        folder: Folder in which a small object is written and removed again.
        storage: Access to it.

    Returns:
        True: a writer that is late is refused. False: the place ignores conditions or does not know them.

    """
    if is_local(folder):
        return True
    fs, _ = filesystem(folder, storage)
    if not _is_s3(fs):
        return False
    probe = join_uri(folder, f".tabvae-probe-{uuid.uuid4().hex}")
    write_bytes(probe, b"probe", storage)
    try:
        return _refuses(probe, None, storage) and _refuses(probe, '"00000000000000000000000000000000"', storage)
    finally:
        remove_file(probe, storage)


def _refuses(probe: str, etag: str | None, storage: StorageSpec | None) -> bool:
    fs, path = filesystem(probe, storage)
    bucket, _, key = path.partition("/")
    with storage_errors(probe):
        try:
            fs.call_s3("put_object", Bucket=bucket, Key=key, Body=b"other", **_condition(etag))
        except _NOT_DONE:
            raise
        except Exception as error:
            code = response_code(error)
            if code in _REFUSED:
                return True
            # Stores without conditions say so, with 501 or 400.
            if code in ("NotImplemented", "501", "InvalidArgument", "InvalidRequest", "400"):
                return False
            raise
    return False
