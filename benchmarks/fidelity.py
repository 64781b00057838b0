"""Measure how true synthetic tables are: methods side by side, ours and other libraries', beside what real rows score.

    python benchmarks/fidelity.py
    python benchmarks/fidelity.py --data ../shared/data --referee ../shared/referee adult magic \\
        --methods vae,vae_basic,mostlyai,sdv_tvae,sdv_ctgan,sdv_copula --peers-python peers/bin/python \\
        --published ../shared/data/peers

For each TABLE.parquet in the folder of --data (all when none is named; at most --limit rows): two random halves, each
method learns the first with its default options, in a process of its own, and figures compare its sample with the
second. Without --data the table is 20,000 of the demo's customers.

--referee names a folder with a `score.py` whose `score(train, holdout, synthetic, target, ignore)` makes the figures;
what that imports (xgboost, as a rule) must be installed in the environment this script runs in. Without it they are
those of `tabvae evaluate`.

--peers-python is the Python of an environment with mostlyai-engine, SDV or both (`benchmarks/peers.py` says how to make
it); given twice, each peer runs with the first that has it. --published is a folder of tables that others published,
named SOURCE__TABLE__MODEL__0.parquet: they are scored against the same halves.

Each result is kept in docs/benchmarks/fidelity.json at once, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import plots
from measuring import Failed, Halves, Judge, Runner, TookTooLong, add_table_options, halves, tables_of
from page import Kept, comma_separated, image, parser_of, table, write_section

NAME = "fidelity"
FIGURES = {
    "shape": "shape %",
    "trend": "trend %",
    "jsd": "jsd",
    "c2st": "c2st",
    "utility": "utility",
    "copies": "copies %",
    "nulls": "nulls %",
    "dcr": "dcr %",
}
"""Figures of the page, and their heads; those that the judge does not make are left out."""

_ABOUT = (
    "Each method learns one random half of a table with its default options, and `{judge}` compares its sample with the"
    " other half. *Real rows* is the first half in the place of a sample: as near as real data is to itself. c2st: AUC"
    " of boosted trees told to separate synthetic from real rows, 0.5 is perfect. schema: how much is wrong with types,"
    " nulls and categories. A method with a source in brackets is a table that others published: which rows"
    " it was learned from is not known, and they may be among those it is compared with."
)


def main() -> None:
    given = _arguments()
    plots.need_matplotlib()
    methods, names = comma_separated(given.methods), tables_of(given.data, given.tables)
    judge = Judge(given.referee, dict(pair.split("=", 1) for pair in comma_separated(given.targets)))
    runner = Runner.of(methods, given.peers_python, given.threads, given.max_minutes)
    kept = Kept(given.out, NAME, {"figures": judge.name, "limit": given.limit, "threads": given.threads})
    kept.forget(comma_separated(given.again))
    for name in names:
        published = _published(given.published, name)
        missing = [method for method in (*methods, *published) if f"{name}:{method}" not in kept]
        if missing:
            with halves(given.data, name, given.limit) as half:
                for method in missing:
                    _measure(kept, half, method, published.get(method), runner, judge)
    kept.need_some()
    write_section(given.out, NAME, _section(kept, judge.name))


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    add_table_options(parser)
    parser.add_argument("--published", type=Path, metavar="FOLDER", help="tables that others published; with --referee")
    parser.add_argument("--targets", default="", help="columns to predict: table=column,table=column")
    given = parser.parse_args()
    if given.published and (given.data is None or given.referee is None):
        parser.error("published tables are scored by a referee against the table they are of: --data and --referee")
    return given


# Measuring ----------------------------------------------------------------------------------------------------------


def _measure(kept: Kept, half: Halves, method: str, published: Path | None, runner: Runner, judge: Judge) -> None:
    key = f"{half.table}:{method}"
    with tempfile.TemporaryDirectory(prefix="tabvae-benchmark-") as folder:
        synthetic = Path(folder) / "synthetic.parquet"
        try:
            if published is None:
                cost = runner.learn(method, half.train, synthetic, half.rows)
            else:
                _respell(published, half.train, synthetic)
                cost = {}
            figures, problems = judge.figures(half, synthetic)
        except Failed as error:
            kept.keep_failure(key, error, stopped=isinstance(error, TookTooLong))
            return
    versions = cost.pop("versions", {})
    result = {"rows": half.rows, "columns": half.columns, "figures": figures, "problems": problems, **cost}
    kept.keep(key, result, versions)


def _published(folder: Path | None, name: str) -> dict[str, Path]:
    """Published tables of a name, as methods: "tabsyn (argn)"."""
    if folder is None:
        return {}
    pattern = re.compile(rf"(.+?)__{re.escape(name)}__(.+)__0")
    found = ((pattern.fullmatch(path.stem), path) for path in sorted(folder.glob("*.parquet")))
    return {f"{match[2]} ({match[1]})": path for match, path in found if match}


def _respell(published: Path, real: Path, out: Path) -> None:
    """Give a published table the names and the spelling of the real one; values stay as they were published.

    Names differ in case and punctuation, or are others in the same order, such as X1 and X2; texts have blanks around
    them, and "?" for a null.

    Raises:
        Failed: The columns are not those of the real table.

    """
    theirs, ours = pd.read_parquet(published), pd.read_parquet(real)
    names = {_plain(str(name)): name for name in ours}
    theirs = theirs.rename(columns={name: names.get(_plain(str(name)), name) for name in theirs})
    strangers, missing = ([n for n in a if n not in b] for a, b in ((theirs, ours), (ours, theirs)))
    if len(strangers) != len(missing):
        raise Failed(f"it has {len(strangers)} columns in the place of {', '.join(map(str, missing))}")
    theirs = theirs.rename(columns=dict(zip(strangers, missing, strict=True)))[list(ours)]
    for name in ours:
        if not pd.api.types.is_numeric_dtype(theirs[name]):
            text = theirs[name].astype("object").map(lambda cell: cell.strip() if isinstance(cell, str) else cell)
            marks_nulls = ours[name].isna().any() and not (ours[name] == "?").any()
            theirs[name] = text.where(text != "?", None) if marks_nulls else text
    theirs.to_parquet(out, index=False)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


# The page -----------------------------------------------------------------------------------------------------------


def _section(kept: Kept, judge: str) -> list[str]:
    results = kept.results
    shown = [name for name in FIGURES if any(name in result.get("figures", {}) for result in results.values())]
    heads = ["table", "method", *(FIGURES[name] for name in shown), "schema", "fit s", "sample rows/s", "peak MiB"]
    rows: list[list[object]] = []
    for name, of_table in _by_table(results).items():
        rows += _rows(name, of_table, shown)
    plot = _plot(_by_table(results), kept.folder / f"{NAME}.svg")
    return [
        "## Fidelity",
        "",
        _ABOUT.format(judge=judge),
        "",
        *image(kept.page, plot, "c2st, and shape and trend as multiples of what real rows score, by table and method"),
        *table(heads, rows),
        "",
        *kept.provenance(),
    ]


def _by_table(results: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    grouped: dict[str, dict[str, dict[str, Any]]] = {}
    for key in results:
        name, method = key.split(":")
        grouped.setdefault(name, {})[method] = results[key]
    return grouped


def _rows(name: str, of_table: Mapping[str, dict[str, Any]], shown: list[str]) -> list[list[object]]:
    good = {method: result for method, result in of_table.items() if "failed" not in result}
    first: list[object] = [name]
    rows: list[list[object]] = []
    if good:
        some = next(iter(good.values()))
        first = [f"{name}, {some['rows']:,} × {some['columns']}"]
        rows.append([*first, "*real rows*", *(_cell(some["figures"].get(one), "floor") for one in shown)])
        first = [None]
    for method, result in good.items():
        figures = [_cell(result["figures"].get(one), "value") for one in shown]
        problems = result["problems"]
        schema = None if problems is None else len(problems) or "ok"
        rows.append([*first, method, *figures, schema, *_cost(result)])
    for method in (method for method in of_table if method not in good):
        rows.append([*first, method, of_table[method]["failed"]])
        first = [None]
    return [row + [None] * (len(shown) + 6 - len(row)) for row in rows]


def _cost(result: Mapping[str, Any]) -> list[object]:
    if "fit_seconds" not in result:
        return []
    rate = result["sample_rows"] / max(result["sample_seconds"], 1e-3)
    return [f"{result['fit_seconds']:,.0f}", f"{rate:,.0f}", f"{result['peak_mib']:,}"]


def _cell(figure: Mapping[str, float | None] | None, side: str) -> str | None:
    value = None if figure is None else figure[side]
    return None if value is None or math.isnan(value) else f"{value:.3f}"


def _plot(grouped: Mapping[str, Mapping[str, dict[str, Any]]], file: Path) -> Path:
    methods = list(dict.fromkeys(method for of_table in grouped.values() for method in of_table))
    styles = plots.styles(methods)
    figure, axes = plots.panels(1, 3, 9, 1.4 + 0.3 * len(grouped), sharey=True)
    for method in methods:
        of_method = [of_table.get(method, {}).get("figures", {}) for of_table in grouped.values()]
        for axis, xs in zip(axes, zip(*map(_positions, of_method), strict=True), strict=True):
            axis.plot(xs, range(len(xs)), linestyle="none", alpha=0.85, **styles[method])
    labels = ("AUC of trees (c2st)", "shape error ÷ real rows'", "trend error ÷ real rows'")
    for axis, label, best in zip(axes, labels, (0.5, 1, 1), strict=True):
        axis.set_xlabel(label)
        plots.floor_line(axis, best, along_x=True)
    for axis in axes[1:]:
        plots.logarithmic(axis, x=True)
    axes[0].set_yticks(range(len(grouped)), list(grouped))
    axes[0].set_ylim(len(grouped) - 0.5, -0.5)
    plots.legend(figure, axes)
    return plots.save(figure, file)


def _positions(figures: Mapping[str, Mapping[str, float | None]]) -> list[float]:
    """Where a method stands in each panel; not a number where it has no figure."""
    c2st = figures.get("c2st", {}).get("value")
    values = [c2st, *(_multiple(figures.get(name, {})) for name in ("shape", "trend"))]
    return [math.nan if value is None else value for value in values]


def _multiple(figure: Mapping[str, float | None]) -> float | None:
    value, floor = figure.get("value"), figure.get("floor")
    return value / floor if value and floor else None


if __name__ == "__main__":
    main()
