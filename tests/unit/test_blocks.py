"""The blocks: Prefect's own standard of a block, and what each gives to the core."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from fsspec import register_implementation
from fsspec.implementations.local import LocalFileSystem
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from prefect.types import SecretDict
from pydantic import SecretStr, ValidationError

from s3_servers import Store
from tabvae_core import storage
from tabvae_core.errors import SpecError
from tabvae_core.spec import StorageSpec
from tabvae_flows.blocks import TabvaeDatabase, TabvaeLake, TabvaeLakeCredentials

BLOCKS = (TabvaeLakeCredentials, TabvaeLake, TabvaeDatabase)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
class TestEveryBlock(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        """Named by the parameter above."""
        block: type[Block] = request.param
        return block

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """The picture is fetched; without a network there is nothing to look at."""
        try:
            super().test_has_a_valid_image(block)
        except URLError:
            pytest.skip("the picture is on the network, which cannot be reached")


def test_every_block_is_registered_by_its_module() -> None:
    from prefect.utilities.dispatch import get_registry_for_type

    registered = get_registry_for_type(Block) or {}
    assert {block.get_block_type_slug() for block in BLOCKS} <= {
        kind.get_block_type_slug() for kind in registered.values() if kind.__module__ == "tabvae_flows.blocks"
    }


class Vault(LocalFileSystem):
    """A storage that opens with a password only, as those of clouds do."""

    protocol = "vault"

    def __init__(self, *, account: str, password: str, **options: Any) -> None:
        assert (account, password) == ("me", "hush")
        super().__init__(**options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("vault://")))


def test_any_storage_opens_with_the_options_of_a_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_implementation("vault", Vault, clobber=True)
    lake = TabvaeLake(options={"account": "me"}, secrets=SecretDict({"password": "hush"}))
    assert "hush" not in repr(lake)
    assert "hush" not in repr(lake.credentials())
    monkeypatch.setattr(storage, "_RESOLVERS", {"block": lambda name: lake.credentials()})
    uri = f"vault://{tmp_path}/x"
    storage.write_bytes(uri, b"1", StorageSpec(credentials="block:lake"))
    assert (tmp_path / "x").read_bytes() == b"1"
    with pytest.raises(SpecError, match="password"):
        storage.write_bytes(uri, b"1", StorageSpec())


def test_a_lake_opens_an_s3_store_as_well(s3_rclone: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = s3_rclone.storage.credentials.removeprefix("env:")
    keys = {"key": os.environ[f"{prefix}_ACCESS_KEY_ID"], "endpoint_url": s3_rclone.storage.endpoint_url}
    secret = SecretDict({"secret": os.environ[f"{prefix}_SECRET_ACCESS_KEY"]})
    lakes = {"lake": TabvaeLake(options=keys, secrets=secret), "odd": TabvaeLake(options={"account_name": "lake"})}
    monkeypatch.setattr(storage, "_RESOLVERS", {"block": lambda name: lakes[name].credentials()})
    uri = f"{s3_rclone.bucket_uri('blocks')}/x"
    storage.write_bytes(uri, b"1", StorageSpec(credentials="block:lake"))
    assert storage.read_bytes(uri, s3_rclone.storage) == b"1"
    with pytest.raises(SpecError, match="block:odd, whose options are account_name"):
        storage.read_bytes(uri, StorageSpec(credentials="block:odd"))


@pytest.mark.parametrize(
    ("address", "password", "url"),
    [
        ("sqlite:////data/app.db", None, "sqlite:////data/app.db"),
        ("postgresql://loader@db:5432/app", "p@ss/:w", "postgresql://loader:p%40ss%2F%3Aw@db:5432/app"),
        (
            "postgresql+psycopg://loader@db/app?sslmode=require",
            "x",
            "postgresql+psycopg://loader:x@db/app?sslmode=require",
        ),
    ],
)
def test_a_database_gives_its_url(address: str, password: str | None, url: str) -> None:
    block = TabvaeDatabase(address=address, password=SecretStr(password) if password else None)
    assert block.url() == url
    assert not password or password not in repr(block)


@pytest.mark.parametrize("address", ["postgresql://loader:hush@db/app", "db/app"])
def test_an_address_holds_no_password(address: str) -> None:
    with pytest.raises(ValidationError, match="must") as caught:
        TabvaeDatabase(address=address)
    assert "hush" not in str(caught.value)


def test_a_password_needs_a_user() -> None:
    with pytest.raises(SpecError, match="names no user"):
        TabvaeDatabase(address="postgresql://db/app", password=SecretStr("hush")).url()
