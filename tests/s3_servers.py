"""Object stores for tests, both kinds that exist: one honours conditional writes, one ignores them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tabvae_core.spec import StorageSpec
from tabvae_flows.object_store import RcloneServer

REGION = "us-east-1"


@dataclass(frozen=True)
class Store:
    """A running S3 server; its keys stand in this process's environment as PREFIX_ACCESS_KEY_ID and so on."""

    name: str
    storage: StorageSpec
    conditional: bool
    """Whether it honours conditional writes."""

    def bucket_uri(self, name: str) -> str:
        """Make a bucket if it is missing, and return its URI."""
        from tabvae_core.storage import filesystem

        fs, path = filesystem(f"s3://{name}", self.storage)
        if not fs.exists(path):
            fs.call_s3("create_bucket", Bucket=path)
        return f"s3://{name}"


@contextmanager
def rclone_store(folder: Path) -> Iterator[Store]:
    """rclone's `serve s3`: real signatures, real files, no conditional writes."""
    with RcloneServer(folder, region=REGION) as server:
        os.environ.update(server.environment("TEST_RCLONE"))
        yield Store("rclone", server.storage("TEST_RCLONE"), conditional=False)


@contextmanager
def moto_store(log: Path) -> Iterator[Store]:
    """moto's server: conditional writes, and signatures checked once the first requests have made a user."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "3", "PYTHONWARNINGS": "ignore"}
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        _wait_for(port, server)
        key, secret = _make_user(endpoint)
        os.environ["TEST_MOTO_ACCESS_KEY_ID"], os.environ["TEST_MOTO_SECRET_ACCESS_KEY"] = key, secret
        storage = StorageSpec(endpoint_url=endpoint, region=REGION, credentials="env:TEST_MOTO")
        yield Store("moto", storage, conditional=True)
    finally:
        server.terminate()
        server.wait(timeout=20)


def refused_endpoint() -> str:
    """An address on this machine where nothing listens."""
    return f"http://127.0.0.1:{_free_port()}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, server: subprocess.Popen[bytes], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError("moto's server did not start")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("moto's server did not start in time")


def _make_user(endpoint: str) -> tuple[str, str]:
    from botocore.session import Session

    iam = Session().create_client(
        "iam",
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id="first",
        aws_secret_access_key="first",
    )
    try:
        iam.create_user(UserName="tabvae")
        key = iam.create_access_key(UserName="tabvae")["AccessKey"]
        allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy(UserName="tabvae", PolicyName="all", PolicyDocument=json.dumps(allow))
    finally:
        iam.close()
    return key["AccessKeyId"], key["SecretAccessKey"]
