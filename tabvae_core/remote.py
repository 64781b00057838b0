"""Training where the GPU is: another process or machine trains a run that was begun here, and both meet in its folder.

    here      snapshot ─► runs/<run_id>/ ... command_of() is started somewhere ... outcome() looks for a record
    there     open_run() ─► train_run() ─► runs/<run_id>/ train.json, or train-failed.json

Nothing but the workspace is shared: no queue, no port. `tabvae train RUN` is the command of the other side.
"""

from __future__ import annotations

import yaml
from pydantic import BaseModel, ConfigDict

from tabvae_core import errors, steps
from tabvae_core import lake as store
from tabvae_core.errors import DataError, TabvaeError
from tabvae_core.progress import Progress, silent
from tabvae_core.references import ModelRef, SnapshotRef
from tabvae_core.spec import RefreshSpec, StorageSpec, WorkspaceSpec, parse_spec
from tabvae_core.workspace import Run

__all__ = ["TrainFailure", "command_of", "forget_failure", "open_run", "outcome", "train_run"]

_FAILED = "train-failed"


class TrainFailure(BaseModel):
    """Why a training ended without a model; the record of the other outcome."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    """Name of the error's class."""
    message: str
    hint: str = ""

    def error(self) -> TabvaeError:
        """Make the error that the trainer met, of its own class where that is one of ours."""
        name = "SpecError" if self.kind == "ImpossibleRule" else self.kind  # its rule stands in the message
        kind: type[TabvaeError] = getattr(errors, name) if name in errors.__all__ else TabvaeError
        return kind(self.message, hint=self.hint)


def command_of(spec: RefreshSpec, run_id: str) -> tuple[str, ...]:
    """Arguments of the command that trains a run, on any machine that has tabvae and reaches source and workspace."""
    run, storage = Run(spec, run_id), spec.workspace.storage
    uri = store.filesystem(run.uri)[1] if store.is_local(run.uri) else run.uri
    usual = StorageSpec()
    options = [
        ("--endpoint-url", storage.endpoint_url, usual.endpoint_url),
        ("--region", storage.region, usual.region),
        ("--credentials", storage.credentials, usual.credentials),
    ]
    chosen = [part for name, value, default in options if value and value != default for part in (name, value)]
    return ("tabvae", "train", uri, *chosen)


def open_run(uri: str, storage: StorageSpec | None = None) -> tuple[RefreshSpec, SnapshotRef]:
    """Read spec and snapshot of a run from its folder in a workspace.

    Args:
        uri: The folder: WORKSPACE/runs/<run_id>.
        storage: Access to it from this machine, which takes the place of what the spec says.

    Raises:
        DataError: No run was begun there.
        StorageError: It cannot be read.

    """
    uri = uri.rstrip("/")
    workspace, _, run_id = uri.rpartition("/runs/")
    here, spec_file = storage or StorageSpec(), store.join_uri(uri, "spec.yaml")
    if not workspace or not store.exists(spec_file, here):
        raise DataError(
            f"{store.safe_uri(uri)} is no run of a refresh",
            hint="name the folder WORKSPACE/runs/RUN_ID that its snapshot made",
        )
    spec = parse_spec(yaml.safe_load(store.read_bytes(spec_file, here)), where=f"spec of run {run_id}")
    spec = spec.model_copy(update={"workspace": WorkspaceSpec(uri=workspace, storage=here)})
    snapshot = Run(spec, run_id).record("snapshot", SnapshotRef)
    if snapshot is None:
        raise DataError(f"run {run_id} has no snapshot", hint="its snapshot comes first, and then the training")
    return spec, snapshot


def train_run(spec: RefreshSpec, snapshot: SnapshotRef, *, progress: Progress = silent) -> ModelRef:
    """Train a run, and leave a record whichever way that ends.

    Raises:
        SpecError: Another version of tabvae began the run.
        DataError: See `steps.train`.
        TabvaeError: See `steps.train`.

    """
    run = Run(spec, snapshot.run_id)
    try:
        steps.check_begun_alike(spec, snapshot)
        return steps.train(spec, snapshot, progress=progress)
    except BaseException as error:  # an interrupted training too: the one who waits must hear of it
        run.complete(_FAILED, _failure_of(error))
        raise


def outcome(spec: RefreshSpec, run_id: str) -> ModelRef | TrainFailure | None:
    """Look how the training of a run ended; None: it has not."""
    run = Run(spec, run_id)
    return run.record("train", ModelRef) or run.record(_FAILED, TrainFailure)


def forget_failure(spec: RefreshSpec, run_id: str) -> None:
    """Remove the record of a failure, before the next try."""
    run = Run(spec, run_id)
    store.remove_file(run.place(f"{_FAILED}.json"), run.storage)


def _failure_of(error: BaseException) -> TrainFailure:
    """Foreign errors are named only: their text could quote cells of real data."""
    if isinstance(error, TabvaeError):
        return TrainFailure(kind=type(error).__name__, message=error.message, hint=error.hint)
    return TrainFailure(
        kind=type(error).__name__,
        message=f"training ended by {type(error).__name__}",
        hint="the trainer's own log says more",
    )
