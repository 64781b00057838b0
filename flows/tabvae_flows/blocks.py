"""Prefect blocks. Servers and workers import this module to register their types: it must stay light."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator

if TYPE_CHECKING:
    from tabvae_core.lake import Credentials, StoreOptions

__all__ = ["TabvaeDatabase", "TabvaeLake", "TabvaeLakeCredentials", "register_resolver"]

# Pictures that Prefect serves for blocks of its own: of file systems, and of SQLAlchemy.
_STORAGE_LOGO = HttpUrl(
    "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9"
    "/assets/block-logos/filesystem.png"
)
_DATABASE_LOGO = HttpUrl(
    "https://cdn.sanity.io/images/3ugk85nk/production/3c7dff04f70aaf4528e184a3b028f9e40b98d68c-250x250.png"
)


class _TabvaeBlock(Block):
    """What the blocks share."""

    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")


class TabvaeLakeCredentials(_TabvaeBlock):
    """Keys of an S3-compatible object store; a spec names the block as `credentials: block:NAME`.

    Example:
        Save a block that specs then name `block:lake`:

        ```python
        from pydantic import SecretStr
        from tabvae_flows.blocks import TabvaeLakeCredentials

        TabvaeLakeCredentials(access_key_id="AK", secret_access_key=SecretStr("...")).save("lake")
        ```

        Look at a saved one; its secrets are not printed:

        ```python
        from tabvae_flows.blocks import TabvaeLakeCredentials

        lake = TabvaeLakeCredentials.load("BLOCK_NAME")
        print(lake)
        ```

    """

    _block_type_name = "tabvae lake credentials"
    _block_type_slug = "tabvae-lake-credentials"
    _logo_url = _STORAGE_LOGO
    _description = "Keys of an S3-compatible object store, for tabvae's sources, targets and workspaces."

    access_key_id: str = Field(description="Access key.")
    secret_access_key: SecretStr = Field(description="Secret of the access key.")
    session_token: SecretStr | None = Field(default=None, description="Token of temporary credentials.")
    endpoint_url: str | None = Field(default=None, description="Endpoint, where the spec names none.")
    region: str | None = Field(default=None, description="Region, where the spec names none.")

    def credentials(self) -> Credentials:
        """Return the keys as the core takes them."""
        from tabvae_core.lake import Credentials

        return Credentials(
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key.get_secret_value(),
            session_token=self.session_token.get_secret_value() if self.session_token else None,
            endpoint_url=self.endpoint_url,
            region=self.region,
        )


class TabvaeLake(_TabvaeBlock):
    """Access to any storage that fsspec opens; a spec names the block as `credentials: block:NAME`.

    Example:
        Save access to an Azure container, in the words of `adlfs`; specs then name it `block:azure`:

        ```python
        from prefect.types import SecretDict
        from tabvae_flows.blocks import TabvaeLake

        TabvaeLake(options={"account_name": "lake"}, secrets=SecretDict({"account_key": "..."})).save("azure")
        ```

        Look at a saved one; its secrets are not printed:

        ```python
        from tabvae_flows.blocks import TabvaeLake

        lake = TabvaeLake.load("BLOCK_NAME")
        print(lake)
        ```

    """

    _block_type_name = "tabvae lake"
    _block_type_slug = "tabvae-lake"
    _logo_url = _STORAGE_LOGO
    _description = "Access to any storage that fsspec opens, for tabvae's sources, targets and workspaces."

    options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the storage's fsspec package that are no secrets."
    )
    secrets: SecretDict = Field(
        default=SecretDict({}), description="Options of the storage's fsspec package that nobody may read here."
    )

    def credentials(self) -> StoreOptions:
        """Return the options as the core takes them."""
        from tabvae_core.lake import StoreOptions

        return StoreOptions({**self.options, **self.secrets.get_secret_value()})


class TabvaeDatabase(_TabvaeBlock):
    """A database that releases are loaded into: `tabvae feed TARGET --into block:NAME`.

    Example:
        Save a test database that is then named `block:test-env`:

        ```python
        from pydantic import SecretStr
        from tabvae_flows.blocks import TabvaeDatabase

        TabvaeDatabase(address="postgresql://loader@db.test:5432/app", password=SecretStr("...")).save("test-env")
        ```

        Use a saved one:

        ```python
        from tabvae_flows.blocks import TabvaeDatabase

        database = TabvaeDatabase.load("BLOCK_NAME")
        url = database.url()
        ```

    """

    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name = "tabvae database"
    _block_type_slug = "tabvae-database"
    _logo_url = _DATABASE_LOGO
    _description = "A database that tabvae loads released tables into."

    address: str = Field(
        description="SQLAlchemy URL without its password.",
        examples=["postgresql://loader@db.test:5432/app", "sqlite:////data/app.db"],
    )
    password: SecretStr | None = Field(default=None, description="Password of the user that the address names.")

    @field_validator("address")
    @classmethod
    def _without_password(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        if not scheme or not separator:
            raise ValueError("must be a SQLAlchemy URL, such as postgresql://loader@db.test:5432/app")
        if ":" in rest.partition("/")[0].rpartition("@")[0]:
            raise ValueError("must not hold a password: it has a field of its own, which nobody may read")
        return value

    def url(self) -> str:
        """Return the URL with the password in it, escaped; it is for the driver and never for a message.

        Raises:
            SpecError: There is a password, and the address names no user.

        """
        if self.password is None:
            return self.address
        scheme, _, rest = self.address.partition("://")
        user, at, place = rest.partition("@")
        if not at or "/" in user:
            from tabvae_core.errors import SpecError

            raise SpecError(
                f"the tabvae-database block has a password, however its address names no user: {self.address}",
                hint="write the address as postgresql://USER@HOST:PORT/DATABASE",
            )
        return f"{scheme}://{user}:{quote(self.password.get_secret_value(), safe='')}@{place}"


def register_resolver() -> None:
    """Let `credentials: block:NAME` of a spec be read from blocks in this process."""
    from tabvae_core.lake import register_credentials

    register_credentials("block", _from_block)


def _from_block(name: str) -> Credentials | StoreOptions:
    """Find a block of either kind; where both bear the name, the keys of an S3 store are meant."""
    from tabvae_core.errors import SpecError

    for kind in (TabvaeLakeCredentials, TabvaeLake):
        try:
            block = kind.load(name)
        except ValueError:
            continue
        if isinstance(block, TabvaeLakeCredentials | TabvaeLake):
            return block.credentials()
    raise SpecError(
        f"storage.credentials is block:{name}, however Prefect has no such tabvae-lake-credentials block",
        hint="create it, or a tabvae-lake block, in Prefect's UI, or with TabvaeLakeCredentials(...).save",
    )
