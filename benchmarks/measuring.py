"""What the benchmarks share: halves of a table, methods in processes of their own, figures of their samples."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from peers import PACKAGES

from tabvae_core.errors import TabvaeError
from tabvae_core.local import evaluate_tables
from tabvae_core.synthesizers.registry import methods as our_methods
from tabvae_flows.customers import customers

HERE = Path(__file__).parent
CUSTOMERS = "customers"
_CUSTOMERS_ROWS = 20_000
_LOOK_SECONDS = 0.2

Figures = dict[str, dict[str, float | None]]
"""Value and floor of each figure."""


@dataclass(frozen=True)
class Halves:
    """One random half of a table to learn, the other to measure with, as Parquet files.

    Args:
        table: Name of the table.
        train: The rows that are learned.
        holdout: The other ones.
        rows: Rows of each half.
        columns: Columns.

    """

    table: str
    train: Path
    holdout: Path
    rows: int
    columns: int


@contextmanager
def halves(data: Path | None, table: str, limit: int) -> Iterator[Halves]:
    """Split at most `limit` rows of TABLE.parquet into two halves, in a folder that is removed afterwards.

    Args:
        data: Folder of the tables; none: the table is the demo's customers.
        table: Name of the table.
        limit: Rows used at most.

    """
    whole = customers(_CUSTOMERS_ROWS) if data is None else pq.read_table(data / f"{table}.parquet")
    order = np.random.default_rng(0).permutation(len(whole))[:limit]
    half = len(order) // 2
    with tempfile.TemporaryDirectory(prefix="tabvae-benchmark-") as folder:
        train, holdout = Path(folder, "train.parquet"), Path(folder, "holdout.parquet")
        pq.write_table(whole.take(order[:half]), train)
        pq.write_table(whole.take(order[half : 2 * half]), holdout)
        columns = whole.num_columns
        del whole
        yield Halves(table, train, holdout, half, columns)


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which tables are halved, what learns them, and what measures the samples."""
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="names of files in the folder of --data; all")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="Parquet files; left out: made-up customers")
    parser.add_argument("--limit", type=int, default=60_000, help="rows of a table used at most; %(default)s")
    parser.add_argument("--methods", default="vae,vae_basic", help="separated by commas; %(default)s")
    parser.add_argument("--peers-python", type=Path, action="append", default=[], metavar="PATH", help="repeatable")
    parser.add_argument("--referee", type=Path, metavar="FOLDER", help="folder of score.py; left out: tabvae evaluate")


def tables_of(data: Path | None, named: Sequence[str]) -> list[str]:
    """Names of the tables to measure: those named, else all of the folder.

    Raises:
        SystemExit: A table is not there, or its folder was not given.

    """
    if data is None:
        if named:
            raise SystemExit(f"where is {named[0]}.parquet? --data names the folder")
        return [CUSTOMERS]
    names = list(named) or sorted(path.stem for path in data.glob("*.parquet"))
    missing = [name for name in names if not (data / f"{name}.parquet").exists()]
    if missing or not names:
        raise SystemExit(f"{data} holds no {', '.join(f'{name}.parquet' for name in missing) or 'Parquet files'}")
    return names


# Processes ----------------------------------------------------------------------------------------------------------


class Failed(Exception):
    """A process that failed; the message is for the page."""


class TookTooLong(Failed):
    """A process that was stopped."""


@dataclass(frozen=True)
class Measured:
    """A process that has ended well.

    Args:
        stdout: What it printed.
        seconds: Wall-clock time from start to end.
        peak_mib: Most memory of it and its children.

    """

    stdout: str
    seconds: float
    peak_mib: int


def measured(command: Sequence[str], *, threads: int, max_minutes: float | None = None) -> Measured:
    """Run a command with a number of threads and watch its memory.

    Raises:
        Failed: It did not end well.
        TookTooLong: It did not end in time.

    """
    signal.signal(signal.SIGTERM, _leave)
    with tempfile.TemporaryDirectory(prefix="tabvae-benchmark-") as scratch:
        out, err = Path(scratch, "stdout"), Path(scratch, "stderr")
        environment = _environment(threads) | {"TMPDIR": scratch}  # what a stopped process leaves is removed as well
        started = time.monotonic()
        with out.open("w") as stdout, err.open("w") as stderr:
            process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment, start_new_session=True)
        try:
            peak = _watch(process, None if max_minutes is None else started + 60 * max_minutes)
        except TimeoutError:
            raise TookTooLong(f"stopped after {max_minutes:g} minutes") from None
        finally:
            _end(process)
        if process.returncode:
            raise Failed(f"ended with {process.returncode}: {_reason(err.read_text(errors='replace'))}")
        return Measured(out.read_text(), time.monotonic() - started, peak)


def _reason(stderr: str) -> str:
    """What went wrong: the last line of a traceback, or of an error of the command line before its hint."""
    lines = [line for line in map(str.strip, stderr.splitlines()) if line and not line.startswith("hint:")]
    return lines[-1][:300] if lines else "without a word"


def _leave(number: int, frame: object) -> NoReturn:
    """End as by an exception when told to end, so that no measured process goes on alone."""
    raise SystemExit(128 + number)


def _environment(threads: int) -> dict[str, str]:
    count = str(threads)
    limits = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LOKY_MAX_CPU_COUNT"), count
    )  # fmt: skip
    silent = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **limits, **silent}


def _watch(process: subprocess.Popen[bytes], deadline: float | None) -> int:
    peak = 0
    while process.poll() is None:
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError
        peak = max(peak, _tree_kib(process.pid))
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_SECONDS)
    return peak // 1024


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave no child behind, whatever happened."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tree_kib(pid: int) -> int:
    """Memory of a process and its children, in KiB; 0 where there is no `/proc`.

    Of a single process the kernel keeps the peak; with children, shared pages are to be counted once, and only the
    present is known.
    """
    try:
        highest = _kib(Path(f"/proc/{pid}/status"), "VmHWM")
        family = _family(pid)
        return highest if len(family) == 1 else max(highest, sum(_share_kib(one) for one in family))
    except (OSError, StopIteration):
        return 0


def _family(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        for listed in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += [int(child) for child in listed.read_text().split()]
            except OSError:
                continue
    return found


def _share_kib(pid: int) -> int:
    try:
        return _kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss")
    except (OSError, StopIteration):
        return 0


def _kib(file: Path, name: str) -> int:
    return int(next(line for line in file.read_text().splitlines() if line.startswith(f"{name}:")).split()[1])


# Methods ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runner:
    """Learns and draws in a process of its own.

    Args:
        threads: Threads of every process.
        max_minutes: Minutes after which a process is stopped.
        pythons: Python of each peer.

    """

    threads: int
    max_minutes: float
    pythons: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, methods: Sequence[str], peers: Sequence[Path], threads: int, max_minutes: float) -> Runner:
        """Find the Python of every peer, before hours of measuring.

        Raises:
            SystemExit: A method is unknown, or a peer is installed nowhere.

        """
        pythons = {}
        for method in methods:
            if method in PACKAGES:
                pythons[method] = _python_with(PACKAGES[method], peers)
            elif method not in our_methods():
                raise SystemExit(f"there is no method {method!r}; methods: {', '.join((*our_methods(), *PACKAGES))}")
        return cls(threads, max_minutes, pythons)

    def learn(
        self,
        method: str,
        train: Path,
        out: Path,
        rows: int,
        *,
        max_seconds: float | None = None,
        epsilon: float | None = None,
    ) -> dict[str, Any]:
        """Learn a table, privately where `epsilon` is given, write a sample, and return what `worker.py` describes.

        Raises:
            Failed: The process did not end well.
            TookTooLong: It did not end in time.

        """
        script = "peers.py" if method in self.pythons else "ours.py"
        command = [str(self.pythons.get(method, sys.executable)), str(HERE / script), method, str(train), str(out)]
        command += ["--rows", str(rows), "--threads", str(self.threads)]
        if max_seconds is not None:
            command += ["--max-seconds", str(max_seconds)]
        if epsilon is not None:
            command += ["--epsilon", str(epsilon)]
        done = measured(command, threads=self.threads, max_minutes=self.max_minutes)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return {**result, "peak_mib": max(result["peak_mib"], done.peak_mib)}


def _python_with(package: str, pythons: Sequence[Path]) -> Path:
    question = f"from importlib.metadata import version; version({package!r})"
    for python in pythons:
        if subprocess.run([python, "-c", question], capture_output=True, check=False).returncode == 0:
            return python
    where = f"in {', '.join(map(str, pythons))}" if pythons else "because no --peers-python was given"
    raise SystemExit(f"{package} was not found {where}; benchmarks/peers.py says how to install it")


# Figures ------------------------------------------------------------------------------------------------------------


class Judge:
    """Measures a sample against the half that was not learned.

    Args:
        referee: Folder of a `score.py` whose function `score` measures, and maybe of a `trial.py` that names columns to
            predict (`TARGETS`) and to ignore (`IGNORE`). None: the figures of `tabvae evaluate`.
        targets: Columns to predict, by table; they come before the referee's.

    """

    def __init__(self, referee: Path | None, targets: Mapping[str, str]) -> None:
        self.name = "tabvae evaluate" if referee is None else "score.py"
        self._score: Any = None
        self._targets = dict(targets)
        self._ignored: Mapping[str, Sequence[str]] = {}
        if referee is not None:
            self._score = _module(referee / "score.py").score
            if (referee / "trial.py").exists():
                trial = _module(referee / "trial.py")
                self._targets = {**getattr(trial, "TARGETS", {}), **targets}
                self._ignored = getattr(trial, "IGNORE", {})

    def figures(self, half: Halves, synthetic: Path) -> tuple[Figures, list[str] | None]:
        """Figures of a sample with their floors, and what is wrong with its schema where the judge looks at that.

        Raises:
            Failed: The sample has columns or types that do not compare.

        """
        try:
            target = self._targets.get(half.table)
            return _evaluated(half, synthetic, target) if self._score is None else self._scored(half, synthetic, target)
        except (TabvaeError, KeyError, TypeError, ValueError) as error:
            raise Failed(f"sample does not compare: {error}") from error

    def _scored(self, half: Halves, synthetic: Path, target: str | None) -> tuple[Figures, list[str] | None]:
        tables = (pd.read_parquet(path) for path in (half.train, half.holdout, synthetic))
        scored = self._score(*tables, target, self._ignored.get(half.table, ()))
        return {name: value for name, value in scored.items() if name != "schema"}, scored.get("schema")


def _evaluated(half: Halves, synthetic: Path, target: str | None) -> tuple[Figures, None]:
    result = evaluate_tables(str(half.train), str(synthetic), holdout=str(half.holdout), target_column=target)
    return {name: {"value": metric.value, "floor": metric.floor} for name, metric in result.metrics.items()}, None


def _module(file: Path) -> ModuleType:
    """Import a file by its path.

    Raises:
        SystemExit: There is no such file, or this Python lacks what it imports.

    """
    spec = spec_from_file_location(file.stem, file)
    if not file.exists() or spec is None or spec.loader is None:
        raise SystemExit(f"{file} does not exist; --referee names the folder of score.py")
    module = module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise SystemExit(f"{file} needs {error.name}, which {sys.executable} lacks: pip install {error.name}") from None
    return module


def head(file: Path, rows: int) -> None:
    """Keep the first rows of a Parquet file."""
    pq.write_table(pq.read_table(file).slice(0, rows), file)
