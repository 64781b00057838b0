"""Measure seconds and memory: rows learned and drawn a second, peak memory, and quality after so many seconds.

    python benchmarks/speed.py
    python benchmarks/speed.py --data ../shared/data --referee ../shared/referee adult \\
        --methods vae,vae_basic,mostlyai,sdv_tvae,sdv_ctgan,sdv_copula --peers-python peers/bin/python \\
        --budgets 15,30,60,120,240,480 --quality 0.7,0.6,0.55

Tables, methods, peers and the referee are those of `benchmarks/fidelity.py`. Each method learns the first half of a
table once as long as it likes, and once within each budget of seconds that is shorter than that; c2st, the AUC of trees
told to separate its sample from the second half, says how good it was by then. Every measurement is a process of its
own, so that its peak memory is its own, and all have the same number of threads.

Each result is kept in docs/benchmarks/speed.json at once, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plots
from measuring import Failed, Halves, Judge, Runner, TookTooLong, add_table_options, halves, head, tables_of
from page import Kept, comma_separated, image, parser_of, table, write_section
from peers import UNTIMED

NAME = "speed"
FULL = "full"
"""The budget of a method that may take as long as it likes."""
_ABOUT = (
    "Learning starts when the libraries are loaded and ends with a model that can be sampled. *Learned rows/s* counts"
    " the rows that training went through in all its epochs, *drawn rows/s* a sample of at least {sample_rows:,} rows"
    " written to Parquet. *s to c2st* is the shortest measured training whose sample reached that AUC, by `{judge}`;"
    " the AUC of real rows is in brackets. Peak memory is that of the process and its children, libraries included."
)

Result = Mapping[str, Any]
Grouped = Mapping[str, Mapping[str, Mapping[str, Result]]]
"""Results by table, method and budget."""


def main() -> None:
    given = _arguments()
    plots.need_matplotlib()
    methods, names = comma_separated(given.methods), tables_of(given.data, given.tables)
    judge = Judge(given.referee, {})
    runner = Runner.of(methods, given.peers_python, given.threads, given.max_minutes)
    settings = {"figures": judge.name, "limit": given.limit, "threads": given.threads, "sample_rows": given.sample_rows}
    kept = Kept(given.out, NAME, settings)
    kept.forget(comma_separated(given.again))
    budgets = sorted(float(budget) for budget in comma_separated(given.budgets))
    for name in names:
        with halves(given.data, name, given.limit) as half:
            for method in methods:
                _measure_method(kept, half, method, budgets, given.sample_rows, runner, judge)
    kept.need_some()
    qualities = [float(quality) for quality in comma_separated(given.quality)]
    write_section(given.out, NAME, _section(kept, judge.name, given.sample_rows, qualities))


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    add_table_options(parser)
    parser.add_argument("--budgets", default="15,30,60,120,240,480", help="seconds of training; %(default)s")
    parser.add_argument("--quality", default="0.7,0.6,0.55", help="AUCs to reach; %(default)s")
    parser.add_argument("--sample-rows", type=int, default=50_000, help="rows drawn after a full training; %(default)s")
    return parser.parse_args()


# Measuring ----------------------------------------------------------------------------------------------------------


def _measure_method(
    kept: Kept, half: Halves, method: str, budgets: Sequence[float], sample_rows: int, runner: Runner, judge: Judge
) -> None:
    full = f"{half.table}:{method}:{FULL}"
    if full not in kept:
        _measure(kept, full, half, method, None, max(sample_rows, half.rows), runner, judge)
    if full not in kept:  # it failed, and so would the others
        return
    needed = kept.results[full].get("fit_seconds", float("inf"))
    for budget in budgets:
        key = f"{half.table}:{method}:{budget:g}"
        if method not in UNTIMED and budget < needed and key not in kept:
            _measure(kept, key, half, method, budget, half.rows, runner, judge)


def _measure(
    kept: Kept, key: str, half: Halves, method: str, budget: float | None, rows: int, runner: Runner, judge: Judge
) -> None:
    with tempfile.TemporaryDirectory(prefix="tabvae-benchmark-") as folder:
        synthetic = Path(folder) / "synthetic.parquet"
        try:
            cost = runner.learn(method, half.train, synthetic, rows, max_seconds=budget)
            head(synthetic, half.rows)
            figures, _ = judge.figures(half, synthetic)
            if figures["c2st"]["value"] is None:
                raise Failed("too few rows to tell how good the sample is")
        except Failed as error:
            kept.keep_failure(key, error, stopped=isinstance(error, TookTooLong))
            return
    versions = cost.pop("versions")
    kept.keep(key, {"rows": half.rows, "columns": half.columns, "c2st": figures["c2st"], **cost}, versions)


# The page -----------------------------------------------------------------------------------------------------------


def _section(kept: Kept, judge: str, sample_rows: int, qualities: Sequence[float]) -> list[str]:
    grouped = _grouped(kept.results)
    heads = ["table", "method", "fit s", "learned rows/s", "drawn rows/s", "peak MiB", "c2st"]
    heads += [f"s to c2st {quality:g}" for quality in qualities]
    rows = [row for name, of_table in grouped.items() for row in _rows(name, of_table, qualities)]
    cost = _plot_cost(grouped, kept.folder / f"{NAME}-cost.svg")
    quality = _plot_quality(grouped, kept.folder / f"{NAME}-quality.svg")
    return [
        "## Speed and memory",
        "",
        _ABOUT.format(judge=judge, sample_rows=sample_rows),
        "",
        *image(
            kept.page,
            quality,
            "AUC of trees after so many seconds of learning, by method; a ring is around the training without a limit",
        ),
        *image(kept.page, cost, "rows learned a second, rows drawn a second and peak memory, by table and method"),
        *table(heads, rows),
        "",
        *kept.provenance(),
    ]


def _grouped(results: Mapping[str, Result]) -> Grouped:
    grouped: dict[str, dict[str, dict[str, Result]]] = {}
    for key, result in results.items():
        name, method, budget = key.split(":")
        grouped.setdefault(name, {}).setdefault(method, {})[budget] = result
    return grouped


def _rows(name: str, of_table: Mapping[str, Mapping[str, Result]], qualities: Sequence[float]) -> list[list[object]]:
    rows: list[list[object]] = []
    for method, runs in of_table.items():
        full = runs[FULL]
        row: list[object] = [name if not rows else None, method]
        if "failed" in full:
            row += [full["failed"], None, None, None, None]
        else:
            row += [_number(full["fit_seconds"]), *(_number(_rate(full, of)) for of in ("learned", "drawn"))]
            row += [f"{full['peak_mib']:,}", f"{full['c2st']['value']:.3f} ({full['c2st']['floor']:.3f})"]
        rows.append(row + [_number(_seconds_to(quality, runs)) for quality in qualities])
    return rows


def _rate(result: Result, of: str) -> float | None:
    """Rows a second, learned over all epochs or drawn."""
    if of == "drawn":
        return result["sample_rows"] / max(result["sample_seconds"], 1e-3) if "sample_rows" in result else None
    seen = result.get("rows_seen")
    return seen / max(result["fit_seconds"], 1e-3) if seen else None


def _seconds_to(quality: float, runs: Mapping[str, Result]) -> float | None:
    good = [run["fit_seconds"] for run in runs.values() if "failed" not in run and run["c2st"]["value"] <= quality]
    return min(good, default=None)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.{1 if value < 10 else 0}f}"


def _plot_quality(grouped: Grouped, file: Path) -> Path:
    """Draw quality over seconds, a panel a table; a ring is around the training that was not limited."""
    styles = plots.styles(_methods(grouped))
    columns = min(3, len(grouped))
    lines = -(-len(grouped) // columns)
    figure, axes = plots.panels(lines, columns, max(4.5, 3 * columns), 0.9 + 2.4 * lines, sharey=True)
    for axis, (name, of_table) in zip(axes, grouped.items(), strict=False):
        for method, runs in of_table.items():
            points = sorted((r["fit_seconds"], r["c2st"]["value"]) for r in runs.values() if "failed" not in r)
            axis.plot([x for x, _ in points], [y for _, y in points], linewidth=1.2, **styles[method])
            if "failed" not in runs[FULL]:
                at = (runs[FULL]["fit_seconds"], runs[FULL]["c2st"]["value"])
                plots.ring(axis, *at, styles[method]["color"])
        floors = [run["c2st"]["floor"] for runs in of_table.values() for run in runs.values() if "failed" not in run]
        if floors:
            plots.floor_line(axis, floors[0], along_x=False)
        plots.logarithmic(axis, x=True)
        axis.set(title=name, xlabel="seconds of learning", ylabel="AUC of trees (c2st)")
    for axis in axes[len(grouped) :]:
        axis.set_visible(False)
    plots.legend(figure, axes)
    return plots.save(figure, file)


def _plot_cost(grouped: Grouped, file: Path) -> Path:
    methods = _methods(grouped)
    styles = plots.styles(methods)
    figure, axes = plots.panels(1, 3, 9, 1.4 + 0.3 * len(grouped), sharey=True)
    for method in methods:
        full = [of_table.get(method, {}).get(FULL, {}) for of_table in grouped.values()]
        good = [{} if "failed" in run else run for run in full]
        learned = [_rate(run, "learned") if run else None for run in good]
        drawn = [_rate(run, "drawn") if run else None for run in good]
        memory = [run.get("peak_mib") for run in good]
        for axis, values in zip(axes, (learned, drawn, memory), strict=True):
            xs = [float("nan") if value is None else value for value in values]
            axis.plot(xs, range(len(xs)), linestyle="none", alpha=0.85, **styles[method])
    labels = ("rows learned a second", "rows drawn a second", "peak memory, MiB")
    for axis, label in zip(axes, labels, strict=True):
        axis.set_xlabel(label)
    plots.logarithmic(axes[0], x=True)
    plots.logarithmic(axes[1], x=True)
    axes[2].set_xlim(left=0)
    axes[0].set_yticks(range(len(grouped)), list(grouped))
    axes[0].set_ylim(len(grouped) - 0.5, -0.5)
    plots.legend(figure, axes)
    return plots.save(figure, file)


def _methods(grouped: Grouped) -> list[str]:
    return list(dict.fromkeys(method for of_table in grouped.values() for method in of_table))


if __name__ == "__main__":
    main()
