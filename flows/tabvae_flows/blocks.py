"""Prefect blocks. Servers and workers import this module to register their types: it must stay light."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

if TYPE_CHECKING:
    from tabvae_core.lake import Credentials

__all__ = ["TabvaeLakeCredentials", "register_resolver"]


class TabvaeLakeCredentials(Block):
    """Keys of an S3-compatible object store; a spec names the block as `credentials: block:NAME`.

    Example:
        Save a block that specs then name `block:lake`:

        ```python
        from pydantic import SecretStr
        from tabvae_flows.blocks import TabvaeLakeCredentials

        TabvaeLakeCredentials(access_key_id="AK", secret_access_key=SecretStr("...")).save("lake")
        ```

    """

    _block_type_name = "tabvae lake credentials"
    _block_type_slug = "tabvae-lake-credentials"
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


def register_resolver() -> None:
    """Let `credentials: block:NAME` of a spec be read from blocks in this process."""
    from tabvae_core.lake import register_credentials

    register_credentials("block", _from_block)


def _from_block(name: str) -> Credentials:
    from tabvae_core.errors import SpecError

    try:
        block = cast("TabvaeLakeCredentials", TabvaeLakeCredentials.load(name))
    except ValueError:
        raise SpecError(
            f"storage.credentials is block:{name}, however Prefect has no such tabvae-lake-credentials block",
            hint="create it in Prefect's UI, or with TabvaeLakeCredentials(...).save",
        ) from None
    return block.credentials()
