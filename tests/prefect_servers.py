"""A Prefect server and its workers for tests, as processes of their own: what one machine of a data platform runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

ROOT = Path(__file__).parents[1]
POOLS = ("cpu", "gpu")
_PATIENCE_SECONDS = 600.0
"""Ten seconds are enough on an idle machine, not on one that is busy with much else."""


@dataclass(frozen=True)
class PrefectStack:
    """A running server with one process worker for each pool of `POOLS`; logs of all three stand in `home`."""

    api_url: str
    home: Path
    database: str | None = None
    """URL of the server's own database; None: SQLite in `home`."""

    @property
    def ui_url(self) -> str:
        """Where the server's UI is."""
        return self.api_url.removesuffix("/api")

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a process that talks to the server, and that runs the code beside these tests."""
        kept = {} if self.database is None else {"PREFECT_API_DATABASE_CONNECTION_URL": self.database}
        return _environment(self.api_url, self.home) | kept

    def log(self, name: str) -> str:
        """What the server, or the worker of a pool, has said so far."""
        return (self.home / f"{name}.log").read_text(errors="replace")

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let this process talk to the server inside the block."""
        with temporary_settings({PREFECT_API_URL: self.api_url, PREFECT_HOME: self.home}):
            yield


@contextmanager
def prefect_server_and_workers(home: Path, database: str | None = None) -> Iterator[PrefectStack]:
    """Start all of it in an empty folder; end it, and what the workers started, with the block."""
    port = _free_port()
    stack = PrefectStack(f"http://127.0.0.1:{port}/api", home, database)
    with ExitStack() as processes:
        server = processes.enter_context(_prefect(stack, "server", "server", "start", "--port", str(port)))
        _wait_for(f"{stack.api_url}/health", server, stack, "server")
        for pool in POOLS:
            worker = ("worker", "start", "--pool", pool, "--type", "process", "--name", f"{pool}-worker")
            processes.enter_context(_prefect(stack, pool, *worker))
        _wait_for_workers(stack)
        yield stack


def _environment(api_url: str, home: Path) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "flows"), str(ROOT / "tasks"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONWARNINGS": "ignore",
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api_url,
        # The UI runs in a browser: told nothing it looks for its API on the default port.
        "PREFECT_SERVER_UI_API_URL": api_url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
        # A busy machine: SQLite's lock is waited for, and a request tried again, for longer than by default.
        "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        "PREFECT_CLIENT_MAX_RETRIES": "10",
        # Log lines in the API soon enough for a test that waits for one.
        "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "1",
    }


@contextmanager
def _prefect(stack: PrefectStack, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with (stack.home / f"{name}.log").open("wb") as log:
        command = [sys.executable, "-m", "prefect", *arguments]
        process = subprocess.Popen(
            command, env=stack.environment, cwd=stack.home, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        # The whole group: flow runs are children of their worker, and outlive it when it is killed alone.
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sign)
                process.wait(timeout=30)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def _wait_for(url: str, process: subprocess.Popen[bytes], stack: PrefectStack, name: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"Prefect's {name} did not start:\n{stack.log(name)[-2000:]}")


def _wait_for_workers(stack: PrefectStack) -> None:
    """A run that is submitted before its worker has said hello waits for it; a test that counts seconds must not."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    waiting = set(POOLS)
    while waiting and time.monotonic() < deadline:
        waiting = {pool for pool in waiting if "started!" not in stack.log(pool)}
        time.sleep(0.2)
    if waiting:
        raise RuntimeError(f"no worker in {waiting}:\n" + "\n".join(stack.log(pool)[-2000:] for pool in waiting))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
