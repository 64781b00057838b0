from __future__ import annotations

import errno
import os
import pickle

import pytest

from s3_servers import Store, refused_endpoint
from tabvae_core import storage as store
from tabvae_core.errors import DataError, SpecError, StorageError
from tabvae_core.spec import StorageSpec


def test_small_objects_round_trip(place):
    uri = store.join_uri(place.uri, "a/b/object.json")
    assert not store.exists(uri, place.storage)
    store.write_json(uri, {"n": 1, "text": "é"}, place.storage)
    assert store.exists(uri, place.storage)
    assert store.exists(place.uri, place.storage)
    assert store.read_json(uri, place.storage) == {"n": 1, "text": "é"}
    store.write_bytes(uri, b"short", place.storage)
    assert store.read_bytes(uri, place.storage) == b"short"


def test_another_writers_object_is_seen_at_once(place):
    first, second = store.join_uri(place.uri, "first"), store.join_uri(place.uri, "second")
    store.write_bytes(first, b"1", place.storage)
    assert store.list_folder(place.uri, place.storage) == {"first": 1}
    elsewhere = place.storage.model_copy(update={"region": "us-east-1"})
    store.write_bytes(second, b"22", elsewhere)
    assert store.list_folder(place.uri, place.storage) == {"first": 1, "second": 2}
    store.remove_file(first, elsewhere)
    assert store.list_folder(place.uri, place.storage) == {"second": 2}
    assert not store.exists(first, place.storage)


def test_folders_are_listed_copied_and_removed(place, tmp_path):
    for name in ("x.txt", "deep/er/y.txt"):
        store.write_bytes(store.join_uri(place.uri, "tree", name), name.encode(), place.storage)
    tree = store.join_uri(place.uri, "tree")
    assert store.list_names(tree, place.storage) == ["deep", "x.txt"]
    store.copy_tree(tree, str(tmp_path / "copy"), source_storage=place.storage)
    assert (tmp_path / "copy/deep/er/y.txt").read_text() == "deep/er/y.txt"
    back = store.join_uri(place.uri, "back")
    store.copy_tree(str(tmp_path / "copy"), back, target_storage=place.storage)
    assert store.list_folder(back, place.storage) == {"deep/er/y.txt": 13, "x.txt": 5}
    store.remove_tree(tree, place.storage)
    assert store.list_folder(tree, place.storage) == {}
    assert store.list_folder(back, place.storage) != {}


def test_what_is_not_there_is_no_error_to_remove_and_a_data_error_to_read(place):
    missing = store.join_uri(place.uri, "missing")
    store.remove_file(missing, place.storage)
    store.remove_tree(missing, place.storage)
    assert store.list_folder(missing, place.storage) == {}
    assert store.list_names(missing, place.storage) == []
    with pytest.raises(DataError, match=r"missing does not exist"):
        store.read_bytes(missing, place.storage)
    with pytest.raises(DataError, match=r"missing does not exist"):
        store.copy_tree(missing, store.join_uri(place.uri, "copy"), source_storage=place.storage)


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "/", "~"])
def test_a_whole_bucket_or_disk_is_never_removed(uri):
    with pytest.raises(SpecError, match="too much to remove"):
        store.remove_tree(uri, StorageSpec(credentials="anonymous", endpoint_url="http://127.0.0.1:9"))


def test_local_writes_leave_no_temporary_file_and_a_shared_mode(tmp_path):
    target = tmp_path / "new" / "object"
    store.write_bytes(f"file://{target}", b"x")
    assert os.listdir(target.parent) == ["object"]
    reference = tmp_path / "reference"
    reference.write_bytes(b"")
    assert target.stat().st_mode == reference.stat().st_mode


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(DataError, match=r"record\.json is damaged: it is not JSON"):
        store.read_json(str(tmp_path / "record.json"))


def test_hash_of_a_file(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert store.file_sha256(str(tmp_path / "abc")).startswith("ba7816bf8f01cfea")


@pytest.mark.parametrize(
    ("uri", "parts", "expected"),
    [
        ("s3://b/", ("x", "y/"), "s3://b/x/y"),
        ("folder", ("/x",), "folder/x"),
        ("/", ("x",), "//x"),
    ],
)
def test_join_uri(uri, parts, expected):
    assert os.path.normpath(store.join_uri(uri, *parts)) == os.path.normpath(expected)


def test_safe_uri_hides_what_can_be_secret():
    assert store.safe_uri("https://me:pw@host/a?sig=secret") == "https://host/a"
    assert store.safe_uri("dir/file?.parquet") == "dir/file?.parquet"


class TestCredentials:
    def test_missing_variables_are_named(self, monkeypatch):
        monkeypatch.setenv("NOBODY_ACCESS_KEY_ID", "key")
        monkeypatch.delenv("NOBODY_SECRET_ACCESS_KEY", raising=False)
        with pytest.raises(SpecError, match="the environment lacks NOBODY_SECRET_ACCESS_KEY") as caught:
            store.filesystem("s3://b/x", StorageSpec(credentials="env:NOBODY"))
        assert caught.value.exit_code == 2

    def test_a_block_without_prefect(self, monkeypatch):
        monkeypatch.setattr(store, "_RESOLVERS", {})
        with pytest.raises(SpecError, match="block:lake: blocks need Prefect"):
            store.filesystem("s3://b/x", StorageSpec(credentials="block:lake"))

    def test_a_registered_resolver_is_asked(self, s3_moto: Store, monkeypatch):
        monkeypatch.setattr(store, "_RESOLVERS", {})
        asked = []

        def resolver(name: str) -> store.Credentials:
            asked.append(name)
            key, secret = os.environ["TEST_MOTO_ACCESS_KEY_ID"], os.environ["TEST_MOTO_SECRET_ACCESS_KEY"]
            return store.Credentials(key, secret, endpoint_url=s3_moto.storage.endpoint_url, region="us-east-1")

        store.register_credentials("block", resolver)
        bucket = s3_moto.bucket_uri("blocks")
        store.write_bytes(f"{bucket}/x", b"1", StorageSpec(credentials="block:lake"))
        assert store.read_bytes(f"{bucket}/x", s3_moto.storage) == b"1"
        assert set(asked) == {"lake"}

    def test_secrets_stay_out_of_the_repr(self):
        assert "hush" not in repr(store.Credentials("hush", "hush", "hush"))

    def test_the_environment_names_the_endpoint(self, s3: Store, monkeypatch):
        bucket = s3.bucket_uri("environment")
        prefix = s3.storage.credentials.removeprefix("env:")
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.storage.endpoint_url or "")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", os.environ[f"{prefix}_ACCESS_KEY_ID"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", os.environ[f"{prefix}_SECRET_ACCESS_KEY"])
        store.write_bytes(f"{bucket}/x", b"1")
        assert store.read_bytes(f"{bucket}/x") == b"1"

    def test_changed_keys_are_used_at_once(self, s3_rclone: Store, monkeypatch):
        bucket = s3_rclone.bucket_uri("rotation")
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            monkeypatch.setenv(f"ROTATED_{name}", os.environ[f"TEST_RCLONE_{name}"])
        rotated = s3_rclone.storage.model_copy(update={"credentials": "env:ROTATED"})
        store.write_bytes(f"{bucket}/x", b"1", rotated)
        monkeypatch.setenv("ROTATED_SECRET_ACCESS_KEY", "no longer valid")
        with pytest.raises(StorageError, match="rejected the credentials"):
            store.write_bytes(f"{bucket}/x", b"2", rotated)


class TestSchemes:
    def test_unknown(self):
        with pytest.raises(SpecError, match="fsspec knows no storage called nowhere://"):
            store.filesystem("nowhere://x/y")

    def test_package_missing(self):
        with pytest.raises(SpecError, match="needs a package that is not installed"):
            store.filesystem("dropbox://x/y")

    def test_no_bucket(self):
        with pytest.raises(SpecError, match="names no bucket"):
            store.filesystem("s3://")

    def test_any_fsspec_storage(self):
        store.write_bytes("memory://schemes/x", b"1")
        assert store.read_bytes("memory://schemes/x") == b"1"
        assert store.list_folder("memory://schemes") == {"x": 1}
        store.remove_tree("memory://schemes/")
        assert not store.exists("memory://schemes/x")

    def test_a_file_system_is_not_shared_over_a_fork(self, s3_moto: Store, monkeypatch):
        here, _ = store.filesystem("s3://b/x", s3_moto.storage)
        assert store.filesystem("s3://b/y", s3_moto.storage)[0] is here
        parent = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: parent + 1)
        assert store.filesystem("s3://b/x", s3_moto.storage)[0] is not here


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (OSError(errno.ENOSPC, "full"), "no space is left"),
            (OSError(errno.EDQUOT, "full"), "no space is left"),
            (OSError(errno.EFBIG, "big"), "beyond the size allowed"),
            (OSError(errno.EROFS, "ro"), "the file system is read-only"),
            (PermissionError(errno.EACCES, "no"), "access was denied"),
            (FileNotFoundError(errno.ENOENT, "no"), "does not exist"),
            (NotADirectoryError(errno.ENOTDIR, "no"), "lies below a file"),
            (IsADirectoryError(errno.EISDIR, "no"), "is a folder"),
            (ConnectionRefusedError(errno.ECONNREFUSED, "no"), "cannot be reached"),
            (TimeoutError("secret"), "broke off"),
            (OSError(errno.EIO, "secret"), "input/output error"),
        ],
    )
    def test_each_is_one_plain_line(self, error, message):
        with pytest.raises(StorageError, match=message) as caught, store.storage_errors("s3://me:secret@b/x?secret"):
            raise error
        assert "secret" not in str(caught.value)
        assert caught.value.hint
        assert "\n" not in caught.value.message
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)

    def test_what_is_not_about_storage_passes(self):
        with pytest.raises(ZeroDivisionError), store.storage_errors("x"):
            raise ZeroDivisionError

    def test_missing_takes_the_kind_asked_for(self):
        with pytest.raises(DataError), store.storage_errors("x", missing=DataError):
            raise FileNotFoundError

    def test_missing_bucket(self, s3: Store):
        with pytest.raises(StorageError, match="the bucket 'no-such-bucket' does not exist"):
            store.write_bytes("s3://no-such-bucket/x", b"", s3.storage)

    def test_no_credentials(self):
        with pytest.raises(StorageError, match="no usable credentials were found"):
            store.read_bytes("s3://b/x", StorageSpec(endpoint_url=refused_endpoint()))
