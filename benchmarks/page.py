"""The page of the benchmarks, `docs/benchmarks.md`, and the results it is written from.

Each benchmark owns what stands between two markers of the page; the rest is written by hand. Results are kept in
`docs/benchmarks/NAME.json` as they come, so that an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PAGE = Path("docs/benchmarks.md")


class Kept:
    """Results on disk, by key. One measured under other settings than the present ones counts as not measured.

    Args:
        page: The page; results and plots lie in the folder of its name beside it.
        benchmark: Name of the benchmark.
        settings: What results depend on beside their key.

    """

    def __init__(self, page: Path, benchmark: str, settings: Mapping[str, Any]) -> None:
        self.page, self.benchmark = page, benchmark
        self.folder = page.with_suffix("")
        self._settings = json.loads(json.dumps(settings))
        self._file = self.folder / f"{benchmark}.json"
        self._entries: dict[str, dict[str, Any]] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def __contains__(self, key: str) -> bool:
        """Whether a key need not be measured: it was, or took too long. What failed otherwise is tried again."""
        result = self.results.get(key)
        return result is not None and ("failed" not in result or result["stopped"])

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """Results under the present settings, failures among them."""
        return {key: entry["result"] for key, entry in self._entries.items() if entry["settings"] == self._settings}

    def need_some(self) -> None:
        """Leave the page as it is where nothing could be measured.

        Raises:
            SystemExit: Every measurement failed.

        """
        failures = [result["failed"] for result in self.results.values() if "failed" in result]
        if len(failures) == len(self.results):
            raise SystemExit(f"nothing was measured: {failures[0] if failures else 'there is nothing to measure'}")

    def keep(self, key: str, result: Mapping[str, Any], versions: Mapping[str, str]) -> None:
        """Add a result, on disk before this returns."""
        self._entries[key] = {
            "settings": self._settings,
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "versions": dict(versions),
            "result": dict(result),
        }
        self._write()
        print(key, json.dumps(result), flush=True)

    def keep_failure(self, key: str, error: Exception, *, stopped: bool) -> None:
        """Add that a measurement failed, or was stopped because it took too long."""
        self.keep(key, {"failed": str(error), "stopped": stopped}, {})

    def forget(self, words: Iterable[str]) -> None:
        """Drop results of which a part of the key is one of the words, so that they are measured again."""
        again = set(words)
        if again:
            self._entries = {key: entry for key, entry in self._entries.items() if again.isdisjoint(key.split(":"))}
            self._write()

    def provenance(self) -> list[str]:
        """Lines that say when, where and with what the results were measured, and by which command."""
        entries = [entry for entry in self._entries.values() if entry["settings"] == self._settings]
        dates = sorted({entry["date"] for entry in entries})
        versions: dict[str, set[str]] = {}
        for entry in entries:
            for package, version in entry["versions"].items():
                versions.setdefault(package, set()).add(version)
        packages = (f"{package} {' and '.join(sorted(found))}" for package, found in sorted(versions.items()))
        return [
            f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))} by",
            "",
            "```text",
            shlex.join(["python", *sys.argv]),
            "```",
            "",
            f"on {'; '.join(sorted({entry['machine'] for entry in entries}))}; threads of each process:"
            f" {self._settings['threads']}. Versions: {', '.join(packages)}.",
        ]

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(self._entries, indent=1) + "\n")
        os.replace(partial, self._file)


def write_section(page: Path, benchmark: str, lines: Sequence[str]) -> None:
    """Put lines between the markers of a benchmark; a page without them gets them at its end."""
    start, end = f"<!-- {benchmark}: written by benchmarks/{benchmark}.py -->", f"<!-- end of {benchmark} -->"
    section = "\n".join([start, "", *lines, "", end])
    text = page.read_text(encoding="utf-8") if page.exists() else "# Benchmarks\n"
    between = re.compile(re.escape(start) + ".*?" + re.escape(end), re.S)
    text = between.sub(lambda _: section, text) if between.search(text) else f"{text.rstrip()}\n\n{section}\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")
    print(f"wrote the section {benchmark} of {page}", flush=True)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lay out a table of Markdown; `None` is an empty cell."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = ("" if cell is None else str(cell).replace("|", "\\|") for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def image(page: Path, file: Path, about: str) -> list[str]:
    """Show a plot on the page."""
    return [f"![{about}]({file.relative_to(page.parent).as_posix()})", ""]


def parser_of(about: str) -> argparse.ArgumentParser:
    """Options of every benchmark."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of every process; all cores")
    parser.add_argument("--max-minutes", type=float, default=120, help="stop a process after as many; %(default)g")
    parser.add_argument("--again", default="", metavar="WORDS", help="measure anew what has one of these in its key")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page; %(default)s")
    return parser


def comma_separated(text: str) -> list[str]:
    """Read a list that was given as one option."""
    return [part.strip() for part in text.split(",") if part.strip()]


def machine() -> str:
    """Cores, processor, memory and graphics card of this machine, in words."""
    cores = os.cpu_count() or 1
    parts = [f"{cores} core{'' if cores == 1 else 's'} ({_processor()})", f"{_memory_gib():.0f} GiB"]
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        parts += subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")[:1]
    return ", ".join(part for part in parts if part)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
