"""The steps of the container files, run without containers: what an image is built of, and that it starts.

Where there is a Docker daemon, `docker build` says more. Here each COPY and RUN is done in a folder that stands for the
image's root, with a virtual environment for its Python; what would change this machine's users is left out.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTAINERS = ROOT / "deployments" / "containers"
_PLACES = re.compile(r"(?<![\w./$-])/(wheels|tmp|source|data|home)\b")


class Image:
    """The stages of one container file, built one after the other."""

    def __init__(self, file: Path, root: Path) -> None:
        self.root, self.python = root, root / "python"
        self.command: list[str] = []
        self._environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        venv.create(self.python, with_pip=True)
        shims = root / "shims"
        shims.mkdir()
        for name, does in {"useradd": "exit 0", "install": 'for last; do :; done; mkdir -p "$last"'}.items():
            (shims / name).write_text(f"#!/bin/sh\n{does}\n", encoding="utf-8")
            (shims / name).chmod(0o755)
        paths = [str(self.python / "bin"), str(shims), self._environment["PATH"]]
        self._environment["PATH"] = os.pathsep.join(paths)
        self._folder = root
        text = re.sub(r"\\\n", " ", file.read_text(encoding="utf-8"))
        for line in (line for line in text.splitlines() if line and not line.startswith("#")):
            name, _, rest = line.partition(" ")
            getattr(self, f"_{name.lower()}")(rest)

    def _at(self, text: str) -> str:
        return _PLACES.sub(lambda found: f"{self.root}/{found[1]}", text)

    def _from(self, rest: str) -> None:
        assert re.fullmatch(r"python:3\.1[1-9]-slim( AS \w+)?", rest)

    def _arg(self, rest: str) -> None:
        name, _, value = rest.partition("=")
        self._environment[name] = value

    def _env(self, rest: str) -> None:
        self._environment |= dict(pair.split("=", 1) for pair in rest.split())

    def _user(self, rest: str) -> None:
        assert int(rest) > 0, "runs as root"

    def _workdir(self, rest: str) -> None:
        self._folder = Path(self._at(rest))
        self._folder.mkdir(parents=True, exist_ok=True)

    def _copy(self, rest: str) -> None:
        earlier = rest.startswith("--from=")
        *sources, target = [part for part in rest.split() if not part.startswith("--")]
        for source in sources:
            found = Path(self._at(source)) if earlier else ROOT / source
            to = self._folder / self._at(target)
            if found.is_dir():
                shutil.copytree(found, to, dirs_exist_ok=True)
            else:
                to = to / found.name if target.endswith("/") else to
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, to)

    def _run(self, rest: str) -> None:
        self._said(["sh", "-ec", self._at(rest)])

    def _cmd(self, rest: str) -> None:
        self.command = [part.strip(' "') for part in rest.strip("[]").split(",")]

    def _said(self, command: list[str], **more: str) -> str:
        done = subprocess.run(
            command, cwd=self._folder, env=self._environment | more, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def run(self, *command: str, **more: str) -> str:
        """Run a command of the image; what it printed."""
        return self._said([str(self.python / "bin" / command[0]), *command[1:]], **more)

    @contextmanager
    def server(self, **more: str) -> Iterator[str]:
        """Run Prefect's server of the image while the block runs; the address of its API."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        command = [str(self.python / "bin" / "prefect"), "server", "start", "--port", str(port)]
        with (self.root / "server.log").open("wb") as log:
            process = subprocess.Popen(command, env=self._environment | more, stdout=log, stderr=subprocess.STDOUT)
        url, deadline = f"http://127.0.0.1:{port}/api", time.monotonic() + 300
        try:
            while True:
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=2).close()
                    break
                except OSError:
                    assert process.poll() is None, (self.root / "server.log").read_text(errors="replace")[-2000:]
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_an_image_is_built_and_starts_a_worker(kind: str, tmp_path: Path) -> None:
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the images' Python is another one")
    image = Image(CONTAINERS / f"{kind}.Dockerfile", tmp_path)
    assert image.command[:5] == ["prefect", "worker", "start", "--pool", kind]
    home = {"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    assert "synthesize" in image.run("tabvae", "--help", **home)
    where = image.run("python", "-c", "import tabvae_flows.refresh as flows; print(flows.__file__)", **home)
    assert where.startswith(str(image.python)), "from the image, not from the repository"
    with image.server(**home) as url:
        assert "started!" in image.run(*image.command, "--run-once", PREFECT_API_URL=url, **home)
    assert not list((tmp_path / "tmp").iterdir()), "nothing of the build is left"
