"""A PostgreSQL server for tests: a real one, in a folder of its own, with a password."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PASSWORD", "PostgreSQL", "postgresql_binaries", "postgresql_server"]

PASSWORD = "secret-of-the-tests"


@dataclass(frozen=True)
class PostgreSQL:
    """A running server; PGPASSWORD of this process's environment opens it."""

    port: int

    @property
    def url(self) -> str:
        """Address of the database, without password."""
        return f"postgresql://tester@127.0.0.1:{self.port}/postgres"


def postgresql_binaries() -> Path | None:
    """Find the folder of initdb and pg_ctl; None where PostgreSQL is not installed."""
    named = shutil.which("initdb")
    found = [named] if named else sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    return Path(found[-1]).resolve().parent if found else None


@contextmanager
def postgresql_server(binaries: Path) -> Iterator[PostgreSQL]:
    """Run a server while the block runs."""
    folder = Path(tempfile.mkdtemp(prefix="tabvae-postgresql-"))
    # A server refuses to run as root, and its user must own the folder.
    user = _other_user() if os.geteuid() == 0 else None
    try:
        (folder / "password").write_text(PASSWORD, encoding="utf-8")
        if user is not None:
            for path in (folder, folder / "password"):
                os.chown(path, user.pw_uid, user.pw_gid)
        data, port = folder / "data", _free_port()
        secure = ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync", "--encoding=UTF8"]
        _run([binaries / "initdb", "-D", data, "-U", "tester", *secure], folder, user)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        start = [binaries / "pg_ctl", "-D", data, "-l", folder / "log", "-o", options, "-w", "-t", "120"]
        _run([*start, "start"], folder, user)
        os.environ["PGPASSWORD"] = PASSWORD
        try:
            yield PostgreSQL(port)
        finally:
            del os.environ["PGPASSWORD"]
            _run([binaries / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"], folder, user)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _other_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("root cannot run PostgreSQL, and there is no user to run it as")


def _run(command: list[str | Path], folder: Path, user: pwd.struct_passwd | None) -> None:
    identity = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    log = folder / "output"
    with log.open("ab") as output:
        done = subprocess.run(
            [str(part) for part in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            check=False,
            **identity,
        )
    assert done.returncode == 0, log.read_text(encoding="utf-8", errors="replace")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
