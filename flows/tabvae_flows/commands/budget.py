"""`tabvae budget`: what the trainings on a source have spent of its privacy budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tabvae_flows.console import notice, print_table
from tabvae_flows.options import Endpoint, Json, example, know_blocks, print_json, storage_of

if TYPE_CHECKING:
    from tabvae_core.privacy.ledger import Ledger
    from tabvae_core.spec import PrivacySpec

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    lines = "tabvae budget refresh.yaml", "tabvae budget s3://lake/synthetic/customers --json"
    app.command(epilog=example(*lines))(budget)


def budget(
    place: Annotated[
        str, typer.Argument(metavar="SPEC_OR_TARGET", help="Spec file, or folder of the releases or of the ledger.")
    ],
    endpoint_url: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Show the privacy ledger of a source, and check that nobody changed it."""
    from tabvae_core.privacy.ledger import total, total_delta

    ledger, privacy = _ledger(place, endpoint_url)
    entries = ledger.entries()
    delta = total_delta(entries, privacy)
    rows: list[dict[str, Any]] = [
        {**entry.model_dump(mode="json", exclude={"loss", "previous"}), "total": total(entries[:number], delta)}
        for number, entry in enumerate(entries, start=1)
    ]
    limit = privacy.total_epsilon if privacy is not None else None
    spent = total(entries, delta)
    if as_json:
        print_json({"ledger": ledger.uri, "epsilon": spent, "delta": delta, "total_epsilon": limit, "entries": rows})
        return
    if not entries:
        notice(f"{ledger.uri}: no private training is recorded")
    shown = ("number", "at", "event", "run_id", "method", "epsilon", "delta", "total")
    print_table([{key: row[key] for key in shown} | {"delta": f"{row['delta']:g}"} for row in rows])
    print(f"spent: epsilon {spent:.4g} at delta {delta:g}" + (f", of {limit:g}" if limit is not None else ""))


def _ledger(place: str, endpoint_url: str | None) -> tuple[Ledger, PrivacySpec | None]:
    from tabvae_core.privacy.ledger import Ledger
    from tabvae_core.spec import load_spec

    if not place.lower().endswith((".yaml", ".yml")):
        return Ledger(place, storage_of(endpoint_url)), None
    spec = load_spec(place)
    know_blocks(spec)
    return Ledger.of(spec), spec.privacy
