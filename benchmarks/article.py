"""Regenerate the article's table: Jensen-Shannon distance of each column, for its plain network and for ours.

    python benchmarks/article.py
    python benchmarks/article.py --methods vae_basic,vae,gaussian_copula --rows 50000

The article (`vae_basic` is its network) learns customers with age, income, score, visits, segment and region, and does
not publish their rows. So they are generated: these columns of the demo's customers, whose every dependence is written
down in `tabvae_flows/customers.py`. One random half is learned, each method draws as many rows, and they are compared
with the other half, in 30 quantile bins of a number or the categories, nulls a bin of their own. The floor is the
learned half in the place of the sample: with few rows it hides how good a method is, hence so many.

Each result is kept in docs/benchmarks/article.json at once, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from measuring import Failed, Halves, Runner, TookTooLong, halves
from page import Kept, comma_separated, parser_of, table, write_section

from tabvae_core.evaluation.divergence import ReferenceBins
from tabvae_flows.customers import customers

NAME = "article"
PUBLISHED = {"age": 0.11, "income": 0.18, "score": 0.09, "visits": 0.22}
"""Distances that the article prints."""
PLAIN = "vae_basic"
COLUMNS = (*PUBLISHED, "segment", "region")

_ABOUT = (
    "Jensen-Shannon distance (0 equal, 1 disjoint) of each column, {rows:,} rows learned, as many drawn, as many held"
    " out; the rows are generated, and the article says neither how its own were nor which bins it counted in. *Floor*:"
    " real rows against real rows. In brackets: how many times lower than `vae_basic`, the article's network."
)


def main() -> None:
    given = _arguments()
    methods = comma_separated(given.methods)
    runner = Runner.of(methods, [], given.threads, given.max_minutes)
    kept = Kept(given.out, NAME, {"rows": given.rows, "threads": given.threads})
    kept.forget(comma_separated(given.again))
    missing = [method for method in methods if method not in kept]
    if missing:
        with tempfile.TemporaryDirectory(prefix="tabvae-benchmark-") as folder:
            pq.write_table(customers(given.rows).select(COLUMNS), Path(folder, f"{NAME}.parquet"))
            with halves(Path(folder), NAME, given.rows) as half:
                for method in missing:
                    _measure(kept, half, method, runner)
    kept.need_some()
    write_section(given.out, NAME, _section(kept, given.rows // 2))


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    parser.add_argument("--rows", type=int, default=200_000, help="customers generated; %(default)s")
    parser.add_argument("--methods", default="vae_basic,vae", help="separated by commas; %(default)s")
    return parser.parse_args()


def _measure(kept: Kept, half: Halves, method: str, runner: Runner) -> None:
    with tempfile.TemporaryDirectory(prefix="tabvae-benchmark-") as folder:
        synthetic = Path(folder) / "synthetic.parquet"
        try:
            cost = runner.learn(method, half.train, synthetic, half.rows)
        except Failed as error:
            kept.keep_failure(method, error, stopped=isinstance(error, TookTooLong))
            return
        distances = {name: _distances(half, synthetic, name) for name in COLUMNS}
    versions = cost.pop("versions", {})
    kept.keep(method, {"distances": distances, **cost}, versions)


def _distances(half: Halves, synthetic: Path, column: str) -> dict[str, float]:
    """Distance to the held-out half, of the sample and of the learned half."""
    held, learned, drawn = (
        pq.read_table(path, columns=[column])[column] for path in (half.holdout, half.train, synthetic)
    )
    bins = ReferenceBins.fit(held)
    return {"value": round(bins.distance(held, drawn), 4), "floor": round(bins.distance(held, learned), 4)}


def _section(kept: Kept, rows: int) -> list[str]:
    good = {method: result for method, result in kept.results.items() if "failed" not in result}
    floors = next(iter(good.values()))["distances"]
    body = [
        [
            name,
            PUBLISHED.get(name),
            f"{floors[name]['floor']:.4f}",
            *(_cell(one, good.get(PLAIN), name) for one in good.values()),
        ]
        for name in COLUMNS
    ]
    body.append(["learned in, s", None, None, *(f"{result['fit_seconds']:,.0f}" for result in good.values())])
    heads = ["column", "article", "floor", *good]
    lines = table(heads, body)
    print("\n".join(lines), flush=True)
    return ["## The article's table", "", _ABOUT.format(rows=rows), "", *lines, "", *kept.provenance()]


def _cell(result: Mapping[str, Any], plain: Mapping[str, Any] | None, name: str) -> str:
    """A distance, and how many times lower than that of the article's network it is."""
    value = result["distances"][name]["value"]
    if plain is None or plain is result:
        return f"{value:.4f}"
    return f"{value:.4f} ({plain['distances'][name]['value'] / max(value, 1e-4):.0f}×)"


if __name__ == "__main__":
    main()
