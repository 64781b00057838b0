"""Assets of Prefect: what a run makes out of what. The source, its snapshot, the model and the release form a chain.

An asset's key is where it stands, so that assets of other flows and tools link to ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from prefect.assets import Asset, AssetProperties
from prefect.context import AssetContext

from tabvae_core.lake import filesystem, is_local, join_uri, safe_uri
from tabvae_core.spec import RefreshSpec

__all__ = ["asset_key", "making", "model_asset", "release_asset", "snapshot_asset", "source_asset", "tell"]

_LONGEST_KEY = 512
_REFUSED = "\n\r\t\0 #?&%\"'<>[]{}|\\^`"
"""Characters that Prefect refuses in a key."""


def asset_key(uri: str) -> str:
    """Name a place as Prefect's assets are named: a URI without secrets and with none of the characters it refuses."""
    place = f"file://{filesystem(uri)[1]}" if is_local(uri) else safe_uri(uri)
    scheme, _, path = place.partition("://")
    key = f"{scheme.lower()}://{''.join('_' if c in _REFUSED else c for c in path)}".rstrip("/")
    if len(key) <= _LONGEST_KEY:
        return key
    return key[: _LONGEST_KEY - 17] + "-" + hashlib.sha256(key.encode()).hexdigest()[:16]


def source_asset(spec: RefreshSpec) -> Asset:
    """The real table, which others make."""
    return _asset(spec.source.uri, f"{spec.name}: source", "The real table.")


def snapshot_asset(spec: RefreshSpec) -> Asset:
    """The source as a run pinned it."""
    place = join_uri(spec.workspace.uri, "snapshots", spec.name)
    return _asset(place, f"{spec.name}: snapshot", "The source as the last run pinned it.")


def model_asset(spec: RefreshSpec) -> Asset:
    """The model of the table, whichever run learned it last."""
    return _asset(join_uri(spec.workspace.uri, "models", spec.name), f"{spec.name}: model", "The synthesizer.")


def release_asset(spec: RefreshSpec) -> Asset:
    """The synthetic table, whichever version is current."""
    return _asset(spec.target.uri, f"{spec.name}: release", "The synthetic table that readers get.")


def making(made: Asset, *, of: Asset) -> None:
    """Say what the running task makes, and of what; Prefect tells how it ended. Nothing outside a task."""
    if (context := AssetContext.get()) is not None:
        context.downstream_assets.add(made)
        context.direct_asset_dependencies.add(of)
        context.materialized_by = "tabvae"
        context.update_tracked_assets()


def tell(made: Asset, figures: Mapping[str, Any]) -> None:
    """Add what is known of an asset that the running task has made."""
    if (context := AssetContext.get()) is not None:
        context.add_asset_metadata(made.key, dict(figures))


def _asset(uri: str, name: str, description: str) -> Asset:
    return Asset(key=asset_key(uri), properties=AssetProperties(name=name, description=description))
