"""The folder of a run: completion records, the model, the table that is not yet accepted, the report.

    WORKSPACE/runs/<run_id>/
      spec.yaml  snapshot.json  train.json  sample.json  validate.json  evaluate.json  publish.json |
      refused.json model/  checkpoint/  table/  docs/  report/
      measured.json   of a method that is compared      comparison/   of the methods together

A step's outputs are written first and its record last, so a record that stands says that the outputs are whole.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tabvae_core import lake as store
from tabvae_core.errors import StorageError
from tabvae_core.spec import RefreshSpec

__all__ = ["Run", "code_version", "local_path", "run_id_of"]

R = TypeVar("R", bound=BaseModel)

_NOT_IN_RUN_ID = (("workspace",), ("sample", "shards"), ("source", "storage"), ("target", "storage"), ("scenarios",))
"""Parts of a spec that do not change the result."""


@cache
def code_version() -> str:
    """Version of tabvae; where it runs from source files that can change under one version, with their hash.

    `0.1.0` of an installed package, `0.1.0+source.1f3a...` of an editable install or a checkout.
    """
    package = Path(__file__).parent
    try:
        installed = metadata.distribution("tabvae")
    except metadata.PackageNotFoundError:
        return f"source.{_source_hash(package)}"
    if Path(str(installed.locate_file(package.name))).resolve() == package.resolve():
        return installed.version
    return f"{installed.version}+source.{_source_hash(package)}"


def _source_hash(package: Path) -> str:
    """Hash the library's source files: what a run's result depends on."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package).as_posix()}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def run_id_of(spec: RefreshSpec, fingerprint: str) -> str:
    """Name the run of a spec over a source: 16 hexadecimal digits, the same for the same source, spec and code."""
    settings = spec.model_dump(mode="json")
    for *parents, name in _NOT_IN_RUN_ID:
        part = settings
        for parent in parents:
            part = part[parent]
        del part[name]
    text = json.dumps([fingerprint, settings, code_version()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def local_path(uri: str) -> Path | None:
    """Path of a place on this machine's disks; None for one in an object store."""
    return Path(store.filesystem(uri)[1]) if store.is_local(uri) else None


class Run:
    """One run's folder in the workspace.

    Args:
        spec: The refresh.
        run_id: Names the folder.

    """

    def __init__(self, spec: RefreshSpec, run_id: str) -> None:
        self.run_id = run_id
        self.storage = spec.workspace.storage
        self.uri = store.join_uri(spec.workspace.uri, "runs", run_id)

    def place(self, *parts: str) -> str:
        """URI of something in the run's folder."""
        return store.join_uri(self.uri, *parts)

    def record(self, step: str, kind: type[R]) -> R | None:
        """Read a step's completion record; None where the step has not completed, or an older version wrote it."""
        data = self.read(step)
        try:
            return None if data is None else kind.model_validate(data)
        except ValidationError:
            return None

    def read(self, step: str) -> Any:
        """Read a record as plain JSON; None where it does not stand."""
        where = self.place(f"{step}.json")
        return store.read_json(where, self.storage) if store.exists(where, self.storage) else None

    def complete(self, step: str, reference: R) -> R:
        """Write a step's completion record, after all its outputs."""
        store.write_json(self.place(f"{step}.json"), reference.model_dump(mode="json"), self.storage)
        return reference

    def remove(self, name: str) -> None:
        """Remove a folder of the run."""
        store.remove_tree(self.place(name), self.storage)

    @contextmanager
    def checkpoint(self) -> Iterator[Path]:
        """Folder for training's checkpoints, which the next training of this run finds; it goes when all is done.

        On a local workspace it outlives a kill. In an object store it is kept when the training is interrupted or
        fails, such as by the signal that cancels it or takes its machine away; after a kill without warning it is not.
        """
        path = local_path(self.uri)
        if path is not None:
            yield path / "checkpoint"
        else:
            with tempfile.TemporaryDirectory(prefix="tabvae-") as folder:
                if store.list_folder(self.place("checkpoint"), self.storage):
                    store.copy_tree(self.place("checkpoint"), folder, source_storage=self.storage)
                try:
                    yield Path(folder)
                except BaseException:
                    with suppress(StorageError):  # what ended the training is what is to be told
                        self._keep(folder, "checkpoint")
                    raise
        self.remove("checkpoint")

    @contextmanager
    def output(self, name: str) -> Iterator[Path]:
        """Local folder whose files become the run's folder `name` when the block ends without an error."""
        with tempfile.TemporaryDirectory(prefix="tabvae-") as folder:
            yield Path(folder)
            self._keep(folder, name)

    def _keep(self, folder: str, name: str) -> None:
        """Make the files of a local folder the run's folder `name`."""
        self.remove(name)
        if store.list_folder(folder):
            store.copy_tree(folder, self.place(name), target_storage=self.storage)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A folder of the run as local files: in place on a local workspace, else a temporary copy."""
        path = local_path(self.place(name))
        if path is not None:
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="tabvae-") as folder:
            store.copy_tree(self.place(name), folder, source_storage=self.storage)
            yield Path(folder)
