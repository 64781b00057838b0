"""One operator a step. The work is in `tabvae_core`; here are templates, XComs, retries and assets.

Operators exchange the references of the core's steps as JSON, so no table passes through Airflow's database. What the
core needs is imported when a task runs: a DAG file is parsed often.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from tabvae_airflow.lineage import release_lineage
from tabvae_airflow.progress import TaskLog
from tabvae_airflow.triggers import TrainingTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context
    from pydantic import BaseModel

    from tabvae_core.errors import TabvaeError
    from tabvae_core.spec import RefreshSpec

__all__ = ["STEPS", "TabvaePublishOperator", "TabvaeStepOperator", "TabvaeTrainOperator", "TabvaeUpToDateOperator"]

STEPS: dict[str, tuple[str, ...]] = {
    "snapshot": (),
    "up_to_date": ("snapshot",),
    "train": ("snapshot",),
    "sample": ("snapshot", "model"),
    "validate": ("snapshot", "model", "table"),
    "evaluate": ("snapshot", "model", "table", "validation"),
    "publish": ("snapshot", "model", "table", "validation", "evaluation"),
}
"""The steps of the core, in order, and the references that each takes."""


class TabvaeStepOperator(BaseOperator):
    """Run one step of a refresh; its XCom is the step's reference as JSON.

    An error of tabvae's own fails the task without a retry, because a second try meets the same table, spec and gates;
    one of storage is retried as the task says.

    Args:
        step: Name of the step, a key of `STEPS`.
        spec: The refresh: path of a YAML file, or a mapping. Templated.
        settings: `key=value` settings on top of the spec, as `tabvae refresh --set` takes them. Templated.
        references: The references that the step takes, by their names in `STEPS`: outputs of other tasks.
        force: For the snapshot: publish a new version even where source and spec have not changed. Templated.

    """

    template_fields: Sequence[str] = ("spec", "settings", "references", "force")
    template_fields_renderers: ClassVar[dict[str, str]] = {"spec": "yaml", "references": "json"}
    ui_color = "#e3f1ee"

    def __init__(
        self,
        *,
        step: str,
        spec: str | os.PathLike[str] | Mapping[str, Any],
        settings: Sequence[str] = (),
        references: Mapping[str, Any] | None = None,
        force: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.step = step
        self.spec = spec
        self.settings = settings
        self.references = references or {}
        self.force = force
        if step not in STEPS:
            raise ValueError(f"step must be one of {', '.join(STEPS)}, however: {step!r}")
        if set(self.references) != set(STEPS[step]):
            named = ", ".join(self.references) or "none"
            raise ValueError(f"step {step!r} takes the references ({', '.join(STEPS[step])}), however: {named}")

    def execute(self, context: Context) -> Any:
        """Run the step.

        Raises:
            AirflowFailException: An error that a retry would meet again.
            AirflowException: Storage failed.

        """
        with _errors_of_airflow():
            return self.run_step(self.refresh_spec())

    def refresh_spec(self) -> RefreshSpec:
        """Read the rendered spec, with the settings on top."""
        from tabvae_core.dates import dated
        from tabvae_core.spec import apply_settings, parse_spec

        mapping = apply_settings(spec_mapping(self.spec), tuple(self.settings))
        return dated(parse_spec(mapping, where=f"spec of {self.task_id}"))

    def run_step(self, spec: RefreshSpec) -> Any:
        """Call the core's step; its reference as JSON, None where it returns none."""
        from tabvae_core import steps

        options: dict[str, Any] = {} if self.step == "up_to_date" else {"progress": TaskLog(self.log)}
        if self.step == "snapshot":
            options["force"] = str(self.force).lower() == "true"
        reference = getattr(steps, self.step)(spec, **self.inputs(), **options)
        return reference.model_dump(mode="json") if reference is not None else None

    def inputs(self) -> dict[str, Any]:
        """References as the core knows them."""
        from tabvae_core import references as refs

        kinds: dict[str, type[BaseModel]] = {
            "snapshot": refs.SnapshotRef,
            "model": refs.ModelRef,
            "table": refs.TableRef,
            "validation": refs.ValidationRef,
            "evaluation": refs.EvaluationRef,
        }
        return {name: kinds[name].model_validate(value) for name, value in self.references.items()}


class TabvaeUpToDateOperator(TabvaeStepOperator):
    """End a refresh that has nothing to do: skipped, with all after it, where source and spec led to a release already.

    The current release is then its XCom under the key "release".
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(step="up_to_date", **kwargs)

    def execute(self, context: Context) -> None:
        """Look for the release.

        Raises:
            AirflowSkipException: It stands, and stays.

        """
        current = super().execute(context)
        if current is not None:
            context["ti"].xcom_push(key="release", value=current)
            raise AirflowSkipException(f"unchanged: version {current['version']} stays")


class TabvaeTrainOperator(TabvaeStepOperator):
    """Train, here or elsewhere.

    Without `submit` the task trains by itself, on the worker that its queue, pool or executor gives it. With `submit`
    it starts a trainer elsewhere by that command, which must return at once, and defers: no worker slot is taken until
    the trainer has left its record in the run's folder.

    Args:
        submit: Command and arguments, run without a shell. `{train}` in an argument becomes the command line of the
            trainer, quoted for a shell, such as `tabvae train s3://lake/tabvae-workspace/runs/0d1f5a5e8c7b3a21`.
            Templated.
        poll_seconds: Time between looks for the record.
        train_timeout: Time after which the task fails, for a trainer that was killed leaves no record.

    """

    template_fields: Sequence[str] = (*TabvaeStepOperator.template_fields, "submit")

    def __init__(
        self,
        *,
        submit: Sequence[str] | None = None,
        poll_seconds: float = 30.0,
        train_timeout: timedelta = timedelta(hours=24),
        **kwargs: Any,
    ) -> None:
        super().__init__(step="train", **kwargs)
        self.submit = submit
        self.poll_seconds = poll_seconds
        self.train_timeout = train_timeout

    def run_step(self, spec: RefreshSpec) -> Any:
        """Take the last model where the policy says so, train here, or start the trainer and defer until it ends."""
        from tabvae_core import policy, remote
        from tabvae_core.references import ModelRef

        snapshot = self.inputs()["snapshot"]
        run_id = snapshot.run_id
        choice = policy.choose_model(spec, snapshot, progress=TaskLog(self.log))
        if choice.model is not None:
            self.log.info("the last model draws the new table: %s", choice.reason)
            return choice.model.model_dump(mode="json")
        if self.submit is None or isinstance(remote.outcome(spec, run_id), ModelRef):
            return super().run_step(spec)
        remote.forget_failure(spec, run_id)
        self._start(remote.command_of(spec, run_id))
        trigger = TrainingTrigger(spec.model_dump(mode="json", exclude_defaults=True), run_id, self.poll_seconds)
        self.defer(trigger=trigger, method_name="trained", timeout=self.train_timeout)
        return None

    def trained(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Take up the model that the trainer left, or its failure.

        Raises:
            AirflowFailException: An error that a retry would meet again.
            AirflowException: Storage failed there, or here.

        """
        from tabvae_core import remote
        from tabvae_core.errors import StorageError

        with _errors_of_airflow():
            if "storage" in event:
                raise StorageError(event["storage"])
            ended = remote.outcome(self.refresh_spec(), event["run_id"])
            if isinstance(ended, remote.TrainFailure):
                raise ended.error()
            if ended is None:
                raise StorageError("the record of the training is gone")
            return ended.model_dump(mode="json")

    def _start(self, command: Sequence[str]) -> None:
        import shlex

        line = shlex.join(command)
        arguments = [part.replace("{train}", line) for part in self.submit or ()]
        self.log.info("starting the trainer: %s", shlex.join(arguments))
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        self.log.info("%s", done.stdout.decode(errors="replace").strip() or "(no output)")
        if done.returncode:
            raise AirflowException(f"{arguments[0]} ended with exit code {done.returncode}: no trainer was started")


class TabvaePublishOperator(TabvaeStepOperator):
    """Publish, or quarantine what a gate refused.

    Assets among its `outlets` are updated when a version was published, and only then; each event's extra says which:
    version, uri, rows, report_uri, run_id.
    """

    ui_color = "#bfe0d8"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(step="publish", **kwargs)
        self.release: dict[str, Any] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Publish, and tell the assets of it.

        Raises:
            AirflowFailException: A gate refused the table, or another writer published first.
            AirflowException: Storage failed.

        """
        release: dict[str, Any] = super().execute(context)
        said = {name: release[name] for name in ("version", "uri", "rows", "report_uri", "run_id")}
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = said
        self.release = release
        return release

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Tell OpenLineage that the release was made from the source; None where its provider is not installed."""
        return None if self.release is None else release_lineage(self.refresh_spec(), self.release)


def spec_mapping(spec: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Read a spec's mapping from where an operator has it: a file, or the mapping itself.

    Raises:
        SpecError: The file is missing or is not YAML.

    """
    from tabvae_core.spec import read_mapping

    return dict(spec) if isinstance(spec, Mapping) else read_mapping(os.fspath(spec))


@contextmanager
def _errors_of_airflow() -> Iterator[None]:
    """Turn errors of ours into those that Airflow knows: only storage is worth another try."""
    from tabvae_core.errors import TabvaeError

    try:
        yield
    except TabvaeError as error:
        _raise(error)


def _raise(error: TabvaeError) -> NoReturn:
    from tabvae_core.errors import GateRefused, StorageError

    kind = AirflowException if isinstance(error, StorageError) else AirflowFailException
    prefix = "refused: " if isinstance(error, GateRefused) else ""
    raise kind(f"{prefix}{error}") from error
