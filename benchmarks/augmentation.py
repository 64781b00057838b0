"""Measure what synthetic rows of a rare class gain a classifier, beside SMOTE, on held-out real rows.

    python benchmarks/augmentation.py
    python benchmarks/augmentation.py --data tables 'bank_marketing:y=yes' 'adult:income=>50K@0.01'

A case is TABLE:COLUMN=VALUE, the class VALUE of a column of TABLE.parquet in the folder of --data; @SHARE thins the
class to so much of the table first. Without --data the table is 20,000 of the demo's customers. Each case
is one `tabvae augment` in a process of its own: one half is held out, the other learned with default options, and rows
of the class are drawn until it is --share of the training rows.

Each result is kept in docs/benchmarks/augmentation.json at once, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import CUSTOMERS, Failed, TookTooLong, measured
from page import Kept, comma_separated, parser_of, table, write_section
from worker import installed

from tabvae_core.evaluation.augmentation import of_class
from tabvae_core.workspace import code_version
from tabvae_flows.customers import customers

NAME = "augmentation"
_CUSTOMERS_ROWS = 20_000
_FITS = {"real": "real rows", "synthetic": "and synthetic rows", "smote": "and rows by SMOTE"}
_ABOUT = (
    "Boosted trees learn to tell a rare class from all others: from one random half of a table, from the same rows and"
    " synthetic ones of the class, and from the same rows and as many by SMOTE. All are tested on the other half, which"
    " is real. The figure is average precision; its gain has a 95 % interval by the bootstrap over the tested rows."
)


@dataclass(frozen=True)
class Case:
    """A class of a column, thinned to a share of its table where there is one."""

    table: str
    column: str
    value: str
    share: float | None

    @classmethod
    def of(cls, text: str) -> Case:
        """Read TABLE:COLUMN=VALUE[@SHARE].

        Raises:
            SystemExit: It is something else.

        """
        found = re.fullmatch(r"(?P<table>[^:]+):(?P<column>[^=]+)=(?P<value>.+?)(?:@(?P<share>0?\.\d+))?", text)
        if found is None:
            raise SystemExit(f"a case is TABLE:COLUMN=VALUE or TABLE:COLUMN=VALUE@SHARE, not {text!r}")
        return cls(found["table"], found["column"], found["value"], float(found["share"]) if found["share"] else None)

    def rows(self, data: Path | None, limit: int) -> pa.Table:
        """Read at most `limit` rows, and leave rows of the class out until it has its share."""
        if (data is None) != (self.table == CUSTOMERS):
            raise SystemExit(f"where is {self.table}.parquet? --data names the folder; without it, use {CUSTOMERS}")
        whole = customers(_CUSTOMERS_ROWS) if data is None else pq.read_table(data / f"{self.table}.parquet")
        rng = np.random.default_rng(0)
        chosen = whole.take(np.sort(rng.permutation(len(whole))[:limit]))
        if self.share is None:
            return chosen
        mine = of_class(chosen, self.column, self.value)
        kept = rng.permutation(np.flatnonzero(mine))[: round(self.share / (1 - self.share) * int((~mine).sum()))]
        return chosen.take(np.sort(np.concatenate([np.flatnonzero(~mine), kept])))


def main() -> None:
    given = _arguments()
    cases = given.cases or ([f"{CUSTOMERS}:segment=business"] if given.data is None else [])
    if not cases:
        raise SystemExit("name cases of the tables of --data, such as bank_marketing:y=yes")
    kept = Kept(given.out, NAME, {"limit": given.limit, "share": given.share, "threads": given.threads})
    kept.forget(comma_separated(given.again))
    for text in cases:
        case = Case.of(text)
        if text not in kept:
            _measure(kept, text, case, given)
    kept.need_some()
    write_section(given.out, NAME, _section(kept))


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="TABLE:COLUMN=VALUE or TABLE:COLUMN=VALUE@SHARE")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="Parquet files; left out: made-up customers")
    parser.add_argument("--limit", type=int, default=60_000, help="rows of a table used at most; %(default)s")
    parser.add_argument("--share", type=float, default=0.5, help="of the class in the training rows; %(default)s")
    return parser.parse_args()


def _measure(kept: Kept, key: str, case: Case, given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="tabvae-benchmark-") as folder:
        source, spec = Path(folder, "table.parquet"), Path(folder, "spec.yaml")
        rows = case.rows(given.data, given.limit)
        pq.write_table(rows, source)
        spec.write_text("gates: {holdout: 0.5}\n", encoding="utf-8")
        command = [sys.executable, "-m", "tabvae_flows.cli", "augment", str(source), str(Path(folder, "out.parquet"))]
        command += ["--column", case.column, "--value", case.value, "--share", str(given.share), "--spec", str(spec)]
        try:
            done = measured([*command, "--json"], threads=given.threads, max_minutes=given.max_minutes)
        except Failed as error:
            kept.keep_failure(key, error, stopped=isinstance(error, TookTooLong))
            return
    result = {
        "rows": rows.num_rows,
        "gain": json.loads(done.stdout)["gain"],
        "seconds": round(done.seconds),
        "peak_mib": done.peak_mib,
    }
    versions = {"tabvae": code_version(), **installed("torch", "scikit-learn", "imbalanced-learn")}
    kept.keep(key, result, versions)


def _section(kept: Kept) -> list[str]:
    heads = ["class", "trees learned", "rows", "of the class", "average precision", "gain", "95 % interval"]
    rows: list[list[object]] = []
    for key, result in kept.results.items():
        if "failed" in result:
            rows.append([f"{key}", result["failed"], *[None] * 5])
            continue
        rows += _rows(key, result["gain"])
    return ["## Augmentation", "", _ABOUT, "", *table(heads, rows), "", *kept.provenance()]


def _rows(key: str, gain: dict[str, Any]) -> list[list[object]]:
    tested = f"{key}; tested on {gain['holdout_rows']:,}, {gain['holdout_of_class']:,} of the class"
    rows: list[list[object]] = []
    for name, words in _FITS.items():
        if (fit := gain[name]) is None:
            continue
        change = [None, None]
        if fit["gain"] is not None:
            change = [f"{fit['gain']:+.3f}", f"{fit['low']:+.3f} to {fit['high']:+.3f}"]
        figures = [f"{fit['rows']:,}", f"{fit['of_class']:,}", f"{fit['average_precision']:.3f}"]
        rows.append([None if rows else tested, words, *figures, *change])
    return rows


if __name__ == "__main__":
    main()
