"""Measure what synthetic tables give away, whether the attacks notice, and how long they take.

    python benchmarks/attacks.py --data ../shared/data adult default magic bank_marketing diabetes
    python benchmarks/attacks.py --parts power,time --rows 10000,1000000

Three parts. `leaks`: a method learns one random half of each table with its default options, and `tabvae attack` tries
what its sample tells of that half beyond what it tells of the other. `power`: tables that remember, made of real rows
that no model has seen with some training rows among them, and tables that do not; how many of --repeats splits are
refused at the default limits. `time`: seconds and memory of `tabvae attack` on generated tables.

Without --data the table is 20,000 of the demo's customers. Each result is kept in docs/benchmarks/attacks.json at once,
so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from generated import COLUMNS, Size, write_table
from measuring import Failed, Halves, Runner, TookTooLong, add_table_options, halves, measured, tables_of
from page import Kept, comma_separated, parser_of, table, write_section

from tabvae_core.workspace import code_version

NAME = "attacks"
Result = Mapping[str, Any]
_SHARES = (0.0, 0.01, 0.02, 0.05, 1.0)
"""Rows of a table that are training rows: none is an honest table, all is one learned by heart."""
_ABOUT = (
    "`tabvae attack` on samples of methods with default options, which learned one random half of a table; the other"
    " half is divided into controls, which are attacked alike, and reference rows, which the attacker knows. An"
    " advantage is the gain on learned rows beyond controls, 0 gives nothing away and 1 everything; AUC 0.5 is"
    " guessing. In brackets 95 % intervals; docs/privacy.md describes the attacks."
)
_POWER = (
    "How many of {repeats} random splits were refused at the default limits, where a share of the table are training"
    " rows, copied, and the others real rows that nobody learned. At 0 % the table is honest, a refusal is an error."
)
_TIME = (
    "`tabvae attack`, the whole command, on generated tables of {columns} columns; a fifth of real rows is held out."
)


def main() -> None:
    given = _arguments()
    parts, methods, names = comma_separated(given.parts), comma_separated(given.methods), []
    if {"leaks", "power"} & set(parts):
        names = tables_of(given.data, given.tables)
    runner = Runner.of(methods, given.peers_python, given.threads, given.max_minutes)
    kept = Kept(given.out, NAME, {"limit": given.limit, "threads": given.threads})
    kept.forget(comma_separated(given.again))
    for name in names if "leaks" in parts else ():
        missing = [method for method in methods if f"leaks:{name}:{method}" not in kept]
        if missing:
            with halves(given.data, name, given.limit) as half:
                for method in missing:
                    _leaks(kept, half, method, runner, given)
    for name in names if "power" in parts else ():
        for share in _SHARES:
            for repeat in range(given.repeats):
                if f"power:{name}:{share:g}:{repeat}" not in kept:
                    _power(kept, name, share, repeat, given)
    for size in _sizes(given.rows) if "time" in parts else ():
        if f"time:{size}" not in kept:
            _time(kept, size, given)
    kept.need_some()
    write_section(given.out, NAME, _section(kept, given))


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    add_table_options(parser)
    parser.set_defaults(methods="vae")
    parser.add_argument("--parts", default="leaks,power,time", help="%(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="splits of each table in power; %(default)s")
    parser.add_argument("--rows", default="10000,100000,1000000", help="sizes in time; %(default)s")
    return parser.parse_args()


def _sizes(text: str) -> list[int]:
    return sorted(int(float(part)) for part in comma_separated(text))


# Measuring ----------------------------------------------------------------------------------------------------------


def _attacked(synthetic: Path, train: Path, holdout: Path, given: argparse.Namespace, seed: int = 0) -> dict[str, Any]:
    command = [sys.executable, "-m", "tabvae_flows.cli", "attack", str(synthetic), "--train", str(train)]
    command += ["--holdout", str(holdout), "--seed", str(seed), "--json"]
    done = measured(command, threads=given.threads, max_minutes=given.max_minutes)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "seconds": round(done.seconds, 1), "peak_mib": done.peak_mib}


def _versions() -> dict[str, str]:
    libraries = {name: metadata.version(name) for name in ("numpy", "scikit-learn")}
    return {"python": platform.python_version(), **libraries, "tabvae": code_version()}


def _leaks(kept: Kept, half: Halves, method: str, runner: Runner, given: argparse.Namespace) -> None:
    key = f"leaks:{half.table}:{method}"
    with tempfile.TemporaryDirectory(prefix="tabvae-benchmark-") as folder:
        out = Path(folder, "synthetic.parquet")
        try:
            learned = runner.learn(method, half.train, out, half.rows)
            found = _attacked(out, half.train, half.holdout, given)
        except Failed as error:
            kept.keep_failure(key, error, stopped=isinstance(error, TookTooLong))
            return
    kept.keep(key, {**found, "rows": half.rows, "fit_seconds": learned["fit_seconds"]}, _versions())


def _power(kept: Kept, name: str, share: float, repeat: int, given: argparse.Namespace) -> None:
    with halves(given.data, name, given.limit) as half, tempfile.TemporaryDirectory() as folder:
        whole = pa.concat_tables(pq.read_table(file) for file in (half.train, half.holdout))
        order = np.random.default_rng([repeat, 0]).permutation(whole.num_rows)
        train, holdout, fresh = (whole.take(part) for part in np.array_split(order, 3))
        copied = round(share * fresh.num_rows)
        synthetic = pa.concat_tables([fresh.slice(copied), train.slice(0, copied)])
        files = [Path(folder, f"{side}.parquet") for side in ("synthetic", "train", "holdout")]
        for file, rows in zip(files, (synthetic, train, holdout), strict=True):
            pq.write_table(rows, file)
        key = f"power:{name}:{share:g}:{repeat}"
        try:
            found = _attacked(files[0], files[1], files[2], given, seed=repeat)
        except Failed as error:
            kept.keep_failure(key, error, stopped=isinstance(error, TookTooLong))
            return
    refused = [gate["name"] for gate in found["gates"] if not gate["passed"]]
    kept.keep(key, {"refused": refused, "rows": fresh.num_rows, "attacks": found["attacks"]}, _versions())


def _time(kept: Kept, size: int, given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="tabvae-benchmark-") as folder:
        whole, files = Path(folder, "whole.parquet"), [Path(folder, f"{k}.parquet") for k in range(3)]
        write_table(whole, Size(2 * size))
        rows = pq.read_table(whole)
        order = np.random.default_rng(0).permutation(2 * size)
        cuts = (order[:size], order[size : size + 4 * size // 5], order[size + 4 * size // 5 :])
        for file, part in zip(files, cuts, strict=True):
            pq.write_table(rows.take(part), file)
        del rows
        try:
            found = _attacked(files[0], files[1], files[2], given)
        except Failed as error:
            kept.keep_failure(f"time:{size}", error, stopped=isinstance(error, TookTooLong))
            return
    result = {name: found[name] for name in ("seconds", "peak_mib", "members")}
    kept.keep(f"time:{size}", {"rows": size, **result}, _versions())


# The page -----------------------------------------------------------------------------------------------------------


def _section(kept: Kept, given: argparse.Namespace) -> list[str]:
    by_part: dict[str, dict[str, Result]] = {"leaks": {}, "power": {}, "time": {}}
    for key, result in kept.results.items():
        part, _, rest = key.partition(":")
        by_part[part][rest] = result
    lines = ["## Attacks", ""]
    if by_part["leaks"]:
        head = ("table", "method", "rows", "attack", "advantage", "most exposed 1 %", "AUC", "learned / control")
        lines += [_ABOUT, "", *table(head, _leak_rows(by_part["leaks"])), ""]
    if by_part["power"]:
        head = ("table", "rows", *(f"{100 * share:g} % copied" for share in _SHARES))
        lines += [_POWER.format(repeats=given.repeats), "", *table(head, _power_rows(by_part["power"])), ""]
    if by_part["time"]:
        head = ("synthetic rows", "training rows attacked", "seconds", "peak MiB")
        ordered = sorted(by_part["time"].values(), key=lambda result: result.get("rows", 0))
        times = [[_cell(result, name) for name in ("rows", "members", "seconds", "peak_mib")] for result in ordered]
        lines += [_TIME.format(columns=COLUMNS), "", *table(head, times), ""]
    return [*lines, *kept.provenance()]


def _cell(result: Result, name: str) -> str:
    return result["failed"] if "failed" in result else f"{result[name]:,}"


def _leak_rows(results: Mapping[str, Result]) -> Iterator[Sequence[object]]:
    for key, result in results.items():
        name, _, method = key.partition(":")
        if "failed" in result:
            yield [name, method, None, result["failed"]]
            continue
        for number, attack in enumerate(result["attacks"]):
            first = [name, method, f"{result['rows']:,}"] if not number else [None, None, None]
            rates = [attack[rate] for rate in ("attack_rate", "control_rate")]
            said = None if rates[0] is None else " / ".join("–" if r is None else f"{100 * r:.2f} %" for r in rates)
            yield [*first, attack["name"], *(_interval(attack[part]) for part in ("advantage", "exposed", "auc")), said]


def _interval(found: Mapping[str, float] | None) -> str | None:
    return None if found is None else f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _power_rows(results: Mapping[str, Result]) -> Iterator[Sequence[object]]:
    names = dict.fromkeys(key.split(":")[0] for key in results)
    for name in names:
        mine = {key: result for key, result in results.items() if key.startswith(f"{name}:") and "failed" not in result}
        rows = next((result["rows"] for result in mine.values()), 0)
        cells = []
        for share in _SHARES:
            tried = [result for key, result in mine.items() if key.split(":")[1] == f"{share:g}"]
            cells.append(f"{sum(bool(result['refused']) for result in tried)} of {len(tried)}")
        yield [name, f"{rows:,}", *cells]


if __name__ == "__main__":
    main()
