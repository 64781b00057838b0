"""Fixtures that all tests share."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from databases import PostgreSQL, postgresql_binaries, postgresql_server
from s3_servers import Store, moto_store, rclone_store
from tabvae_core.spec import StorageSpec

# Read when torch is first loaded. Models of tests are tiny: a second thread costs more than it brings, and threads that
# spin while they wait starve the servers beside them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let CI say where pictures of the browser are kept."""
    parser.addoption("--screenshots", metavar="DIR", help="Keep what the browser saw here.")


@contextmanager
def isolated_credentials(nothing: Path) -> Iterator[None]:
    """Keep the developer's own keys, profiles and endpoints out; `nothing` is a path where no file stands."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in kept:
        del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = str(nothing)
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    yield
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(kept)


@pytest.fixture(scope="session", autouse=True)
def _no_ambient_credentials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with isolated_credentials(tmp_path_factory.mktemp("aws") / "none"):
        yield


@pytest.fixture(scope="session")
def s3_moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store that honours conditional writes."""
    with moto_store(tmp_path_factory.mktemp("moto") / "log.txt") as store:
        yield store


@pytest.fixture(scope="session")
def s3_rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store that ignores conditional writes."""
    with rclone_store(tmp_path_factory.mktemp("rclone")) as store:
        yield store


@pytest.fixture(params=["moto", "rclone"])
def s3(request: pytest.FixtureRequest) -> Store:
    """Each kind of store in turn."""
    store: Store = request.getfixturevalue(f"s3_{request.param}")
    return store


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server."""
    binaries = postgresql_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: no initdb on the path, nor below /usr/lib/postgresql")
    with postgresql_server(binaries) as server:
        yield server


@dataclass(frozen=True)
class Place:
    """An empty folder somewhere, and how it is reached."""

    uri: str
    storage: StorageSpec
    conditional: bool


@pytest.fixture(params=["file", "moto", "rclone"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty folder on a disk and in each kind of store."""
    if request.param == "file":
        return Place(str(tmp_path / "place"), StorageSpec(), conditional=True)
    store: Store = request.getfixturevalue(f"s3_{request.param}")
    return Place(f"{store.bucket_uri('places')}/{uuid.uuid4().hex}", store.storage, store.conditional)
