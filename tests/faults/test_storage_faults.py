"""What goes wrong with storage, provoked for real: one clear error, and nothing half-written."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s3_servers import Store, refused_endpoint
from tabvae_core import release
from tabvae_core import storage as store
from tabvae_core.errors import DataError, PublishConflict, StorageError
from tabvae_core.lake import ParquetSink, ParquetSource, put_if_match, read_with_etag
from tabvae_core.references import TableRef
from tabvae_core.schema import schema_fingerprint
from tabvae_core.spec import StorageSpec, TargetSpec

ROWS = 50_000
# Random bytes: a table that compression does not make small.
TABLE = pa.table({"id": pa.array(range(ROWS), pa.int64()), "noise": [os.urandom(16) for _ in range(ROWS)]})
FIELDS = {"spec": {}, "source_fingerprint": "f"}


def sampled(folder: Path, run_id: str = "0123456789abcdef") -> TableRef:
    with ParquetSink(str(folder), TABLE.schema) as sink:
        sink.write(TABLE)
    fingerprint = schema_fingerprint(TABLE.schema)
    return TableRef(run_id=run_id, uri=str(folder), files=sink.files, rows=sink.rows, schema_fingerprint=fingerprint)


def run_child(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class TestCredentials:
    @pytest.mark.parametrize("wrong", ["SECRET_ACCESS_KEY", "ACCESS_KEY_ID"])
    def test_rejected(self, s3: Store, monkeypatch, wrong):
        bucket = s3.bucket_uri("guarded")
        prefix = s3.storage.credentials.removeprefix("env:")
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            monkeypatch.setenv(f"BAD_{name}", os.environ[f"{prefix}_{name}"])
        monkeypatch.setenv(f"BAD_{wrong}", "hushhushhushhushhush")
        storage = s3.storage.model_copy(update={"credentials": "env:BAD"})
        attempts = [
            lambda: ParquetSource(f"{bucket}/table/", storage),
            lambda: store.write_bytes(f"{bucket}/x", b"", storage),
            lambda: put_if_match(f"{bucket}/x", b"", None, storage, guarantee="conditional"),
            lambda: release.current(f"{bucket}/target", storage),
        ]
        for attempt in attempts:
            with pytest.raises(StorageError, match=r"s3://guarded/.*(credentials|access was denied)") as caught:
                attempt()
            assert caught.value.exit_code == 6
            assert "hush" not in str(caught.value)
        assert store.list_folder(bucket, s3.storage) == {}


class TestNetwork:
    def test_a_refused_connection_is_told_within_seconds(self, monkeypatch):
        monkeypatch.setenv("GONE_ACCESS_KEY_ID", "k")
        monkeypatch.setenv("GONE_SECRET_ACCESS_KEY", "s")
        storage = StorageSpec(endpoint_url=refused_endpoint(), credentials="env:GONE")
        began = time.monotonic()
        with pytest.raises(StorageError, match=r"s3://lake/t: the store cannot be reached"):
            ParquetSource("s3://lake/t", storage)
        assert time.monotonic() - began < 15

    def test_a_lost_answer_to_a_write_that_landed(self, s3_moto: Store):
        """The pointer moved, the answer did not come: the object itself says that the write is ours."""
        uri = f"{s3_moto.bucket_uri('lossy')}/landed.json"
        put_if_match(uri, b"one", None, s3_moto.storage)
        _, etag = read_with_etag(uri, s3_moto.storage)
        with lossy(s3_moto, deliver=True) as storage:
            put_if_match(uri, b"two", etag, storage, guarantee="conditional")
        assert store.read_bytes(uri, s3_moto.storage) == b"two"

    def test_a_write_that_never_arrived(self, s3_moto: Store):
        uri = f"{s3_moto.bucket_uri('lossy')}/never.json"
        put_if_match(uri, b"one", None, s3_moto.storage)
        _, etag = read_with_etag(uri, s3_moto.storage)
        with (
            lossy(s3_moto, deliver=False) as storage,
            pytest.raises(StorageError, match=r"never\.json was not written: the store gave no answer"),
        ):
            put_if_match(uri, b"two", etag, storage, guarantee="conditional")
        assert store.read_bytes(uri, s3_moto.storage) == b"one"

    def test_an_unanswered_write_that_another_overtook(self, s3_moto: Store):
        uri = f"{s3_moto.bucket_uri('lossy')}/overtaken.json"
        put_if_match(uri, b"one", None, s3_moto.storage)
        _, etag = read_with_etag(uri, s3_moto.storage)
        put_if_match(uri, b"other", etag, s3_moto.storage)
        with lossy(s3_moto, deliver=False) as storage, pytest.raises(PublishConflict):
            put_if_match(uri, b"two", etag, storage, guarantee="conditional")
        assert store.read_bytes(uri, s3_moto.storage) == b"other"


@contextmanager
def lossy(behind: Store, *, deliver: bool) -> Iterator[StorageSpec]:
    """A connection to a store that breaks at every write: after the store has done it, or before it hears of it."""
    port = int((behind.storage.endpoint_url or "").rsplit(":", 1)[1])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_relay_all, args=(listener, port, deliver), daemon=True).start()
        yield behind.storage.model_copy(update={"endpoint_url": f"http://127.0.0.1:{listener.getsockname()[1]}"})


def _relay_all(listener: socket.socket, port: int, deliver: bool) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_relay, args=(client, port, deliver), daemon=True).start()


def _relay(client: socket.socket, port: int, deliver: bool) -> None:
    with client, suppress(OSError), socket.create_connection(("127.0.0.1", port)) as server:
        while request := _message(client):
            if request.startswith(b"PUT") and not deliver:
                return
            server.sendall(request)
            answer = _message(server, head=request.startswith(b"HEAD"))
            if request.startswith(b"PUT"):
                return
            client.sendall(answer)


def _message(connection: socket.socket, *, head: bool = False) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (chunk := connection.recv(65_536)):
            return b""
        data += chunk
    headers, body = data.split(b"\r\n\r\n", 1)
    lines = dict(line.lower().split(b": ", 1) for line in headers.split(b"\r\n")[1:])
    if lines.get(b"expect"):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = 0 if head else int(lines.get(b"content-length", b"0"))
    while len(body) < length:
        body += connection.recv(65_536)
    return headers + b"\r\n\r\n" + body


class TestBadFiles:
    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda whole: b"", "is empty: zero bytes"),
            (lambda whole: b"id,name\n1,x\n", "is not a Parquet file"),
            (lambda whole: b"PA", "is not a Parquet file"),
            (lambda whole: whole[: len(whole) // 2], "is truncated"),
            (lambda whole: whole[:-9] + b"\xff" * 5 + b"PAR1", "its footer cannot be read"),
            (lambda whole: b"PARE" + whole[4:-4] + b"PARE", "encrypted"),
        ],
    )
    def test_each_is_named(self, place, tmp_path, damage, message):
        pq.write_table(TABLE.slice(0, 100), tmp_path / "whole.parquet")
        uri = store.join_uri(place.uri, "bad.parquet")
        store.write_bytes(uri, damage((tmp_path / "whole.parquet").read_bytes()), place.storage)
        with pytest.raises(DataError, match=rf"bad\.parquet .*{message}") as caught:
            ParquetSource(place.uri, place.storage)
        assert caught.value.exit_code == 3
        assert caught.value.hint

    def test_rows_that_cannot_be_decoded(self, place, tmp_path):
        pq.write_table(TABLE, tmp_path / "whole.parquet")
        whole = bytearray((tmp_path / "whole.parquet").read_bytes())
        whole[1000:200_000] = b"\xff" * 199_000
        uri = store.join_uri(place.uri, "bad.parquet")
        store.write_bytes(uri, bytes(whole), place.storage)
        with pytest.raises(DataError, match=r"bad\.parquet is damaged: its rows cannot be decoded"):
            list(ParquetSource(uri, place.storage).batches())

    def test_missing(self, place):
        with pytest.raises(DataError, match=r"nothing does not exist"):
            ParquetSource(store.join_uri(place.uri, "nothing"), place.storage)

    def test_missing_bucket(self, s3: Store):
        with pytest.raises(DataError, match="the bucket 'no-such-bucket' does not exist"):
            ParquetSource("s3://no-such-bucket/t", s3.storage)

    def test_a_folder_without_tables(self, place):
        store.write_bytes(store.join_uri(place.uri, "notes.txt"), b"x", place.storage)
        with pytest.raises(DataError, match="holds no Parquet file, 1 of other kinds"):
            ParquetSource(place.uri, place.storage)


class TestFullDisk:
    def test_the_systems_own_answer(self):
        with (
            pytest.raises(StorageError, match=r"/dev/full: no space is left"),
            store.storage_errors("/dev/full"),
            open("/dev/full", "wb", buffering=0) as full,
        ):
            full.write(b"x")

    LIMITED = """
        import os, resource, sys
        from tabvae_core import storage
        from tabvae_core.errors import StorageError
        from tabvae_core.lake import ParquetSink, ParquetSource
        source = ParquetSource(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            if sys.argv[3] == "table":
                with ParquetSink(sys.argv[2], source.schema) as sink:
                    for batch in source.batches():
                        sink.write(batch)
            else:
                storage.copy_file(sys.argv[1], sys.argv[2])
        except StorageError as error:
            print(error.message)
            sys.exit(error.exit_code)
    """

    @pytest.mark.parametrize(("out", "what"), [("out", "table"), ("out.parquet", "table"), ("copy.parquet", "object")])
    def test_a_write_that_does_not_fit_leaves_nothing(self, tmp_path, out, what):
        pq.write_table(TABLE, tmp_path / "source.parquet")
        (tmp_path / "disk").mkdir()
        done = run_child(self.LIMITED, str(tmp_path / "source.parquet"), str(tmp_path / "disk/new" / out), what)
        assert done.returncode == 6, done.stderr
        assert "a file grew beyond the size allowed" in done.stdout
        assert files_below(tmp_path / "disk") == []


class TestReadOnlyTarget:
    @pytest.mark.parametrize("name", ["out", "out.parquet"])
    def test_below_a_file(self, tmp_path, name):
        (tmp_path / "file").write_text("x")
        with pytest.raises(StorageError, match="a file stands where a folder is needed"):
            ParquetSink(str(tmp_path / "file" / name), TABLE.schema).__enter__()
        with pytest.raises(StorageError, match="a file stands where a folder is needed"):
            store.write_bytes(str(tmp_path / "file" / "x"), b"")

    # Linux shows its own state in /sys, where nobody can make files, not even root.
    @pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="needs Linux")
    def test_where_nobody_can_write(self, tmp_path):
        refused = r"/sys/kernel/tabvae.*(denied|read-only)"
        with pytest.raises(StorageError, match=refused):
            ParquetSink("/sys/kernel/tabvae/out", TABLE.schema).__enter__()
        target = TargetSpec(uri="/sys/kernel/tabvae/target")
        with pytest.raises(StorageError, match=refused):
            release.publish(sampled(tmp_path), target=target, manifest_fields=FIELDS)


class TestKilledWriters:
    def test_a_killed_sink_shows_nothing(self, tmp_path):
        code = """
            import os, signal, sys
            import pyarrow as pa
            from tabvae_core.lake import ParquetSink
            table = pa.table({"id": list(range(1000))})
            with ParquetSink(sys.argv[1], table.schema, rows_per_file=100, row_group_rows=50) as sink:
                sink.write(table)
                os.kill(os.getpid(), signal.SIGKILL)
        """
        out = tmp_path / "tables" / "out"
        assert run_child(code, str(out)).returncode == -signal.SIGKILL
        assert not out.exists()
        with pytest.raises(DataError, match="holds no Parquet file"):
            ParquetSource(str(tmp_path / "tables"))
        with ParquetSink(str(out), TABLE.schema) as sink:
            sink.write(TABLE)
        assert ParquetSource(str(tmp_path / "tables")).num_rows == TABLE.num_rows

    @pytest.mark.parametrize(
        ("place", "moment"),
        [("file", "_prove"), ("file", "_move_pointer"), ("moto", "_move_pointer"), ("rclone", "_prove")],
        indirect=["place"],
    )
    def test_a_killed_publish_leaves_the_old_release_and_can_be_repeated(self, place, tmp_path, moment):
        target = TargetSpec(uri=store.join_uri(place.uri, "target"), storage=place.storage)
        first, second = sampled(tmp_path / "a", "first"), sampled(tmp_path / "b", "second")
        release.publish(first, target=target, manifest_fields=FIELDS, version="v1")
        code = f"""
            import os, signal, sys
            from tabvae_core import release
            from tabvae_core.references import TableRef
            from tabvae_core.spec import TargetSpec
            release.{moment} = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
            table, target = TableRef.model_validate_json(sys.argv[1]), TargetSpec.model_validate_json(sys.argv[2])
            release.publish(table, target=target, manifest_fields={FIELDS!r}, version="v2")
        """
        killed = run_child(code, second.model_dump_json(), target.model_dump_json())
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert [r.version for r in release.releases(target)] == ["v1"]
        assert release.current(target).run_id == "first"
        assert release.publish(second, target=target, manifest_fields=FIELDS, version="v2").version == "v2"
        assert [r.version for r in release.releases(target)] == ["v2", "v1"]
        assert release.read_release(target).num_rows == TABLE.num_rows

    def test_a_killed_holder_of_the_lock_does_not_block(self, tmp_path):
        code = """
            import os, signal, sys
            from tabvae_core.lake import conditional
            with conditional._locked(sys.argv[1]):
                os.kill(os.getpid(), signal.SIGKILL)
        """
        uri = str(tmp_path / "current.json")
        assert run_child(code, uri).returncode == -signal.SIGKILL
        assert (tmp_path / ".current.json.lock").exists()
        put_if_match(uri, b"x", None)
        assert store.read_bytes(uri) == b"x"
