"""`simulate`: tables of scenarios beside a base without changes, and what they change."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tabvae_core import lake as store
from tabvae_core.checks import check_conditions, check_settings
from tabvae_core.conditions import check_classes, class_columns
from tabvae_core.errors import SpecError
from tabvae_core.evaluation import Differences, differences, render_differences
from tabvae_core.lake import ParquetSink, ParquetSource
from tabvae_core.local import check_apart, fitted, save_model
from tabvae_core.progress import Progress, silent
from tabvae_core.scenarios import draw_scenario, find_scenarios
from tabvae_core.source_rows import measured_rows
from tabvae_core.spec import RefreshSpec, StorageSpec
from tabvae_core.steps import codecs_of, draw
from tabvae_core.synthesizers import registry
from tabvae_core.tables import collect
from tabvae_core.workspace import local_path

__all__ = ["SimulateSummary", "simulate"]


class SimulateSummary(BaseModel):
    """Tables of scenarios, and how they differ from the base."""

    model_config = ConfigDict(frozen=True)

    out: str
    rows: int
    files: tuple[str, ...]
    differences: Differences


def simulate(
    spec: RefreshSpec,
    source: str,
    out: str,
    *,
    names: Sequence[str] = (),
    endpoint_url: str | None = None,
    progress: Progress = silent,
) -> SimulateSummary:
    """Draw the tables of scenarios beside a base without changes, and compare them.

    Args:
        spec: Scenarios, rules, rows, seed; columns, model and privacy where a table is learned first. Given values and
            balance of `sample` are not used.
        source: Local folder of a model, or URI of a table to learn.
        out: Folder for base.parquet, a .parquet of each scenario, differences.json and differences.html.
        names: Scenarios; all, where left out.
        endpoint_url: Endpoint of the object store of `out`.
        progress: Told of every epoch and block.

    Raises:
        DataError: The table cannot be learned.
        ImpossibleRule: Changed cells break a rule, or too few drawn rows satisfy one.
        ModelFileError: The model is damaged.
        SpecError: There is no such scenario, it does not fit the table, or the method cannot condition.

    """
    sample = spec.sample.model_copy(update={"given": {}, "balance": None})
    spec = spec.model_copy(update={"scenarios": find_scenarios(spec, names), "sample": sample})
    storage = StorageSpec(endpoint_url=endpoint_url)
    _check_folder(out, source, storage)
    with tempfile.TemporaryDirectory(prefix="tabvae-") as folder:
        made = Path(folder) / "out"
        made.mkdir()
        found = _draw_all(spec, _bundle(spec, source, Path(folder), progress), made, progress)
        (made / "differences.json").write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
        title = f"Scenarios of {Path(source).name or source}"
        render_differences(found, title=title, path=made / "differences.html")
        files = [place.name for place in sorted(made.iterdir())]
        for name in files:
            store.copy_file(str(made / name), store.join_uri(out, name), target_storage=storage)
    return SimulateSummary(out=out, rows=found.rows, files=tuple(files), differences=found)


def _bundle(spec: RefreshSpec, source: str, folder: Path, progress: Progress) -> Path:
    """Find the model's folder; where the source is a table, learn it into one."""
    place = local_path(source)
    if place is not None and (place / "bundle.json").is_file():
        return place
    check_conditions(registry.find(spec.model.method), "scenarios")
    synthesizer = fitted(spec, progress, folder / "checkpoint", tempfile.gettempdir())
    save_model(synthesizer, folder / "bundle", tempfile.gettempdir())
    return folder / "bundle"


def _draw_all(spec: RefreshSpec, bundle: Path, made: Path, progress: Progress) -> Differences:
    """Draw base and scenarios into a local folder, and compare them."""
    model = registry.load_bundle(bundle)
    check_conditions(type(model), "scenarios")
    schema, rows = model.schema, spec.sample.rows or model.schema.rows
    check_settings(spec, schema)
    table = codecs_of(bundle)
    codecs = {name: table.codec_of(name) for name in class_columns(spec, schema)}
    check_classes(spec, codecs, schema, rows)
    with ParquetSink(str(made / "base.parquet"), schema.arrow) as sink:
        draw(spec, schema, sink, bundle, rows, progress=progress)
    base, beyond = ParquetSource(str(made / "base.parquet")), {}
    for name in spec.scenarios:
        with ParquetSink(str(made / f"{name}.parquet"), schema.arrow) as sink:
            beyond[name] = draw_scenario(spec, name, bundle, base, schema, codecs, sink, progress=progress)
    most = measured_rows(len(schema.names))
    tables = {
        name: collect(ParquetSource(str(made / f"{name}.parquet")), max_rows=most) for name in ("base", *spec.scenarios)
    }
    return differences(tables.pop("base"), tables, schema, rows=rows, beyond=beyond)


def _check_folder(out: str, source: str, storage: StorageSpec) -> None:
    """Find out before a training of minutes that files cannot be put into a folder."""
    check_apart(out, source)
    place = local_path(out)
    if place is not None and place.is_file():
        raise SpecError(f"{out} is a file, scenarios are written to a folder", hint="name a folder")
    store.check_writable(out, storage)
