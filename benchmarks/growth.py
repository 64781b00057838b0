"""Measure how seconds and memory of `tabvae fit` grow with rows, columns and categories.

    python benchmarks/growth.py
    python benchmarks/growth.py --axes rows --rows 10000,100000 --max-minutes 10
    python benchmarks/growth.py --axes categories --set model.batch_size=1024

Along each axis one size grows and the others stay: rows with 10 columns; columns with --column-rows rows; categories of
one column among 10, with --category-rows rows. Tables are generated row group by row group, so that no more than one is
in memory, and lie in a temporary folder (TMPDIR moves it). Training lasts --epochs epochs, because what is measured is
what a row, a column and a category cost, and not how long a model takes to become good. All categories are learned,
however rare.

Each fit is a process of its own. Seconds are those of the whole command, less those of a table of 1,000 rows, which is
how long starting takes; memory is the peak of the process. Slopes are those of a line through the logarithms of size
and cost: 1 means that twice the size takes twice as much. Fits that take hardly longer than starting say nothing about
them and are left out. At most `model.max_rows` rows are learned (1,000,000 by default, --set changes it), so beyond
that only reading grows.

Each result is kept in docs/benchmarks/growth.json at once, so an interrupted run goes on where it stopped. A size that
takes longer than --max-minutes ends its axis.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import plots
import yaml
from generated import CATEGORY, COLUMNS, Size, write_table
from measuring import Failed, TookTooLong, measured
from page import Kept, comma_separated, image, parser_of, table, write_section

from tabvae_core.spec import ModelSpec, apply_settings
from tabvae_core.workspace import code_version

NAME = "growth"
Result = Mapping[str, Any]
_START = "start"
_ABOUT = (
    "`tabvae fit` on generated tables, {epochs} of training each, so that what is measured is what a row, a column and"
    " a category cost, and not how long a model takes to become good. Rows: with {columns} columns. Columns: with"
    " {column_rows:,} rows. Categories, of one column among {columns}: with {category_rows:,} rows. At most"
    " {max_rows:,} rows are learned (`model.max_rows`); beyond that only reading grows. Starting the command takes"
    " {start:.1f} s and {start_mib:,} MiB, the dashed lines. Slopes are of the seconds beyond it and of peak memory: 1"
    " means that twice the size takes twice as much. Dotted is a cost beyond the start in proportion to the size."
)
_START_NOISE = 0.3
"""Share of the start below which seconds beyond it are noise."""


def main() -> None:
    given = _arguments()
    plots.need_matplotlib()
    spec = apply_settings({}, (f"model.epochs={given.epochs}", "privacy.min_category_rows=1", *given.set))
    settings = {"method": given.method, "spec": spec, "threads": given.threads}
    settings |= {"column_rows": given.column_rows, "category_rows": given.category_rows}
    kept = Kept(given.out, NAME, settings)
    kept.forget(comma_separated(given.again))
    if _START not in kept:
        _measure(kept, _START, Size(1_000), spec, given)
    if "failed" in (start := kept.results[_START]):
        raise SystemExit(f"the smallest table was not learned: {start['failed']}")
    for axis in comma_separated(given.axes):
        for size in _numbers(getattr(given, axis)):
            key = f"{axis}:{size}"
            if key not in kept:
                _measure(kept, key, _size(axis, size, given), spec, given)
            if "failed" in kept.results[key]:
                break
    write_section(given.out, NAME, _section(kept, given, spec))


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    parser.add_argument("--axes", default="rows,columns,categories", help="what grows; %(default)s")
    parser.add_argument("--rows", default="10000,100000,1000000,10000000", help="%(default)s")
    parser.add_argument("--columns", default="10,20,50,100,200,500", help="%(default)s")
    parser.add_argument("--categories", default="10,100,1000,10000,100000", help="%(default)s")
    parser.add_argument("--column-rows", type=int, default=20_000, help="rows while columns grow; %(default)s")
    parser.add_argument("--category-rows", type=int, default=500_000, help="rows while categories grow; %(default)s")
    parser.add_argument("--method", default="vae", help="%(default)s")
    parser.add_argument("--epochs", type=int, default=1, help="of training; %(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the spec")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return sorted(int(float(part)) for part in comma_separated(text))


def _size(axis: str, size: int, given: argparse.Namespace) -> Size:
    if axis == "rows":
        return Size(size)
    if axis == "columns":
        return Size(given.column_rows, columns=size)
    return Size(given.category_rows, categories=size)


# Measuring ----------------------------------------------------------------------------------------------------------


def _measure(kept: Kept, key: str, size: Size, spec: Mapping[str, Any], given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="tabvae-benchmark-") as folder:
        real, settings = Path(folder, "table.parquet"), Path(folder, "spec.yaml")
        write_table(real, size)
        settings.write_text(yaml.safe_dump({**spec, "columns": {CATEGORY: {"kind": "category"}}}))
        command = [sys.executable, "-m", "tabvae_flows.cli", "fit", str(real), str(Path(folder, "model"))]
        command += ["--spec", str(settings), "--method", given.method, "--json"]
        try:
            done = measured(command, threads=given.threads, max_minutes=given.max_minutes)
        except Failed as error:
            kept.keep_failure(key, error, stopped=isinstance(error, TookTooLong))
            return
        summary = json.loads(done.stdout.splitlines()[-1])
        result = {
            **asdict(size),
            "seconds": round(done.seconds, 2),
            "training_seconds": summary["seconds"],
            "peak_mib": done.peak_mib,
            "table_mib": round(real.stat().st_size / 2**20, 1),
        }
    versions = {"python": platform.python_version(), "torch": metadata.version("torch"), "tabvae": code_version()}
    kept.keep(key, result, versions)


# The page -----------------------------------------------------------------------------------------------------------


def _section(kept: Kept, given: argparse.Namespace, spec: Mapping[str, Any]) -> list[str]:
    start = kept.results[_START]
    series = {axis: _series(kept.results, axis) for axis in ("rows", "columns", "categories")}
    series = {axis: points for axis, points in series.items() if points}
    rows: list[list[object]] = []
    for axis, points in series.items():
        for size, result in points:
            rows.append([axis, f"{size:,}", *_cost(result, start)])
    slopes = [[axis, *_slopes(points, start)] for axis, points in series.items()]
    for line in table(("axis", *_SLOPE_HEADS), slopes):
        print(line)
    plot = _plot(series, start, kept.folder / f"{NAME}.svg")
    about = _ABOUT.format(
        epochs=f"{given.epochs} epoch{'' if given.epochs == 1 else 's'}",
        columns=COLUMNS,
        column_rows=given.column_rows,
        category_rows=given.category_rows,
        max_rows=ModelSpec.model_validate(spec["model"]).max_rows,
        start=start["seconds"],
        start_mib=start["peak_mib"],
    )
    return [
        "## Growth",
        "",
        about,
        "",
        *image(kept.page, plot, "seconds and peak memory against rows, columns and categories, on logarithmic axes"),
        *table(("axis", *_SLOPE_HEADS), slopes),
        "",
        *table(("axis", "size", "s beyond start", "s in the fit itself", "peak MiB", "table MiB"), rows),
        "",
        *kept.provenance(),
    ]


_SLOPE_HEADS = ("slope of seconds", "of its last step", "slope of peak memory", "of its last step")


def _series(results: Mapping[str, Any], axis: str) -> list[tuple[int, Result]]:
    found = ((key.partition(":"), result) for key, result in results.items())
    return sorted(((int(size), result) for (name, _, size), result in found if name == axis), key=lambda pair: pair[0])


def _cost(result: Result, start: Result) -> list[object]:
    if "failed" in result:
        return [result["failed"], None, None, None]
    seconds = max(0.0, result["seconds"] - start["seconds"])
    return [f"{seconds:,.1f}", f"{result['training_seconds']:,.1f}", f"{result['peak_mib']:,}", result["table_mib"]]


def _costs(points: Sequence[tuple[int, Result]], what: str) -> tuple[list[int], list[float]]:
    good = [(size, result[what]) for size, result in points if "failed" not in result]
    return [size for size, _ in good], [cost for _, cost in good]


def _slopes(points: Sequence[tuple[int, Result]], start: Result) -> list[str]:
    beyond = [(size, seconds - start["seconds"]) for size, seconds in zip(*_costs(points, "seconds"), strict=True)]
    telling = [(size, seconds) for size, seconds in beyond if seconds > _START_NOISE * start["seconds"]]
    memory = list(zip(*_costs(points, "peak_mib"), strict=True))
    return [_slope(part) for of in (telling, memory) for part in (of, of[-2:])]


def _slope(points: Sequence[tuple[int, float]]) -> str:
    if len(points) < 2:
        return "–"
    sizes, costs = np.log(np.array(points, dtype=float)).T
    return f"{np.polyfit(sizes, costs, 1)[0]:.2f}"


def _plot(series: Mapping[str, Sequence[tuple[int, Result]]], start: Result, file: Path) -> Path:
    """Draw seconds above and memory below, a column of panels for each axis of growth."""
    figure, axes = plots.panels(2, len(series), 3 * len(series), 4.6, sharex="col", sharey="row")
    colour = plots.styles(["vae"])["vae"]["color"]
    for row, (what, label) in enumerate((("seconds", "seconds"), ("peak_mib", "peak memory, MiB"))):
        for panel, (axis, points) in zip(axes[row * len(series) :], series.items(), strict=False):
            sizes, costs = _costs(points, what)
            panel.plot(sizes, costs, marker="o", color=colour)
            panel.axhline(start[what], color=plots.GREY, linewidth=1, linestyle="--")
            if costs and costs[-1] > start[what]:
                proportional = [start[what] + (costs[-1] - start[what]) * size / sizes[-1] for size in sizes]
                panel.plot(sizes, proportional, linestyle=":", color=plots.GREY)
            plots.logarithmic(panel, x=True, y=True)
            if row == 1:
                panel.set_xlabel(axis)
        axes[row * len(series)].set_ylabel(label)
    return plots.save(figure, file)


if __name__ == "__main__":
    main()
