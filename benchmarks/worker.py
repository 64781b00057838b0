"""The protocol of a measured process: learn a Parquet file with one method, write a sample, print one line of JSON.

`ours.py` and `peers.py` are such processes, so that each measurement has a memory of its own, and a peer the Python of
its own environment: nothing but the standard library is imported here.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True)
class Task:
    """What is learned, and within which limits.

    Args:
        method: Name of the method.
        train: The training rows, a Parquet file.
        threads: Threads to compute with.
        max_seconds: Seconds of training at most.
        scratch: Folder for files of the process, removed in the end.
        epsilon: Of differential privacy; none without one.
        delta: Likewise.

    """

    method: str
    train: Path
    threads: int
    max_seconds: float | None
    scratch: Path
    epsilon: float | None = None
    delta: float = 1e-5


@dataclass(frozen=True)
class Learned:
    """A model.

    Args:
        write: Draws rows and writes them to a Parquet file.
        rows_seen: Rows that training went through, over all epochs, where that is known.

    """

    write: Callable[[int, Path], None]
    rows_seen: int | None


Fit = Callable[[], Learned]
"""Learns. Everything before it, imports above all, is not timed."""


def run(methods: Mapping[str, Callable[[Task], Fit]], versions: Callable[[str], dict[str, str]], about: str) -> None:
    """Do what the command line says.

    Args:
        methods: What prepares each method.
        versions: Packages and versions that a method runs on.
        about: The script's docstring.

    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=list(methods))
    parser.add_argument("train", type=Path, help="training rows, a Parquet file")
    parser.add_argument("out", type=Path, help="Parquet file for the synthetic rows")
    parser.add_argument("--rows", type=int, required=True, help="rows to draw")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-seconds", type=float, help="seconds of training at most; left out: the method decides")
    parser.add_argument("--epsilon", type=float, help="learn with differential privacy")
    parser.add_argument("--delta", type=float, default=1e-5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tabvae-benchmark-") as scratch:
        task = Task(
            given.method, given.train, given.threads, given.max_seconds, Path(scratch), given.epsilon, given.delta
        )
        fit = methods[given.method](task)
        started = time.perf_counter()
        learned = fit()
        fitted = time.perf_counter()
        learned.write(given.rows, given.out)
        drawn = time.perf_counter()
    result = {
        "fit_seconds": round(fitted - started, 2),
        "sample_seconds": round(drawn - fitted, 3),
        "sample_rows": given.rows,
        "rows_seen": learned.rows_seen,
        "peak_mib": peak_mib(),
        "versions": {"python": platform.python_version(), **versions(given.method)},
    }
    print(json.dumps(result), flush=True)


def peak_mib() -> int:
    """Most resident memory that this process ever had.

    Where there is no `/proc`, the value of `getrusage` is used; on Linux that one starts at the memory of the process
    that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) // 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20


def installed(*packages: str) -> dict[str, str]:
    """Versions of packages of this environment."""
    return {name: metadata.version(name) for name in packages}
