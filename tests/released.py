"""Releases for tests: tables published without a model behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from tabvae_core import release
from tabvae_core.lake import ParquetSink
from tabvae_core.references import TableRef
from tabvae_core.schema import schema_fingerprint
from tabvae_core.spec import TargetSpec

__all__ = ["put", "refuse"]


def put(table: pa.Table, target: TargetSpec, version: str, work: Path, **spec: Any) -> None:
    """Publish a table as a version; `spec` are keys of the manifest's refresh spec."""
    release.publish(
        _staged(table, work / version), target=target, manifest_fields=_fields(target, spec), version=version
    )


def refuse(table: pa.Table, target: TargetSpec, version: str, work: Path) -> None:
    """Put a table into quarantine."""
    fields = _fields(target, {})
    release.quarantine(_staged(table, work / version), target=target, manifest_fields=fields, version=version)


def _fields(target: TargetSpec, spec: dict[str, Any]) -> dict[str, Any]:
    whole = {"name": "people", "target": target.model_dump(mode="json"), **spec}
    return {"spec": whole, "source_fingerprint": "f" * 64}


def _staged(table: pa.Table, folder: Path) -> TableRef:
    with ParquetSink(str(folder), table.schema, rows_per_file=max(1, table.num_rows // 3)) as sink:
        sink.write(table)
    fingerprint = schema_fingerprint(table.schema)
    return TableRef(
        run_id=folder.name, uri=str(folder), files=sink.files, rows=sink.rows, schema_fingerprint=fingerprint
    )
