"""The command line. Results go to stdout, everything else to stderr; heavy libraries are imported by the commands.

Only `refresh` and `demo` know Prefect, and `refresh` does without where it is not installed.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from tabvae_flows.commands import attack, budget, deploy, drift, feed, refresh_all, train
from tabvae_flows.console import notice, print_table, watching
from tabvae_flows.environment import quiet
from tabvae_flows.failures import INTERRUPTED, report_failure
from tabvae_flows.options import (
    Balance,
    Endpoint,
    Force,
    Given,
    Json,
    Member,
    Method,
    Model,
    NoPrefect,
    Out,
    Rows,
    Seconds,
    Seed,
    Settings,
    Shards,
    SpecFile,
    Table,
    as_json_text,
    balance_of,
    example,
    know_blocks,
    pairs_of,
    print_json,
    print_outcomes,
    print_result,
    spec_of_options,
    storage_of,
)

if TYPE_CHECKING:
    from tabvae_core.comparison import Comparison
    from tabvae_core.release import ReleaseInfo

__all__ = ["app", "main"]

app = typer.Typer(
    name="tabvae",
    help="Synthetic copies of production tables: learn, sample, prove, publish.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

latent = typer.Typer(help="Look into the latent space of a model.", no_args_is_help=True)
app.add_typer(latent, name="latent")


def _version(wanted: bool) -> None:
    if wanted:
        from tabvae_core.workspace import code_version

        print(f"tabvae {code_version()}")
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Make synthetic copies of production tables: learn, sample, prove, publish."""


@app.command(epilog=example("tabvae init s3://lake/customers/ -o refresh.yaml", "tabvae init data/customers.parquet"))
def init(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Parquet file or folder: a path or URL.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write; else stdout.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="Folder for releases; else beside SOURCE.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    endpoint_url: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Look at a table and write a commented spec."""
    from tabvae_core.draft import init_spec
    from tabvae_core.errors import SpecError
    from tabvae_core.lake import write_bytes

    if output is not None and output.exists() and not force:
        raise SpecError(f"{output} exists already", hint="choose another file, or --force to replace it")
    with watching() as progress:
        text = init_spec(source, storage_of(endpoint_url), target=target, progress=progress)
    if output is not None:
        write_bytes(str(output), text.encode())
    if as_json:
        print_json({"file": str(output) if output else None, "spec": text})
    elif output is None:
        print(text, end="")
    else:
        print(f"wrote {output}\nnext: tabvae check {output}")


@app.command(epilog=example("tabvae check refresh.yaml", "tabvae check refresh.yaml --set model.epochs=20 --json"))
def check(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="Spec file.")],
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Look ahead: spec, access, schema, time and memory."""
    from tabvae_core.preflight import check as run_check
    from tabvae_core.spec import load_spec

    loaded = load_spec(spec, tuple(settings or ()))
    know_blocks(loaded)
    with watching() as progress:
        report = run_check(loaded, progress=progress)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        print(report.text())
        if report.ok:
            print(f"next: tabvae refresh {spec}")
    if not report.ok:
        raise typer.Exit(report.exit_code)


@app.command(epilog=example("tabvae refresh refresh.yaml", "tabvae refresh refresh.yaml --set model.seed=1 --force"))
def refresh(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="Spec file.")],
    settings: Settings = None,
    backfill: Annotated[
        str | None,
        typer.Option("--backfill", metavar="DATES", help="A release for each date: 2026-01-01..2026-01-07, or a list."),
    ] = None,
    force: Force = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Fail if the target is being refreshed.")] = False,
    no_prefect: NoPrefect = False,
    as_json: Json = False,
) -> None:
    """Run the refresh now.

    Of several refreshes of one target one runs at a time; the others wait. The dates of a backfill stand for {date} in
    the source's address and filters.
    """
    from tabvae_core.spec import load_spec
    from tabvae_flows.backfill import run_backfill
    from tabvae_flows.runner import run_refresh

    loaded = load_spec(spec, tuple(settings or ()))
    know_blocks(loaded)
    options = {"force": force, "wait": not no_wait, "use_prefect": not no_prefect}
    if backfill is not None:
        with watching() as progress:
            outcomes = run_backfill(loaded, backfill, lambda one: run_refresh(one, listener=progress, **options))
        print_outcomes(outcomes, as_json)
        return
    with watching() as progress:
        release = run_refresh(loaded, listener=progress, **options)
    if as_json:
        print_json(release.model_dump(mode="json"))
    elif release.unchanged:
        print(f"unchanged: source and spec are those of version {release.version}; --force publishes anew")
    else:
        print(f"published version {release.version}: {release.rows:,} rows")
        print(f"  table:  {release.uri}\n  report: {release.report_uri}")
        print(f"  next:   tabvae releases {release.target}")


@app.command(
    epilog=example(
        "tabvae synthesize customers.parquet synthetic.parquet --rows 10000 --seed 1",
        "tabvae synthesize s3://lake/customers/ out/ --given segment=premium",
    )
)
def synthesize(
    table: Table,
    out: Out,
    rows: Rows = None,
    method: Method = None,
    seed: Seed = None,
    max_seconds: Seconds = None,
    given: Given = None,
    balance: Balance = None,
    spec: SpecFile = None,
    shards: Shards = None,
    endpoint_url: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Learn a table and write a synthetic one.

    All rows are learned: none is held out, and no gate is passed.
    """
    from tabvae_core.local import synthesize as run_synthesize

    model = {"method": method, "seed": seed, "max_seconds": max_seconds}
    draw = {
        "rows": rows,
        "seed": seed,
        "shards": shards,
        "given": pairs_of(given),
        "balance": balance_of(balance),
    }
    loaded = spec_of_options(table, spec, endpoint_url, model=model, sample=draw)
    with watching() as progress:
        made = run_synthesize(loaded, out, endpoint_url=endpoint_url, progress=progress)
    print_result(made.model_dump(), f"wrote {_size(made.rows, made.columns)}: {out}", as_json)


@app.command(
    epilog=example("tabvae fit customers.parquet model/", "tabvae fit s3://lake/customers/ model/ --max-seconds 60")
)
def fit(
    table: Table,
    model_dir: Annotated[str, typer.Argument(metavar="MODEL_DIR", help="Folder for the model.")],
    method: Method = None,
    seed: Seed = None,
    max_seconds: Seconds = None,
    spec: SpecFile = None,
    endpoint_url: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Learn all rows of a table and keep the model."""
    from tabvae_core.local import fit_table

    model = {"method": method, "seed": seed, "max_seconds": max_seconds}
    loaded = spec_of_options(table, spec, endpoint_url, model=model)
    with watching() as progress:
        made = fit_table(loaded, model_dir, progress=progress)
    text = f"learned {_size(made.rows, made.columns)} in {made.seconds:,.0f} s: {model_dir}"
    print_result(made.model_dump(), text, as_json)


@app.command(
    epilog=example(
        "tabvae sample model/ synthetic.parquet --rows 10000 --seed 1",
        "tabvae sample model/ filled.parquet --given-table partial.parquet",
    )
)
def sample(
    model_dir: Annotated[str, typer.Argument(metavar="MODEL_DIR", help="Folder that `tabvae fit` wrote.")],
    out: Out,
    rows: Annotated[int | None, typer.Option("--rows", metavar="N", min=1, help="Rows to draw.")] = None,
    seed: Seed = None,
    given: Given = None,
    balance: Balance = None,
    given_table: Annotated[
        str | None,
        typer.Option(
            "--given-table",
            metavar="PARTIAL",
            help="Fill a table: its cells are kept, nulls and missing columns drawn.",
        ),
    ] = None,
    spec: SpecFile = None,
    shards: Shards = None,
    endpoint_url: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Draw a synthetic table from a model, or fill the holes of a table.

    Of rows and a given table one is needed: each row of the table is drawn once, in order.
    """
    from tabvae_core.local import sample_model

    draw = {
        "rows": rows,
        "seed": seed,
        "shards": shards,
        "given": pairs_of(given),
        "balance": balance_of(balance),
    }
    loaded = spec_of_options(model_dir, spec, None, sample=draw)
    with watching() as progress:
        made = sample_model(
            model_dir, out, loaded, given_table=given_table, endpoint_url=endpoint_url, progress=progress
        )
    print_result(made.model_dump(), f"wrote {_size(made.rows, made.columns)}: {out}", as_json)


@app.command(
    epilog=example(
        "tabvae evaluate customers.parquet synthetic.parquet --html report.html",
        "tabvae evaluate train.parquet synthetic.parquet --holdout held_out.parquet --json -",
    )
)
def evaluate(
    real: Annotated[str, typer.Argument(metavar="REAL", help="The rows that were learned: a path or URL.")],
    synthetic: Annotated[str, typer.Argument(metavar="SYNTHETIC", help="The synthetic table.")],
    holdout: Annotated[
        str | None,
        typer.Option("--holdout", metavar="H", help="Real rows that were not learned; else REAL is halved."),
    ] = None,
    html: Annotated[str | None, typer.Option("--html", metavar="F", help="Write the report to F.")] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="F", help="Write the figures to F as JSON; - is stdout.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="COLUMN", help="Column to predict when usefulness is measured."),
    ] = None,
    balanced: Annotated[
        str | None,
        typer.Option("--balanced", metavar="COLUMN", help="Its classes were balanced: compare at equal shares."),
    ] = None,
    endpoint_url: Endpoint = None,
) -> None:
    """Measure a synthetic table against real rows.

    Each figure stands beside its floor: what real rows score against real rows.
    """
    from tabvae_core.lake import write_bytes
    from tabvae_core.local import evaluate_tables

    with watching() as progress:
        result = evaluate_tables(
            real, synthetic, holdout=holdout, target_column=target, balanced=balanced, html=html,
            storage=storage_of(endpoint_url), progress=progress,
        )  # fmt: skip
    if json_file == "-":
        print_json(result.model_dump(mode="json"))
        return
    if json_file is not None:
        write_bytes(json_file, (as_json_text(result.model_dump(mode="json")) + "\n").encode())
    print_table([{"figure": n, "value": m.value, "floor": m.floor} for n, m in result.metrics.items()])
    print(result.verdict.sentence)
    if result.privacy is not None:
        print(result.privacy.sentence)
    for place in filter(None, (html, json_file)):
        print(f"wrote {place}")


@latent.command(epilog=example("tabvae latent encode model/ customers.parquet latents.parquet"))
def encode(
    model_dir: Model,
    table: Table,
    out: Out,
    member: Member = 0,
    endpoint_url: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Write where each row lies in the latent space.

    For each row its number, from 0 on, and the mean and spread of each axis; nothing else of the row.
    """
    from tabvae_core.local import encode_table

    with watching() as progress:
        made = encode_table(model_dir, table, out, member=member, endpoint_url=endpoint_url, progress=progress)
    print_result(made.model_dump(), f"wrote {_size(made.rows, made.columns)}: {out}", as_json)


@latent.command(epilog=example("tabvae latent interpolate model/ customers.parquet line.parquet --rows 3,17"))
def interpolate(
    model_dir: Model,
    table: Table,
    out: Out,
    rows: Annotated[str, typer.Option("--rows", metavar="A,B", help="Numbers of the two rows, from 0 on.")],
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=2, max=4096, help="Rows, ends included.")] = 9,
    seed: Seed = None,
    member: Member = 0,
    endpoint_url: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Draw rows on the straight line between two rows.

    All rows are synthetic, those at the ends too.
    """
    from tabvae_core.local import interpolate_rows

    made = interpolate_rows(
        model_dir, table, _row_numbers(rows), out, steps=steps, seed=seed or 0, member=member, endpoint_url=endpoint_url
    )
    print_result(made.model_dump(), f"wrote {_size(made.rows, made.columns)}: {out}", as_json)


@latent.command(
    epilog=example(
        "tabvae latent traverse model/ axes.html",
        "tabvae latent traverse model/ axes.parquet --axis 2 --table customers.parquet",
    )
)
def traverse(
    model_dir: Model,
    out: Annotated[str, typer.Argument(metavar="OUT", help="A .html file for the picture, .parquet for its figures.")],
    axis: Annotated[int | None, typer.Option("--axis", metavar="K", min=0, help="Move this axis alone.")] = None,
    table: Annotated[
        str | None, typer.Option("--table", metavar="TABLE", help="Move points of its rows; else of the prior.")
    ] = None,
    seed: Seed = None,
    member: Member = 0,
    endpoint_url: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Move along each axis and show what the columns do.

    Everything but the axis is held fixed. An effect is how much of a column hangs on the axis, from 0 to 1.
    """
    from tabvae_core.local import traverse_axes

    with watching() as progress:
        made = traverse_axes(
            model_dir, out, table=table, axis=axis, seed=seed or 0, member=member, endpoint_url=endpoint_url,
            progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    for number, moved in made.effects.items():
        print(f"axis {number}: " + ", ".join(f"{name} {effect:.2f}" for name, effect in list(moved.items())[:3]))
    print(f"wrote {out}")


@app.command(
    epilog=example(
        "tabvae compare customers.parquet --html comparison.html",
        "tabvae compare customers.parquet --methods vae,gaussian_copula --max-seconds 120 --target segment --json -",
    )
)
def compare(
    table: Table,
    methods: Annotated[
        str | None, typer.Option("--methods", metavar="A,B", help="Methods to compare; all that are installed.")
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option("--max-seconds", metavar="T", min=0.001, help="Seconds of training, shared alike by all; 900."),
    ] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", metavar="N", min=1, help="Rows that each draws; as many as it learns.")
    ] = None,
    html: Annotated[str | None, typer.Option("--html", metavar="F", help="Write the report to F.")] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="F", help="Write the figures to F as JSON; - is stdout.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="COLUMN", help="Column to predict when usefulness is measured."),
    ] = None,
    seed: Seed = None,
    spec: SpecFile = None,
    endpoint_url: Endpoint = None,
) -> None:
    """Compare methods on one table, and recommend one.

    Each learns the same rows and is measured against the same held-out rows. A method that fails is a row of its own.
    """
    from tabvae_core.lake import write_bytes
    from tabvae_core.local import compare_table

    chosen = None if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    loaded = spec_of_options(
        table, spec, endpoint_url, model={"max_seconds": max_seconds, "seed": seed}, sample={"rows": rows, "seed": seed}
    )
    if target is not None:
        loaded = loaded.model_copy(update={"target_column": target})
    with watching() as progress:
        found = compare_table(loaded, chosen, html=html, storage=storage_of(endpoint_url), progress=progress)
    if json_file == "-":
        print_json(found.model_dump(mode="json"))
    else:
        if json_file is not None:
            write_bytes(json_file, (as_json_text(found.model_dump(mode="json")) + "\n").encode())
        _print_comparison(found)
        for place in filter(None, (html, json_file)):
            print(f"wrote {place}")
    if found.interrupted:
        notice("interrupted: what was measured until then is kept")
        raise SystemExit(INTERRUPTED)


@app.command(
    epilog=example(
        "tabvae augment customers.parquet more.parquet --column churned --value yes",
        "tabvae augment s3://lake/customers/ more/ --column churned --value yes --share 0.3 --html report.html",
    )
)
def augment(
    table: Table,
    out: Out,
    column: Annotated[str, typer.Option("--column", metavar="COLUMN", help="Column of the classes.")],
    value: Annotated[str, typer.Option("--value", metavar="VALUE", help="The rare class.")],
    share: Annotated[
        float,
        typer.Option("--share", metavar="S", min=0.001, max=0.999, help="Share of the class, OUT added to TABLE."),
    ] = 0.5,
    method: Method = None,
    seed: Seed = None,
    max_seconds: Seconds = None,
    html: Annotated[str | None, typer.Option("--html", metavar="F", help="Write a report to F.")] = None,
    spec: SpecFile = None,
    shards: Shards = None,
    endpoint_url: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Draw rows of a rare class, and measure what they gain.

    A fifth of TABLE (gates.holdout) is held out, and the rest learned. OUT gets rows of the class to append to TABLE.
    Classifiers of real rows, with these rows, and with rows by SMOTE are tested on the held-out rows.
    """
    from tabvae_core.augment import augment_table

    model = {"method": method, "seed": seed, "max_seconds": max_seconds}
    loaded = spec_of_options(table, spec, endpoint_url, model=model, sample={"seed": seed, "shards": shards})
    with watching() as progress:
        made = augment_table(
            loaded, out, column=column, value=value, share=share, html=html, endpoint_url=endpoint_url,
            progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    print_table(made.gain.table())
    print(made.gain.sentence)
    for place in filter(None, (out, html)):
        print(f"wrote {place}")


@app.command(
    epilog=example(
        "tabvae simulate model/ scenarios/ --spec scenarios.yaml",
        "tabvae simulate customers.parquet scenarios/ --spec scenarios.yaml --scenario downturn",
    )
)
def simulate(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Folder that `tabvae fit` wrote, or a Parquet table to learn.")
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder for the tables: a path or URL.")],
    spec: Annotated[Path, typer.Option("--spec", metavar="F", help="Spec with `scenarios`; may be partial.")],
    scenario: Annotated[
        list[str] | None, typer.Option("--scenario", metavar="NAME", help="Only this scenario. Repeatable.")
    ] = None,
    rows: Rows = None,
    method: Method = None,
    seed: Seed = None,
    max_seconds: Seconds = None,
    shards: Shards = None,
    endpoint_url: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Draw tables of scenarios, and compare them.

    OUT gets base.parquet, a table for each scenario, and what they change as differences.html and differences.json.
    """
    from tabvae_core.simulate import simulate as run_simulate

    model = {"method": method, "seed": seed, "max_seconds": max_seconds}
    draw = {"rows": rows, "seed": seed, "shards": shards}
    loaded = spec_of_options(source, spec, endpoint_url, model=model, sample=draw)
    with watching() as progress:
        made = run_simulate(
            loaded, source, out, names=tuple(scenario or ()), endpoint_url=endpoint_url, progress=progress
        )
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    print_table([figure.cells() for figure in made.differences.figures])
    print(f"wrote {', '.join(made.files)}: {out}")


@app.command(epilog=example("tabvae releases s3://lake/synthetic/customers"))
def releases(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Folder of the releases: a path or URL.")],
    endpoint_url: Endpoint = None,
    as_json: Json = False,
) -> None:
    """List the published versions.

    Newest first; * marks the current one.
    """
    from tabvae_core import release

    storage = storage_of(endpoint_url)
    found = release.releases(target, storage)
    if as_json:
        current = next((one.version for one in found if one.current), None)
        rows = [one.model_dump(mode="json") for one in found]
        print_json({"target": target, "current": current, "releases": rows})
        return
    if not found:
        notice(f"{target} has no releases")
    print_table([_release_row(one) for one in found])


@app.command(
    epilog=example("tabvae rollback s3://lake/synthetic/customers VERSION", "tabvae releases TARGET   # lists them")
)
def rollback(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Folder of the releases: a path or URL.")],
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A version that `tabvae releases` lists.")],
    endpoint_url: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Make an older version the current one."""
    from tabvae_core import release

    back = release.rollback(target, version, storage_of(endpoint_url))
    print_result(back.model_dump(mode="json"), f"current version is now {back.version}: {back.uri}", as_json)


@app.command(epilog=example("tabvae demo", "tabvae demo --folder demo-output --rows 10000"))
def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where everything is put, and stays.")] = Path("demo-output"),
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=200, help="Customers to generate.")] = 50_000,
    as_json: Json = False,
) -> None:
    """Show the whole loop on made-up customers.

    An object store, a customers table, a refresh through Prefect, the verdict: at most six minutes.
    """
    from tabvae_flows.demo import run_demo

    with watching() as progress:
        result = run_demo(folder, rows=rows, progress=progress)
    if as_json:
        print_json(result.as_dict())
    else:
        print(result.text())


for command in (attack, budget, deploy, drift, feed, refresh_all, train):
    command.register(app)


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    quiet()
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    as_json = _wants_json(arguments)
    try:
        # Outside its standalone mode typer returns the code of a `typer.Exit` in place of raising it.
        code = app(args=arguments, prog_name="tabvae", standalone_mode=False)
        sys.stdout.flush()
    except (typer.Abort, KeyboardInterrupt):
        return report_failure(KeyboardInterrupt(), as_json=as_json)
    except BrokenPipeError:
        # The reader of our output has enough; a second failure while Python flushes stdout would say nothing
        # new.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if hasattr(error, "format_message"):
            return _report_usage(error, as_json)
        return report_failure(error, as_json=as_json)
    if code == INTERRUPTED:
        return report_failure(KeyboardInterrupt(), as_json=as_json)
    return code if isinstance(code, int) else 0


def _terminate(number: int, frame: object) -> NoReturn:
    """End as by an exception, so that temporary folders and servers are cleaned up."""
    raise SystemExit(128 + number)


def _report_usage(error: Any, as_json: bool) -> int:
    from tabvae_core.errors import SpecError

    context = getattr(error, "ctx", None)
    if context is not None and type(error).__name__ == "NoArgsIsHelpError":
        print(context.get_help(), file=sys.stderr)
        return SpecError.exit_code
    command = context.command_path if context is not None else app.info.name
    hint = f"`{command} --help` shows the {'commands' if command == app.info.name else 'options'}"
    return report_failure(SpecError(error.format_message().rstrip("."), hint=hint), as_json=as_json)


def _size(rows: int, columns: int) -> str:
    return f"{rows:,} row{'' if rows == 1 else 's'}, {columns:,} column{'' if columns == 1 else 's'}"


def _wants_json(arguments: list[str]) -> bool:
    if arguments[:1] in (["evaluate"], ["compare"]):
        return "--json=-" in arguments or ("--json", "-") in pairwise(arguments)
    return "--json" in arguments


def _print_comparison(found: Comparison) -> None:
    """One row a method, and the recommendation with its reasons."""
    measured = [result for result in found.results if result.evaluation is not None]
    names = ("c2st", "shape", "trend", "copies", "utility")
    shown = [name for name in names if any(result.metric(name).value is not None for result in measured)]
    floors = {name: measured[0].metric(name).floor for name in shown}
    rows: list[dict[str, Any]] = [{"method": "(floor)", **floors, "learned s": None, "drawn/s": None, "model kB": None}]
    for result in measured:
        rate = round((result.sample_rows or 0) / max(result.sample_seconds or 0.0, 1e-3))
        figures = {name: result.metric(name).value for name in shown}
        cost = {"learned s": result.fit_seconds, "drawn/s": rate, "model kB": (result.model_bytes or 0) // 1000}
        rows.append({"method": result.method, **figures, **cost})
    print_table(rows)
    for result in found.results:
        if result.failed is not None:
            print(f"{result.method}: {result.failed}")
    print(f"recommended: {found.recommendation.method or 'none'}")
    print("\n".join(found.recommendation.reasons))


def _release_row(one: ReleaseInfo) -> dict[str, Any]:
    mark = "*" if one.current else " "
    place = f"{one.uri}   {one.problem}".rstrip()
    return {"": mark, "version": one.version, "published": one.published_at, "rows": one.rows, "table": place}


def _row_numbers(text: str) -> tuple[int, ...]:
    from tabvae_core.errors import SpecError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise SpecError(f"--rows must be two row numbers, however: {text!r}", hint="for example --rows 3,17") from None


if __name__ == "__main__":
    main()
