"""Measure how true synthetic tables are: methods side by side on tables of a folder, every figure beside its floor.

    python benchmarks/fidelity.py [--data FOLDER [TABLE ...]] [--methods vae,vae_basic] [--out docs/benchmarks.md]

Without a folder, the table is 20,000 of the demo's customers. For each TABLE.parquet in FOLDER (all when none
is named; at most --limit rows): two random halves, a method learns the first with default options, and the figures of
`tabvae evaluate` compare its sample with the second half. The floor is the first half in the place of the sample.
Results are kept in a JSON file beside the page after every table, so an interrupted run goes on where it stopped;
delete the file to measure anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tabvae_core.evaluation import evaluate
from tabvae_core.inference import infer_schema
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.registry import create
from tabvae_core.tables import as_source
from tabvae_flows.customers import customers

FIGURES = ("shape", "trend", "jsd", "c2st", "copies", "utility")


def halves(folder: Path | None, name: str, limit: int) -> tuple[pa.Table, pa.Table]:
    table = customers(20_000) if folder is None else pq.read_table(folder / f"{name}.parquet")
    order = np.random.default_rng(0).permutation(len(table))[:limit]
    half = len(order) // 2
    return table.take(order[:half]), table.take(order[half : 2 * half])


def measure(train: pa.Table, holdout: pa.Table, method: str, target: str | None) -> dict[str, Any]:
    schema = infer_schema(as_source(train))
    started = time.perf_counter()
    model = create(method, ModelSpec(method=method), PrivacySpec()).fit(train, schema)
    fitted = time.perf_counter()
    synthetic = model.sample(train.num_rows, seed=0)
    drawn = time.perf_counter()
    evaluation = evaluate(holdout, synthetic, schema, train=train, target_column=target)
    figures = {name: {"value": metric.value, "floor": metric.floor} for name, metric in evaluation.metrics.items()}
    return {
        "rows": train.num_rows,
        "columns": train.num_columns,
        "fit_seconds": round(fitted - started, 1),
        "sample_rows_per_second": round(train.num_rows / (drawn - fitted)),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "figures": figures,
    }


def page(results: dict[str, dict[str, Any]], command: str) -> str:
    lines = [
        "# Benchmarks",
        "",
        f"Made by `{command}`. Machine: {os.cpu_count()} cores, {platform.machine()}; Python "
        f"{platform.python_version()}, torch {metadata.version('torch')}. Times on a shared machine vary by half.",
        "",
        "A model learns one random half of a table with default options and is compared with the other half. A figure "
        "is `value / floor`; the floor is real rows against real rows. c2st: AUC of boosted trees told to separate "
        "synthetic from real rows, 0.5 is perfect. Shape, trend and copies are percentages.",
        "",
        "| table | method | rows × columns | " + " | ".join(FIGURES) + " | fit s | sample rows/s |",
        "|---|---|---|" + "---|" * (len(FIGURES) + 2),
    ]
    for key in sorted(results):
        table, method = key.split(":")
        result = results[key]
        cells = [_cell(result["figures"].get(name)) for name in FIGURES]
        lines.append(
            f"| {table} | {method} | {result['rows']:,} × {result['columns']} | "
            + " | ".join(cells)
            + f" | {result['fit_seconds']:.0f} | {result['sample_rows_per_second']:,} |"
        )
    return "\n".join(lines) + "\n"


def _cell(figure: dict[str, float | None] | None) -> str:
    if figure is None or figure["value"] is None:
        return ""
    floor = "" if figure["floor"] is None else f" / {figure['floor']:.3f}"
    return f"{figure['value']:.3f}{floor}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*")
    parser.add_argument("--data", type=Path, help="folder of Parquet files; left out: made-up customers")
    parser.add_argument("--methods", default="vae,vae_basic")
    parser.add_argument("--targets", default="", help="columns to predict: table=column,table=column")
    parser.add_argument("--limit", type=int, default=60_000)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"))
    arguments = parser.parse_args()
    targets = dict(pair.split("=", 1) for pair in arguments.targets.split(",") if pair)
    kept = arguments.out.with_suffix(".json")
    results: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    names = ["customers"]
    if arguments.data is not None:
        names = arguments.tables or sorted(path.stem for path in arguments.data.glob("*.parquet"))
    for name in names:
        for method in arguments.methods.split(","):
            if f"{name}:{method}" not in results:
                train, holdout = halves(arguments.data, name, arguments.limit)
                results[f"{name}:{method}"] = measure(train, holdout, method, targets.get(name))
                kept.write_text(json.dumps(results, indent=1))
                print(name, method, json.dumps(results[f"{name}:{method}"]), flush=True)
    where = "" if arguments.data is None else f" --data FOLDER {' '.join(names)}"
    command = f"python benchmarks/fidelity.py{where} --methods {arguments.methods}"
    arguments.out.write_text(page(results, command))


if __name__ == "__main__":
    main()
