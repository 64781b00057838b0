"""What the commands share: options that look alike everywhere, specs read from them, results printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tabvae_core.outcomes import Outcome
    from tabvae_core.spec import RefreshSpec, StorageSpec

__all__ = [
    "Balance",
    "Endpoint",
    "Force",
    "Given",
    "Json",
    "Member",
    "Method",
    "Model",
    "NoPrefect",
    "Out",
    "Rows",
    "Seconds",
    "Seed",
    "Settings",
    "Shards",
    "SpecFile",
    "Table",
    "as_json_text",
    "balance_of",
    "example",
    "know_blocks",
    "pairs_of",
    "print_json",
    "print_outcomes",
    "print_result",
    "spec_of_options",
    "storage_of",
]

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for machines.")]
Endpoint = Annotated[
    str | None,
    typer.Option("--endpoint-url", metavar="URL", help="S3-compatible store; else AWS_ENDPOINT_URL, else AWS."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the spec, such as model.epochs=20. Repeatable."),
]
Force = Annotated[bool, typer.Option("--force", help="Publish a new version of an unchanged source.")]
NoPrefect = Annotated[bool, typer.Option("--no-prefect", help="Run the steps without Prefect.")]
Given = Annotated[
    list[str] | None,
    typer.Option("--given", metavar="COLUMN=VALUE", help="Fix a column's value in every row. Repeatable."),
]
Balance = Annotated[
    list[str] | None,
    typer.Option("--balance", metavar="COLUMN:VALUE=SHARE", help="Share, or rows, of a class. Repeatable."),
]
SpecFile = Annotated[
    Path | None,
    typer.Option("--spec", metavar="F", help="Spec for columns, rules, model, sample, privacy; may be partial."),
]
Rows = Annotated[int | None, typer.Option("--rows", metavar="N", min=1, help="Rows to draw; as many as TABLE has.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="S", min=0, max=2**31 - 1, help="Same seed, same bytes.")]
Method = Annotated[str | None, typer.Option("--method", help="Synthesizer: vae (default), gaussian_copula, ctgan, ...")]
Seconds = Annotated[
    float | None, typer.Option("--max-seconds", metavar="T", min=0.001, help="Stop training after T seconds.")
]
Shards = Annotated[
    int | None,
    typer.Option("--shards", metavar="K", min=1, max=1024, help="Parallel samplers; same bytes for any K."),
]
Table = Annotated[str, typer.Argument(metavar="TABLE", help="Parquet file or folder: a path or URL.")]
Out = Annotated[str, typer.Argument(metavar="OUT", help="A .parquet file or a folder: a path or URL.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Folder that `tabvae fit` wrote.")]
Member = Annotated[
    int,
    typer.Option("--member", metavar="M", min=0, help="Network of the ensemble: each has a latent space of its own."),
]


def example(*lines: str) -> str:
    """Lay lines out as the example below a command's help."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def storage_of(endpoint_url: str | None) -> StorageSpec:
    """Access to storage, as `--endpoint-url` says."""
    from tabvae_core.spec import StorageSpec

    return StorageSpec(endpoint_url=endpoint_url)


def pairs_of(given: list[str] | None) -> dict[str, str] | None:
    """Read `--given` options into values by column."""
    from tabvae_core.given import split_pairs

    return split_pairs(tuple(given)) if given else None


def balance_of(options: list[str] | None) -> dict[str, Any] | None:
    """Read `--balance` options into the keys of `sample.balance`."""
    from tabvae_core.balance import split_balance

    return split_balance(options) if options else None


def spec_of_options(table: str, file: Path | None, endpoint_url: str | None, **parts: dict[str, Any]) -> RefreshSpec:
    """Read a spec that may be partial, and lay the options that were given over it."""
    from tabvae_core.local import partial_spec, read_partial

    data: dict[str, Any] = read_partial(file) if file is not None else {}
    for part, options in parts.items():
        chosen = {key: value for key, value in options.items() if value is not None}
        if chosen:
            data[part] = {**(data.get(part) or {}), **chosen}
    return partial_spec(table, data, where=f"spec {file}" if file else "options", endpoint_url=endpoint_url)


def know_blocks(spec: RefreshSpec) -> None:
    """Let credentials come from Prefect blocks, where the spec names one and Prefect is installed."""
    parts = (spec.source.storage, spec.target.storage, spec.workspace.storage)
    if any(storage.credentials.startswith("block:") for storage in parts):
        from tabvae_flows.runner import prefect_installed

        if prefect_installed():
            from tabvae_flows.blocks import register_resolver

            register_resolver()


def as_json_text(value: Any) -> str:
    """Write a value as JSON on one line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def print_json(value: Any) -> None:
    """Print a value as JSON on one line."""
    print(as_json_text(value))


def print_result(value: Any, text: str, as_json: bool) -> None:
    """Print a value as JSON, or the text that says it."""
    print(as_json_text(value) if as_json else text)


def print_outcomes(outcomes: Sequence[Outcome], as_json: bool) -> None:
    """Print one row a refresh and what they came to; end with the exit code of the worst."""
    from tabvae_core.outcomes import summary, worst_exit_code
    from tabvae_flows.console import print_table

    code = worst_exit_code(outcomes)
    if as_json:
        print_json({"outcomes": [one.model_dump(mode="json") for one in outcomes], "exit_code": code})
    else:
        print_table([one.row for one in outcomes])
        print(summary(outcomes))
    if code:
        raise typer.Exit(code)
