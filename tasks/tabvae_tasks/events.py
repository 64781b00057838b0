"""Events that other flows wait for: a release was published or refused, a source drifted. See docs/events.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event

from tabvae_core.errors import GateRefused
from tabvae_core.lake import join_uri, safe_uri
from tabvae_core.references import ReleaseRef
from tabvae_core.spec import RefreshSpec
from tabvae_tasks.assets import asset_key

__all__ = ["DRIFTED", "PUBLISHED", "REFUSED", "emit_drifted", "emit_published", "emit_refused"]

PUBLISHED = "tabvae.release.published"
REFUSED = "tabvae.release.refused"
DRIFTED = "tabvae.source.drifted"


def emit_published(spec: RefreshSpec, release: ReleaseRef, figures: Mapping[str, Any]) -> None:
    """Say that readers of the target get another version.

    Args:
        spec: The refresh.
        release: What was published.
        figures: The evaluation's figures, each {"value": v, "floor": f}.

    """
    emit_event(
        event=PUBLISHED,
        resource=_resource(spec.target.uri, spec),
        payload={
            "table": spec.name,
            "version": release.version,
            "uri": release.uri,
            "target": release.target,
            "rows": release.rows,
            "report": release.report_uri,
            "published_at": release.published_at,
            "figures": dict(figures),
        },
    )


def emit_refused(spec: RefreshSpec, refusal: GateRefused, figures: Mapping[str, Any]) -> None:
    """Say that a table did not pass and readers keep the version they have.

    Args:
        spec: The refresh.
        refusal: Which gates refused, and where the table is kept.
        figures: The evaluation's figures, each {"value": v, "floor": f}.

    """
    emit_event(
        event=REFUSED,
        resource=_resource(spec.target.uri, spec),
        payload={
            "table": spec.name,
            "uri": refusal.quarantine,
            "target": spec.target.uri,
            "failures": list(refusal.failures),
            "message": refusal.message,
            "report": join_uri(refusal.quarantine, "report.html"),
            "figures": dict(figures),
        },
    )


def emit_drifted(spec: RefreshSpec, *, drift: float, threshold: float, columns: Mapping[str, float]) -> None:
    """Say that the source is no longer distributed as the model learned it.

    Args:
        spec: The refresh.
        drift: The largest distance of a column.
        threshold: What the spec tolerates.
        columns: Distance by column, those beyond the threshold.

    """
    emit_event(
        event=DRIFTED,
        resource=_resource(spec.source.uri, spec),
        related=[{**_resource(spec.target.uri, spec), "prefect.resource.role": "target"}],
        payload={
            "table": spec.name,
            "uri": safe_uri(spec.source.uri),
            "target": spec.target.uri,
            "drift": drift,
            "threshold": threshold,
            "columns": dict(columns),
        },
    )


def _resource(uri: str, spec: RefreshSpec) -> dict[str, str]:
    return {"prefect.resource.id": asset_key(uri), "prefect.resource.name": spec.name}
