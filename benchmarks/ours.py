"""Learn a table with a method of tabvae, write a sample, print seconds and peak memory as one line of JSON.

    python benchmarks/ours.py vae train.parquet out.parquet --rows 1000 --threads 2 --max-seconds 10

Options are the defaults, and rows are drawn as `tabvae sample` draws them: one shard a thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from worker import Fit, Learned, Task, installed, run

from tabvae_core.inference import infer_schema
from tabvae_core.lake import ParquetSink, ParquetSource
from tabvae_core.sampling import sample_to
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.registry import create, methods
from tabvae_core.workspace import code_version


def prepare(task: Task) -> Fit:
    torch.set_num_threads(task.threads)
    source = ParquetSource(str(task.train))
    privacy = PrivacySpec(epsilon=task.epsilon, delta=task.delta)
    model = create(task.method, ModelSpec(method=task.method, max_seconds=task.max_seconds), privacy)

    def fit() -> Learned:
        model.fit(source, infer_schema(source, privacy=privacy))
        return Learned(write, _rows_seen(model.record))

    def write(rows: int, out: Path) -> None:
        with ParquetSink(str(out), model.schema.arrow) as sink:
            sample_to(sink, model, rows, seed=0, shards=task.threads)

    return fit


def _rows_seen(record: Mapping[str, Any]) -> int | None:
    """Rows of all steps; where the record does not count steps, those of all epochs."""
    if "steps" in record and "batch_size" in record:
        return int(record["steps"]) * int(record["batch_size"])
    if "rows" in record and "epochs" in record:
        return (int(record["rows"]) - int(record.get("validation_rows", 0))) * int(record["epochs"])
    return None


def versions(method: str) -> dict[str, str]:
    return {"tabvae": code_version(), **installed("torch")}


if __name__ == "__main__":
    run(dict.fromkeys(methods(), prepare), versions, __doc__ or "")
