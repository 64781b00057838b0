"""`tabvae attack`: play the adversary of a synthetic table, whoever made it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tabvae_flows.console import print_table, watching
from tabvae_flows.options import Endpoint, Json, Seed, example, print_json, storage_of

if TYPE_CHECKING:
    from tabvae_core.privacy import Estimate, PrivacyFigures

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    lines = (
        "tabvae attack synthetic.parquet --train train.parquet --holdout held_out.parquet",
        "tabvae attack synthetic.parquet --train train.parquet --holdout held_out.parquet --shadows 16 --json",
    )
    app.command(epilog=example(*lines))(attack)


def attack(
    synthetic: Annotated[str, typer.Argument(metavar="SYNTHETIC", help="The synthetic table: a path or URL.")],
    train: Annotated[str, typer.Option("--train", metavar="TRAIN", help="The rows that were learned.")],
    holdout: Annotated[str, typer.Option("--holdout", metavar="H", help="Real rows that were not learned.")],
    shadows: Annotated[
        int, typer.Option("--shadows", metavar="N", min=0, max=1000, help="Shadow models to train; 0: no such attack.")
    ] = 0,
    method: Annotated[
        str, typer.Option("--method", help="Of shadow models; strongest is the one that made SYNTHETIC.")
    ] = "gaussian_copula",
    seed: Seed = None,
    endpoint_url: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Attack a synthetic table, and say what that gains.

    Every attack is tried on learned rows and on rows that were not. An advantage is the gain on the former beyond the
    latter, with its 95 % interval; docs/privacy.md describes the attacks.
    """
    from tabvae_core.gates import gate_attacks
    from tabvae_core.local import attack_tables
    from tabvae_core.spec import GateSpec

    with watching() as progress:
        found = attack_tables(
            synthetic, train=train, holdout=holdout, shadows=shadows, method=method, seed=seed or 0,
            storage=storage_of(endpoint_url), progress=progress,
        )  # fmt: skip
    verdicts = gate_attacks(found, GateSpec())
    if as_json:
        print_json(found.model_dump(mode="json") | {"gates": [gate.model_dump(mode="json") for gate in verdicts]})
        return
    print_table(_rows(found))
    print(found.sentence)
    for line in (*found.notes, *(gate.detail for gate in verdicts if not gate.passed)):
        print(line)


def _rows(found: PrivacyFigures) -> list[dict[str, Any]]:
    return [
        {
            "attack": result.name,
            "advantage (95 %)": _text(result.advantage),
            "most exposed 1 %": _text(result.exposed),
            "AUC": _text(result.auc),
        }
        for result in found.attacks
    ]


def _text(estimate: Estimate | None) -> str:
    return "-" if estimate is None else estimate.text()
