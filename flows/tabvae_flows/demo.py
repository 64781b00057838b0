"""`tabvae demo`: the whole loop on one machine, with a real object store and a real orchestrator."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabvae_core.errors import SpecError
from tabvae_core.progress import Progress, ProgressEvent, silent

if TYPE_CHECKING:
    from tabvae_core.references import ReleaseRef
    from tabvae_core.spec import RefreshSpec
    from tabvae_flows.object_store import RcloneServer

__all__ = ["DemoResult", "run_demo"]

_BUCKET = "lake"
_PREFIX = "TABVAE_DEMO"
_FILES = 8
_TRAINING_SECONDS = 150.0
"""Leaves room for start-up, sampling, gates and report within six minutes on two cores."""


@dataclass(frozen=True)
class DemoResult:
    """Where everything is, and what the gates said."""

    folder: str
    """Holds store/, workspace/ and refresh.yaml."""
    table: str
    """The published table in the store."""
    table_path: str
    """The same as files on this disk."""
    report_path: str
    real_path: str
    """The generated customers on this disk."""
    spec_path: str
    version: str
    rows: int
    unchanged: bool
    figures: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)

    def text(self) -> str:
        """Lines for a terminal: where everything is, the verdict, what to try next."""
        state = "unchanged" if self.unchanged else "accepted and published"
        lines = [
            "",
            f"{state}: version {self.version}, {self.rows:,} synthetic customers",
            "",
            f"  {'figure':<16}{'value':>10}{'floor':>10}{'limit':>10}  verdict",
            *(_figure_line(figure) for figure in self.figures),
            "  floor: the same figure for real rows against real rows",
            "",
            f"  table      {self.table}",
            f"  on disk    {self.table_path}",
            f"  report     {self.report_path}",
            f"  real rows  {self.real_path}",
            f"  spec       {self.spec_path}",
            "",
            "try next (the store has stopped, its files stay):",
            *(f"  {command}" for command in self.next_commands()),
        ]
        return "\n".join(lines)

    def next_commands(self) -> list[str]:
        """Commands that work after the demo has ended."""
        real, table, folder = (
            shlex.quote(self.real_path),
            shlex.quote(self.table_path),
            shlex.quote(self.folder),
        )
        target = shlex.quote(str(Path(self.table_path).parent.parent))
        return [
            f"xdg-open {shlex.quote(self.report_path)}   # or open it in any browser",
            f"tabvae evaluate {real} {table} --html {folder}/again.html",
            f"tabvae releases {target}",
            f"tabvae synthesize {real} {folder}/premium.parquet --rows 1000 --given segment=premium --max-seconds 60",
            f"tabvae init {real} -o {folder}/my-refresh.yaml",
        ]


def run_demo(folder: Path, *, rows: int = 50_000, progress: Progress = silent) -> DemoResult:
    """Generate customers, put them into an object store, refresh them through Prefect.

    Args:
        folder: Where everything is put; a second run in the same folder goes on from there.
        rows: Customers to generate.
        progress: Told of every step.

    Raises:
        SpecError: Prefect or rclone is not installed.
        TabvaeError: The refresh failed.

    """
    from tabvae_flows.runner import prefect_installed, run_refresh

    if not prefect_installed():
        raise SpecError("the demo runs through Prefect, which is not installed", hint='pip install "tabvae[demo]"')
    place = folder.absolute()
    (place / "store").mkdir(parents=True, exist_ok=True)
    with _store(place / "store") as server:
        spec = _spec(place, server)
        _upload_customers(spec, rows, progress)
        (place / "refresh.yaml").write_text(_HEADER + spec.to_yaml(), encoding="utf-8")
        release = run_refresh(spec, listener=progress)
        figures = _figures(spec, release)
    return _result(place, spec, release, figures)


_HEADER = "# The demo's refresh. Its store runs only while the demo does.\n"


@contextmanager
def _store(folder: Path) -> Iterator[RcloneServer]:
    """Serve a folder as an object store on loopback, its keys in this process's environment while it runs."""
    from tabvae_flows.object_store import RcloneServer

    with RcloneServer(folder) as server:
        server.bucket(_BUCKET)
        keys = server.environment(_PREFIX)
        os.environ.update(keys)
        try:
            yield server
        finally:
            for name in keys:
                os.environ.pop(name, None)


def _spec(place: Path, server: RcloneServer) -> RefreshSpec:
    from tabvae_core.spec import parse_spec
    from tabvae_flows.customers import RULES

    storage = server.storage(_PREFIX).model_dump()
    return parse_spec(
        {
            "name": "customers",
            "source": {"uri": f"s3://{_BUCKET}/customers", "storage": storage},
            "target": {"uri": f"s3://{_BUCKET}/synthetic/customers", "storage": storage},
            "workspace": {"uri": str(place / "workspace")},
            "rules": list(RULES),
            "target_column": "segment",
            "model": {"max_seconds": _TRAINING_SECONDS},
        }
    )


def _upload_customers(spec: RefreshSpec, rows: int, progress: Progress) -> None:
    """Write the customers as eight Parquet files, unless the same ones already stand there."""
    from tabvae_core.lake import ParquetSink, list_folder
    from tabvae_flows.customers import customers

    per_file = -(-rows // _FILES)
    table = customers(rows)
    source = spec.source
    stands = list_folder(source.uri, source.storage)
    if stands and _rows_of(spec) == rows:
        progress(ProgressEvent("upload", _FILES, _FILES, "files", "the customers are there already"))
        return
    progress(ProgressEvent("upload", 0, _FILES, "files", f"{rows:,} customers to {source.uri}"))
    with ParquetSink(source.uri, table.schema, source.storage, rows_per_file=per_file) as sink:
        sink.write(table)
    progress(ProgressEvent("upload", len(sink.files), len(sink.files), "files", f"{rows:,} customers to {source.uri}"))


def _rows_of(spec: RefreshSpec) -> int:
    from tabvae_core.lake import ParquetSource

    return ParquetSource(spec.source.uri, spec.source.storage).num_rows


def _figures(spec: RefreshSpec, release: ReleaseRef) -> list[dict[str, Any]]:
    from tabvae_core.references import EvaluationRef
    from tabvae_core.workspace import Run
    from tabvae_tasks.artifacts import quality_rows

    evaluation = Run(spec, release.run_id).record("evaluate", EvaluationRef)
    return quality_rows(evaluation) if evaluation is not None else []


def _result(place: Path, spec: RefreshSpec, release: ReleaseRef, figures: list[dict[str, Any]]) -> DemoResult:
    def on_disk(uri: str) -> str:
        return uri.replace("s3://", f"{place}/store/") if uri.startswith("s3://") else uri

    return DemoResult(
        folder=str(place),
        table=release.uri,
        table_path=on_disk(release.uri),
        report_path=on_disk(release.report_uri),
        real_path=on_disk(spec.source.uri),
        spec_path=str(place / "refresh.yaml"),
        version=release.version,
        rows=release.rows,
        unchanged=release.unchanged,
        figures=figures,
    )


def _figure_line(figure: dict[str, Any]) -> str:
    cells = [f"{figure[name]:.3f}" if isinstance(figure[name], float) else "-" for name in ("value", "floor", "limit")]
    return f"  {figure['figure']:<16}" + "".join(f"{cell:>10}" for cell in cells) + f"  {figure['verdict']}"
