"""Refresh sets: a folder of specs, run some at a time, each in a process of its own.

Training is bound by the processor, and a table that takes its process down must not take the others down: so each table
is one `tabvae refresh`, with its share of the machine's threads.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabvae_core.errors import SpecError

if TYPE_CHECKING:
    from tabvae_core.outcomes import Outcome
    from tabvae_core.spec import RefreshSpec

__all__ = ["Member", "load_set", "run_set", "threads_each"]

Member = tuple[str, Path, "RefreshSpec"]
"""Label in messages, file, spec."""


def load_set(folder: Path, settings: tuple[str, ...] = ()) -> list[Member]:
    """Read the specs of a folder: its `.yaml` and `.yml` files, by name.

    Args:
        folder: The folder; folders in it are not looked into.
        settings: `key=value` settings laid over each.

    Returns:
        A label for each, which is the table's name where these differ and the file's else, the file, and the spec.

    Raises:
        SpecError: There is no spec, one is wrong, or two have one target. Nothing has run then.

    """
    from tabvae_core.spec import load_spec

    if not folder.is_dir():
        raise SpecError(f"{folder} is no folder of specs", hint="name a folder that holds the YAML files of refreshes")
    files = sorted(file for file in folder.iterdir() if file.suffix in (".yaml", ".yml") and file.is_file())
    if not files:
        raise SpecError(f"{folder} holds no spec", hint="`tabvae init SOURCE -o FILE.yaml` writes one")
    specs, wrong = [], []
    for file in files:
        try:
            specs.append(load_spec(file, settings))
        except SpecError as error:
            wrong.append(error.message)
    if wrong:
        raise SpecError("; ".join(wrong), hint="nothing was run; `tabvae check SPEC` looks at one of them")
    _check_targets(files, specs)
    names = [spec.name for spec in specs]
    labels = names if len(set(names)) == len(names) else [file.stem for file in files]
    return list(zip(labels, files, specs, strict=True))


def _check_targets(files: Sequence[Path], specs: Sequence[RefreshSpec]) -> None:
    places = [_place(spec.target.uri) for spec in specs]
    shared = [place for place, count in Counter(places).items() if count > 1]
    if shared:
        names = [file.name for file, place in zip(files, places, strict=True) if place == shared[0]]
        raise SpecError(
            f"{', '.join(names)} have one target, {shared[0]}: the last to publish would be what readers get",
            hint="nothing was run; give each table a target.uri of its own",
        )


def _place(uri: str) -> str:
    from tabvae_core.storage import safe_uri

    return (os.path.realpath(uri) if "://" not in uri else safe_uri(uri)).rstrip("/")


def threads_each(parallel: int) -> int:
    """Threads for each of several processes side by side: its share of the cores."""
    return max(1, (os.cpu_count() or 1) // parallel)


def run_set(
    members: Sequence[Member], *, parallel: int, options: Sequence[str], say: Callable[[str], None]
) -> list[Outcome]:
    """Refresh several tables, some at a time. One that fails or is refused does not stop the others.

    Args:
        members: The tables.
        parallel: Refreshes that run at the same time.
        options: Further options of `tabvae refresh`.
        say: Told each line that a refresh writes, with the table's label before it.

    Returns:
        What became of each, in order.

    """
    running: set[subprocess.Popen[str]] = set()
    threads = str(threads_each(parallel))
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}

    def refresh(member: Member) -> Outcome:
        outcome = _run_one(member, options, environment, say, running)
        say(f"{outcome.table}: {outcome.outcome}, {outcome.detail}")
        return outcome

    with ThreadPoolExecutor(parallel) as pool:
        futures = [pool.submit(refresh, member) for member in members]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            for child in tuple(running):
                child.terminate()
            raise


def _run_one(
    member: Member,
    options: Sequence[str],
    environment: Mapping[str, str],
    say: Callable[[str], None],
    running: set[subprocess.Popen[str]],
) -> Outcome:
    label, file, _ = member
    command = [sys.executable, "-m", "tabvae_flows.cli", "refresh", str(file), "--json", *options]
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as answer:
        with subprocess.Popen(
            command, stdout=answer, stderr=subprocess.PIPE, text=True, errors="replace", env=dict(environment)
        ) as child:
            running.add(child)
            assert child.stderr is not None
            for line in child.stderr:
                say(f"{label}: {line.rstrip()}")
        running.discard(child)
        answer.seek(0)
        return _outcome(label, child.returncode, answer.read(), time.monotonic() - started)


def _outcome(label: str, code: int, answer: str, seconds: float) -> Outcome:
    """Read what `tabvae refresh --json` said; one that ended without a word was killed."""
    from tabvae_core.outcomes import failed, released
    from tabvae_core.references import ReleaseRef

    try:
        said: dict[str, Any] = json.loads(answer)
    except ValueError:
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return failed(label, f"its process was ended {how}", 1, seconds)
    if code == 0:
        return released(label, ReleaseRef.model_validate(said), seconds)
    return failed(label, said["error"]["message"], code, seconds)
