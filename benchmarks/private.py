"""Measure differential privacy: methods side by side at several epsilons, beside what real rows score.

    python benchmarks/private.py --data ../shared/data --referee ../shared/referee adult \\
        --methods vae,dp_marginals,mostlyai --peers-python peers/bin/python --epsilons 1,3,10

For each TABLE.parquet in the folder of --data: two random halves, each method learns the first at each epsilon (delta
is 1e-5), in a process of its own, and figures compare its sample with the second. No column is declared, so each method
pays for what it has to know of them. Options as in `benchmarks/fidelity.py`.

Each result is kept in docs/benchmarks/private.json at once, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from measuring import Failed, Halves, Judge, Runner, TookTooLong, add_table_options, halves, tables_of
from page import Kept, comma_separated, parser_of, table, write_section
from peers import PACKAGES, PRIVATE

NAME = "private"
FIGURES = {
    "shape": "shape %",
    "trend": "trend %",
    "jsd": "jsd",
    "c2st": "c2st",
    "utility": "utility",
    "copies": "copies %",
    "dcr": "dcr %",
}
"""Figures of the page, and their heads; those that the judge does not make are left out."""

_ABOUT = (
    "Each method learns one random half of a table at each epsilon, delta 1e-5, and `{judge}` compares its sample with"
    " the other half. *Real rows* is the first half in the place of a sample. c2st: AUC of boosted trees told to"
    " separate synthetic from real rows, 0.5 is perfect. No column is declared: categories and bounds are found within"
    " the budget. mostlyai-engine validates on rows that its accounts do not charge; its noise is chosen so that"
    " epsilon lasts for 20 passes."
)


def main() -> None:
    given = _arguments()
    methods, names = comma_separated(given.methods), tables_of(given.data, given.tables)
    epsilons = [float(one) for one in comma_separated(given.epsilons)]
    judge = Judge(given.referee, {})
    runner = Runner.of(methods, given.peers_python, given.threads, given.max_minutes)
    kept = Kept(given.out, NAME, {"figures": judge.name, "limit": given.limit, "threads": given.threads})
    kept.forget(comma_separated(given.again))
    for name in names:
        wanted = [(method, one) for one in epsilons for method in methods]
        missing = [(method, one) for method, one in wanted if f"{name}:{method}:{one:g}" not in kept]
        if missing:
            with halves(given.data, name, given.limit) as half:
                for method, epsilon in missing:
                    _measure(kept, half, method, epsilon, runner, judge)
    kept.need_some()
    write_section(given.out, NAME, _section(kept, judge.name))


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    add_table_options(parser)
    parser.set_defaults(methods="vae,dp_marginals")
    parser.add_argument("--epsilons", default="1,3,10", help="separated by commas; %(default)s")
    given = parser.parse_args()
    public = [method for method in comma_separated(given.methods) if method in PACKAGES and method not in PRIVATE]
    if public:
        parser.error(f"{public[0]} does not learn with differential privacy")
    return given


def _measure(kept: Kept, half: Halves, method: str, epsilon: float, runner: Runner, judge: Judge) -> None:
    key = f"{half.table}:{method}:{epsilon:g}"
    with tempfile.TemporaryDirectory(prefix="tabvae-benchmark-") as folder:
        synthetic = Path(folder) / "synthetic.parquet"
        try:
            cost = runner.learn(method, half.train, synthetic, half.rows, epsilon=epsilon)
            figures, problems = judge.figures(half, synthetic)
        except Failed as error:
            kept.keep_failure(key, error, stopped=isinstance(error, TookTooLong))
            return
    versions = cost.pop("versions", {})
    kept.keep(
        key, {"rows": half.rows, "columns": half.columns, "figures": figures, "problems": problems, **cost}, versions
    )


def _section(kept: Kept, judge: str) -> list[str]:
    results = kept.results
    shown = [name for name in FIGURES if any(name in result.get("figures", {}) for result in results.values())]
    rows: list[list[object]] = []
    for name in sorted({key.partition(":")[0] for key in results}):
        own = {tuple(key.split(":")[1:]): result for key, result in results.items() if key.startswith(f"{name}:")}
        good = [result["figures"] for result in own.values() if "failed" not in result]
        if good:
            rows.append([name, None, "*real rows*", *(f"{good[0][one]['floor']:.4g}" for one in shown), None])
        for (method, epsilon), result in sorted(own.items(), key=lambda one: (float(one[0][1]), one[0][0])):
            if "failed" in result:
                rows.append([name, epsilon, method, result["failed"], *[None] * len(shown)])
                continue
            figures = [f"{result['figures'][one]['value']:.4g}" for one in shown]
            rows.append([name, epsilon, method, *figures, f"{result['fit_seconds']:,.0f}"])
    heads = ["table", "epsilon", "method", *(FIGURES[one] for one in shown), "fit s"]
    lines = table(heads, rows)
    print("\n".join(lines), flush=True)
    return ["## Differential privacy", "", _ABOUT.format(judge=judge), "", *lines, "", *kept.provenance()]


if __name__ == "__main__":
    main()
