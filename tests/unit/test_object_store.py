from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request

import pytest

from tabvae_core import storage as store
from tabvae_core.errors import SpecError
from tabvae_flows import object_store
from tabvae_flows.object_store import RcloneServer


def answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(endpoint, timeout=2).close()
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False
    return True


def test_objects_are_files_and_stay(tmp_path, monkeypatch):
    with RcloneServer(tmp_path / "store") as server:
        for name, value in server.environment("OBJECT_STORE").items():
            monkeypatch.setenv(name, value)
        bucket = server.bucket("lake")
        store.write_bytes(f"{bucket}/a/b.txt", b"hello", server.storage("OBJECT_STORE"))
        assert store.read_bytes(f"{bucket}/a/b.txt", server.storage("OBJECT_STORE")) == b"hello"
        endpoint = server.endpoint_url
    assert not answers(endpoint)
    assert (tmp_path / "store/lake/a/b.txt").read_bytes() == b"hello"


def test_it_ends_with_its_parent_however_that_dies(tmp_path):
    code = """
        import os, signal, sys
        from tabvae_flows.object_store import RcloneServer
        server = RcloneServer(sys.argv[1])
        server.start()
        print(server.endpoint_url, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    parent = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert parent.returncode == -signal.SIGKILL
    endpoint = parent.stdout.strip()
    assert endpoint.startswith("http://127.0.0.1:")
    deadline = time.monotonic() + 10
    while answers(endpoint) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not answers(endpoint)


def test_keys_stay_off_the_command_line(tmp_path):
    with RcloneServer(tmp_path) as server:
        listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert "serve s3" in listing
        assert server.secret_access_key not in listing


def test_without_rclone(tmp_path, monkeypatch):
    monkeypatch.setattr(object_store.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SpecError, match="rclone is not installed"):
        RcloneServer(tmp_path / "store").start()
