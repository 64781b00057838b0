"""Work on single tables without workspace or release: `synthesize`, `fit`, `sample`, `evaluate`, `compare`, `latent`.

There is no gate to pass. All rows are learned and none is held out, but by `compare`. An output is made beside its
place and moved there whole, so a failure leaves what stood before.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from tabvae_core import lake as store
from tabvae_core.errors import DataError, SpecError
from tabvae_core.progress import Progress, silent
from tabvae_core.spec import (
    ColumnOverride,
    PrivacySpec,
    RefreshSpec,
    StorageSpec,
    WorkspaceSpec,
    parse_spec,
    read_mapping,
)
from tabvae_core.tables import RowSplit, TableSource, collect
from tabvae_core.workspace import local_path

if TYPE_CHECKING:
    from tabvae_core.comparison import Comparison
    from tabvae_core.evaluation import Evaluation
    from tabvae_core.lake import ParquetSink, ParquetSource
    from tabvae_core.latent import LatentSpace
    from tabvae_core.privacy import PrivacyFigures
    from tabvae_core.schema import TableSchema
    from tabvae_core.synthesizers.base import Synthesizer

__all__ = [
    "FitSummary",
    "SampleSummary",
    "TraversalSummary",
    "attack_tables",
    "check_apart",
    "check_out",
    "checked_source",
    "compare_table",
    "encode_table",
    "evaluate_tables",
    "fit_table",
    "fitted",
    "interpolate_rows",
    "partial_spec",
    "report_page",
    "sample_model",
    "save_model",
    "synthesize",
    "traverse_axes",
]

_log = logging.getLogger(__name__)

_BUNDLE_SUFFIXES = (".safetensors", ".json", ".md")


class FitSummary(BaseModel):
    """What was learned."""

    model_config = ConfigDict(frozen=True)

    model: str
    method: str
    rows: int
    columns: int
    seconds: float


class SampleSummary(BaseModel):
    """What was drawn."""

    model_config = ConfigDict(frozen=True)

    out: str
    rows: int
    columns: int
    files: tuple[str, ...]


class TraversalSummary(BaseModel):
    """What the axes of a latent space do."""

    model_config = ConfigDict(frozen=True)

    out: str
    member: int
    members: int
    effects: dict[int, dict[str, float]]
    """Effect of each axis on each column, in [0, 1]; what is moved most comes first."""


def partial_spec(
    table: str, data: Mapping[str, Any], *, where: str = "spec", endpoint_url: str | None = None
) -> RefreshSpec:
    """Complete a spec that may lack source and target, for work on one table.

    Args:
        table: URI of the table; it takes the place of the spec's own source.
        data: The spec as a mapping: columns, rules, model, sample, privacy, ...
        where: Name of the spec in errors.
        endpoint_url: Endpoint of the object store.

    Raises:
        SpecError: The mapping does not describe a refresh.

    """
    source = {**(data.get("source") or {}), "uri": table}
    if endpoint_url is not None:
        source["storage"] = {**(source.get("storage") or {}), "endpoint_url": endpoint_url}
    # The target is not used, yet a spec has one; this place is neither in nor around any table.
    return parse_spec({**data, "source": source, "target": {"uri": "memory://tabvae"}}, where=where)


def read_partial(file: Path) -> dict[str, Any]:
    """Read a spec file that may lack source and target, as a mapping.

    Raises:
        SpecError: The file is missing or holds no mapping.

    """
    data = read_mapping(file)
    unknown = sorted(set(data) - set(RefreshSpec.model_fields))
    if unknown:
        raise SpecError(f"spec {file}: {unknown[0]} is not a known key", hint=", ".join(RefreshSpec.model_fields))
    return data


def fit_table(spec: RefreshSpec, folder: str, *, progress: Progress = silent) -> FitSummary:
    """Learn a table and write the model bundle.

    Args:
        spec: Source, columns, model, privacy.
        folder: Local folder of the bundle; an older bundle there is replaced.
        progress: Told of every epoch.

    Raises:
        DataError: The table cannot be learned.
        SpecError: The folder holds other files.

    """
    place = _local_folder(folder)
    _check_model_folder(str(place))
    with _beside(str(place)) as staged:
        synthesizer = fitted(spec, progress, staged / "checkpoint", folder)
        save_model(synthesizer, staged / "bundle", folder)
        _replace_folder(staged / "bundle", place)
    return FitSummary(
        model=folder,
        method=spec.model.method,
        rows=synthesizer.schema.rows,
        columns=len(synthesizer.schema.names),
        seconds=float(synthesizer.record.get("seconds", 0.0)),
    )


def synthesize(
    spec: RefreshSpec, out: str, *, endpoint_url: str | None = None, progress: Progress = silent
) -> SampleSummary:
    """Learn a table and write a synthetic one, in one go.

    Args:
        spec: Source, columns, rules, model, sample, privacy.
        out: `.parquet` file or folder.
        endpoint_url: Endpoint of the object store of `out`.
        progress: Told of every epoch and block.

    Raises:
        DataError: The table cannot be learned.
        ImpossibleRule: Too few drawn rows satisfy a rule.
        SpecError: The output would overwrite foreign files, or its own source.

    """
    from tabvae_core.source_rows import open_source

    check_out(out, open_source(spec).schema, spec.source.uri, endpoint_url)
    with tempfile.TemporaryDirectory(prefix="tabvae-") as folder:
        synthesizer = fitted(spec, progress, Path(folder) / "checkpoint", tempfile.gettempdir())
        save_model(synthesizer, Path(folder) / "bundle", tempfile.gettempdir())
        rows = spec.sample.rows or synthesizer.schema.rows
        return _draw(Path(folder) / "bundle", out, spec, rows, endpoint_url, progress, learned=open_source(spec))


def sample_model(
    folder: str,
    out: str,
    spec: RefreshSpec,
    *,
    given_table: str | None = None,
    endpoint_url: str | None = None,
    progress: Progress = silent,
) -> SampleSummary:
    """Draw a table from a model bundle.

    Args:
        folder: Local folder of the bundle.
        out: `.parquet` file or folder.
        spec: Rows, seed, shards, given values, rules; its source is not used.
        given_table: URI of a table with some of the model's columns. One row is drawn for each of its rows, in
            order: its cells are kept, its nulls are filled.
        endpoint_url: Endpoint of the object store of `out` and `given_table`.
        progress: Told of every block.

    Raises:
        DataError: The given table is missing or empty, or holds cells that cannot become what the columns hold.
        ModelFileError: There is no bundle, or it is damaged.
        ImpossibleRule: Too few drawn rows satisfy a rule.
        SpecError: The number of rows is missing, or what is given does not fit it or the model.

    """
    rows, given = spec.sample.rows, None
    if given_table is not None:
        from tabvae_core.lake import ParquetSource

        if spec.sample.given or spec.sample.balance is not None:
            what = "given values" if spec.sample.given else "balanced classes"
            raise SpecError(
                f"a given table and {what} exclude each other", hint="make the value a column of the given table"
            )
        check_apart(out, given_table)
        given = ParquetSource(given_table, storage=StorageSpec(endpoint_url=endpoint_url))
        rows = given.num_rows if rows is None else rows
    if rows is None:
        raise SpecError("the number of rows is missing", hint="--rows N, or --given-table PARTIAL")
    return _draw(_local_folder(folder), out, spec, rows, endpoint_url, progress, given)


def evaluate_tables(
    real: str,
    synthetic: str,
    *,
    holdout: str | None = None,
    target_column: str | None = None,
    balanced: str | None = None,
    html: str | None = None,
    storage: StorageSpec | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Measure a synthetic table against real rows.

    Args:
        real: The rows that were learned.
        synthetic: The synthetic table.
        holdout: Real rows that were not learned: the table is then attacked as well. Without them `real` is halved,
            and one half takes their place.
        target_column: Column to predict when usefulness is measured.
        balanced: Column whose classes the synthetic table holds in chosen numbers: rows are compared at equal shares.
        html: Where to write the report.
        storage: Access to the tables.
        progress: Told of every part.

    Raises:
        DataError: A table is missing or empty, or the columns differ.
        SpecError: There is no column of the name `balanced`.

    """
    from tabvae_core.evaluation import evaluate, render_report
    from tabvae_core.lake import ParquetSource
    from tabvae_core.privacy import attack

    source, drawn = ParquetSource(real, storage=storage), ParquetSource(synthetic, storage=storage)
    train: TableSource
    kept: TableSource
    if holdout is None:
        _log.info(
            "no held-out rows: one random half of %s is compared, the other is its floor",
            store.safe_uri(real),
        )
        train, kept = (RowSplit(source, part, holdout=0.5, seed=0) for part in ("train", "holdout"))
    else:
        train, kept = source, ParquetSource(holdout, storage=storage)
    _check_same_columns(source.schema, drawn.schema, synthetic)
    _check_same_columns(source.schema, kept.schema, holdout or real)
    if balanced is not None and balanced not in drawn.schema.names:
        raise SpecError(f"there is no column {balanced!r} to balance", hint=f"columns: {', '.join(drawn.schema.names)}")
    schema, tables = _compared(source, (kept, drawn, train), drawn, progress)
    evaluation = evaluate(
        tables[0], tables[1], schema, train=tables[2], target_column=target_column, balanced=balanced,
        progress=progress,
    )  # fmt: skip
    if holdout is not None:
        found = attack(tables[2], tables[0], tables[1], schema, progress=progress)
        evaluation = evaluation.model_copy(update={"privacy": found})
    if html is not None:
        with report_page(html, storage) as page:
            render_report(
                evaluation, tables[0], tables[1], schema, title=Path(synthetic).name or synthetic,
                subtitle=f"measured against {store.safe_uri(holdout or real)}", path=page,
            )  # fmt: skip
    return evaluation


def attack_tables(
    synthetic: str,
    *,
    train: str,
    holdout: str,
    shadows: int = 0,
    method: str = "gaussian_copula",
    seed: int = 0,
    storage: StorageSpec | None = None,
    progress: Progress = silent,
) -> PrivacyFigures:
    """Attack a synthetic table, whoever made it.

    Args:
        synthetic: The synthetic table.
        train: The rows that were learned.
        holdout: Real rows that were not.
        shadows: Models that the attacker trains to learn what membership does; 0 tries no such attack.
        method: What these models are; the attack is strongest with the method that made the table.
        seed: Of every random choice.
        storage: Access to the tables.
        progress: Told of every attack.

    Raises:
        DataError: A table is missing, the columns differ, or the rows are too few for shadow models.
        SpecError: There is no such method.

    """
    from tabvae_core.lake import ParquetSource
    from tabvae_core.privacy import attack, drawn_by, shadow_attack

    learned, held, drawn = (ParquetSource(uri, storage=storage) for uri in (train, holdout, synthetic))
    _check_same_columns(learned.schema, drawn.schema, synthetic)
    _check_same_columns(learned.schema, held.schema, holdout)
    schema, (ours, others, table) = _compared(learned, (learned, held, drawn), drawn, progress)
    draw = drawn_by(method, schema) if shadows else None
    found = attack(ours, others, table, schema, seed=seed, progress=progress)
    if draw is not None:
        shadowed = shadow_attack(
            ours, others, table, schema, draw=draw, method=method, shadows=shadows, seed=seed, progress=progress
        )
        found = found.model_copy(update={"attacks": (*found.attacks, shadowed)})
    return found


def _compared(
    source: ParquetSource, tables: Sequence[TableSource], synthetic: ParquetSource, progress: Progress
) -> tuple[TableSchema, list[pa.Table]]:
    """The columns that the synthetic table has, and as many rows of all tables as are measured at most."""
    from tabvae_core.inference import infer_schema
    from tabvae_core.source_rows import measured_rows

    left_out = [name for name in source.schema.names if name not in synthetic.schema.names]
    schema = infer_schema(
        source,
        overrides={name: ColumnOverride(unlearnable="drop") for name in left_out},
        privacy=PrivacySpec(min_category_rows=1, protect_extremes=1),
        progress=progress,
    )
    most = measured_rows(len(source.schema))
    return schema, [collect(table, max_rows=most) for table in tables]


def encode_table(
    folder: str,
    table: str,
    out: str,
    *,
    member: int = 0,
    endpoint_url: str | None = None,
    progress: Progress = silent,
) -> SampleSummary:
    """Write the latents of a table's rows: row numbers, means and spreads, nothing else of the rows.

    Args:
        folder: Local folder of a model.
        table: URI of a table with the model's columns.
        out: `.parquet` file or folder.
        member: Network of the ensemble.
        endpoint_url: Endpoint of the object store of `table` and `out`.
        progress: Told of every batch.

    Raises:
        DataError: The table is missing or lacks columns, or has cells that do not fit their types.
        ModelFileError: There is no bundle, or it is damaged.
        SpecError: The method has no latent space, or the model no such member; the output would overwrite the table.

    """
    from tabvae_core.lake import ParquetSink
    from tabvae_core.latent import encode_rows, encoded_schema

    space, source = _space_and_table(folder, table, out, member, endpoint_url)
    with ParquetSink(out, encoded_schema(space), source.storage) as sink:
        for latents in encode_rows(space, source, progress=progress):
            sink.write(latents)
        source.verify()
    return _summary(out, sink)


def interpolate_rows(
    folder: str,
    table: str,
    rows: Sequence[int],
    out: str,
    *,
    steps: int = 9,
    seed: int = 0,
    member: int = 0,
    endpoint_url: str | None = None,
) -> SampleSummary:
    """Write made-up rows on the line between the latents of two rows; see `latent.interpolate`.

    Raises:
        DataError: The table is missing or lacks columns, or has cells that do not fit their types.
        ModelFileError: There is no bundle, or it is damaged.
        SpecError: There are no such rows; the method has no latent space, or the model no such member; the output
            would overwrite the table.

    """
    from tabvae_core.lake import ParquetSink
    from tabvae_core.latent import interpolate

    space, source = _space_and_table(folder, table, out, member, endpoint_url)
    with ParquetSink(out, space.schema.arrow, source.storage) as sink:
        sink.write(interpolate(space, source, rows, steps=steps, seed=seed))
        source.verify()
    return _summary(out, sink)


def traverse_axes(
    folder: str,
    out: str,
    *,
    table: str | None = None,
    axis: int | None = None,
    seed: int = 0,
    member: int = 0,
    endpoint_url: str | None = None,
    progress: Progress = silent,
) -> TraversalSummary:
    """Draw what each axis of a latent space does, or write the figures; see `latent.traverse`.

    Args:
        folder: Local folder of a model.
        out: A `.html` file for the picture, a `.parquet` file for its figures.
        table: URI of a table whose rows' points are moved; None: points drawn from the prior.
        axis: The only axis to move; None: all.
        seed: Of the points and of what they leave open.
        member: Network of the ensemble.
        endpoint_url: Endpoint of the object store of `table` and `out`.
        progress: Told of every axis.

    Raises:
        DataError: The table is missing or lacks columns, or has cells that do not fit their types.
        ModelFileError: There is no bundle, or it is damaged.
        SpecError: `out` is neither; there is no such axis; the method has no latent space, or the model no such member.

    """
    from tabvae_core.evaluation.traversal import render_traversal
    from tabvae_core.lake import ParquetSink
    from tabvae_core.latent import latent_space, traverse

    if not out.lower().endswith((".html", ".parquet")):
        raise SpecError(f"a traversal is a .html or a .parquet file, however: {store.safe_uri(out)}", hint="name one")
    storage = StorageSpec(endpoint_url=endpoint_url)
    if table is None:
        space, source = latent_space(_local_folder(folder), member), None
    else:
        space, source = _space_and_table(folder, table, out, member, endpoint_url)
    found = traverse(space, table=source, axis=axis, seed=seed, progress=progress)
    if source is not None:
        source.verify()
    if out.lower().endswith(".parquet"):
        figures = found.table()
        with ParquetSink(out, figures.schema, storage) as sink:
            sink.write(figures)
    else:
        with tempfile.TemporaryDirectory(prefix="tabvae-") as aside:
            page = Path(aside) / "traversal.html"
            render_traversal(
                found, title=Path(folder).resolve().name, path=page,
                subtitle=f"member {member} of {space.members}, {space.dimensions} dimensions; points "
                + ("drawn from the prior" if table is None else f"of rows of {store.safe_uri(table)}"),
            )  # fmt: skip
            store.copy_file(str(page), out, target_storage=storage)
    effects = {one.axis: {column.name: round(column.effect, 4) for column in one.columns} for one in found.axes}
    return TraversalSummary(out=out, member=member, members=space.members, effects=effects)


def _space_and_table(
    folder: str, table: str, out: str, member: int, endpoint_url: str | None
) -> tuple[LatentSpace, ParquetSource]:
    from tabvae_core.lake import ParquetSource
    from tabvae_core.latent import latent_space

    check_apart(out, table)
    space = latent_space(_local_folder(folder), member)
    return space, ParquetSource(table, storage=StorageSpec(endpoint_url=endpoint_url))


def _summary(out: str, sink: ParquetSink) -> SampleSummary:
    files = tuple(record.path for record in sink.files)
    return SampleSummary(out=out, rows=sink.rows, columns=len(sink.schema.names), files=files)


COMPARISON_SECONDS = 900.0
"""Training of all methods together, unless the spec says otherwise: six are compared in twenty minutes."""


def compare_table(
    spec: RefreshSpec,
    methods: Sequence[str] | None = None,
    *,
    html: str | None = None,
    storage: StorageSpec | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Compare methods on one table; see `comparison.compare`.

    Args:
        spec: Source, columns, rules, model, sample, privacy. Where it names a workspace, models and samples stay there,
            and a comparison that was interrupted goes on; else they are removed in the end.
        methods: Their names; all that are installed where left out.
        html: Where to write the report.
        storage: Access to the place of the report.
        progress: Told what each method does.

    Raises:
        DataError: The table is missing, malformed or too small, or no method can learn it.
        SpecError: There is no such method, or the spec does not fit the table.
        StorageError: The report or the workspace cannot be written.

    """
    from tabvae_core.comparison import compare

    if html is not None:
        _check_file(html, storage)
    if spec.model.max_seconds is None:
        spec = spec.model_copy(update={"model": spec.model.model_copy(update={"max_seconds": COMPARISON_SECONDS})})
    if "name" not in spec.model_fields_set:
        spec = spec.model_copy(update={"name": _name_of(spec.source.uri)})
    with tempfile.TemporaryDirectory(prefix="tabvae-") as folder:
        if "workspace" not in spec.model_fields_set:
            spec = spec.model_copy(update={"workspace": WorkspaceSpec(uri=folder)})
        found = compare(spec, methods, progress=progress)
        if html is not None:
            access = {"source_storage": spec.workspace.storage, "target_storage": storage}
            store.copy_file(found.report_uri, html, **access)
    return found


def _name_of(uri: str) -> str:
    """Name a table by its file or folder, with the letters that names may have."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(uri.rstrip("/")).stem)
    return re.sub(r"^[^A-Za-z0-9]+", "", stem)[:80] or "table"


def _check_file(place: str, storage: StorageSpec | None) -> None:
    """Find out before minutes of work that a file cannot be written."""
    if store.is_local(place) and os.path.isdir(store.filesystem(place)[1]):
        raise SpecError(f"{place} is a folder", hint="name the file to write")
    store.check_writable(os.path.dirname(place) or ".", storage)


@contextmanager
def report_page(uri: str, storage: StorageSpec | None) -> Iterator[Path]:
    """Lend a file that is copied to its place when the block ends without an exception."""
    with tempfile.TemporaryDirectory(prefix="tabvae-") as folder:
        page = Path(folder) / "report.html"
        yield page
        store.copy_file(str(page), uri, target_storage=storage)


def _local_folder(folder: str) -> Path:
    place = local_path(folder)
    if place is None:
        raise SpecError(f"a model folder lies on a local disk, however: {store.safe_uri(folder)}", hint="name a path")
    return place


def checked_source(spec: RefreshSpec, *, split: bool) -> ParquetSource:
    """Open a source of which the spec names existing columns, and of which there are enough rows."""
    from tabvae_core.checks import check_columns, check_names, check_size
    from tabvae_core.source_rows import open_source

    source = open_source(spec)
    check_columns(spec, source.schema)
    check_names(spec, source.schema)
    check_size(spec, source, split=split)
    return source


def fitted(spec: RefreshSpec, progress: Progress, checkpoint: Path, place: str) -> Synthesizer:
    """Learn a whole table; `place` names the disk of the checkpoint in errors."""
    from tabvae_core.steps import learn

    source = checked_source(spec, split=False)
    with store.storage_errors(place):
        synthesizer = learn(spec, source, checkpoint=checkpoint, progress=progress)
    source.verify()
    return synthesizer


def save_model(synthesizer: Synthesizer, bundle: Path, place: str) -> None:
    """Write a bundle; `place` names its disk in errors."""
    with store.storage_errors(place):
        synthesizer.save(bundle)


def _draw(
    bundle: Path,
    out: str,
    spec: RefreshSpec,
    rows: int,
    endpoint_url: str | None,
    progress: Progress,
    given: ParquetSource | None = None,
    learned: ParquetSource | None = None,
) -> SampleSummary:
    from tabvae_core.lake import ParquetSink
    from tabvae_core.steps import draw
    from tabvae_core.synthesizers.registry import load_bundle

    schema = load_bundle(bundle).schema
    storage = StorageSpec(endpoint_url=endpoint_url)
    with ParquetSink(out, schema.arrow, storage, rows_per_file=spec.sample.rows_per_file) as sink:
        draw(spec, schema, sink, bundle, rows, given=given, learned=learned, progress=progress)
        if given is not None:
            given.verify()
    return _summary(out, sink)


class _NothingWritten(Exception):
    """Leaves a sink without a trace."""


def check_out(out: str, schema: pa.Schema, source: str | None, endpoint_url: str | None) -> None:
    """Find out before a training of minutes what would make its output fail: a foreign folder, a read-only disk."""
    from tabvae_core.lake import ParquetSink

    if source is not None:
        check_apart(out, source)
    with suppress(_NothingWritten), ParquetSink(out, schema, StorageSpec(endpoint_url=endpoint_url)):
        raise _NothingWritten


def check_apart(out: str, source: str) -> None:
    """Refuse an output that would overwrite what it is made of."""
    if store.is_local(out) and store.is_local(source):
        place, origin = (os.path.realpath(store.filesystem(uri)[1]) for uri in (out, source))
        if place == origin or _inside(place, origin) or _inside(origin, place):
            raise SpecError(f"the output {out} lies in the table {source}, or holds it", hint="write beside the table")


def _inside(place: str, folder: str) -> bool:
    return place.startswith(folder.rstrip("/") + "/")


def _check_model_folder(place: str) -> None:
    """Refuse a folder that holds anything but an older model."""
    if os.path.isfile(place):
        raise SpecError(f"{place} is a file, a model is a folder", hint="name a new folder")
    foreign = (
        [name for name in os.listdir(place) if not name.endswith(_BUNDLE_SUFFIXES)] if os.path.isdir(place) else []
    )
    if foreign:
        raise SpecError(
            f"folder {place} holds files that are no part of a model, such as {min(foreign)}",
            hint="name an empty or new folder",
        )


@contextmanager
def _beside(place: str) -> Iterator[Path]:
    """Lend a hidden folder beside a place, on its own disk, removed in the end."""
    parent = os.path.dirname(place)
    with store.storage_errors(place):
        os.makedirs(parent, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=f".{os.path.basename(place)}.", dir=parent)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace_folder(new: Path, place: Path) -> None:
    """Move a folder to a place; one that stands there is moved away first and comes back if that fails."""
    old = new.parent / "old"
    stood = place.exists()
    with store.storage_errors(str(place)):
        if stood:
            os.replace(place, old)
        try:
            os.replace(new, place)
        except BaseException:
            if stood:
                os.replace(old, place)
            raise


def _check_same_columns(real: pa.Schema, other: pa.Schema, uri: str) -> None:
    unknown = [name for name in other.names if name not in real.names]
    if unknown or not set(other.names) & set(real.names):
        raise DataError(
            f"{store.safe_uri(uri)} has other columns than the real table: {', '.join(unknown) or 'all'}",
            hint="compare tables of the same columns",
        )
