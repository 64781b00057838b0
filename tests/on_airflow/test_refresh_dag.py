"""The refresh under a real Airflow: DAGs run by `dag.test()` against both kinds of object store.

make test-airflow        # in an environment of its own: Airflow and Prefect cannot share one
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tabvae_core.release import current, read_release, releases
from tabvae_core.spec import RefreshSpec

pytest.importorskip("airflow", reason="`make test-airflow` runs these where Airflow is installed")
pytestmark = pytest.mark.filterwarnings("default")

from airflow.models.asset import AssetEvent  # noqa: E402
from airflow.models.taskinstance import TaskInstance  # noqa: E402
from airflow.sdk import DAG  # noqa: E402
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred  # noqa: E402
from airflow.utils.session import create_session  # noqa: E402

from conftest import EVENTS, HOME, airflow  # noqa: E402
from tabvae_airflow.operators import TabvaeStepOperator, TabvaeTrainOperator  # noqa: E402
from tabvae_airflow.refresh import refresh_group, release_asset  # noqa: E402
from tabvae_airflow.triggers import TrainingTrigger  # noqa: E402

ONE_STORE = pytest.mark.parametrize("s3", ["moto"], indirect=True)
STEPS = ["snapshot", "up_to_date", "train", "sample", "validate", "evaluate", "publish"]


def run(dag: Any, **conf: Any) -> tuple[str, dict[str, str]]:
    """Run a DAG once; its state, and the states of its tasks."""
    airflow("dags", "reserialize")
    done = dag.test(run_conf=conf or None)
    return str(done.state), {ti.task_id.split(".")[-1]: str(ti.state) for ti in done.get_task_instances()}


def asset_events(uri: str) -> list[dict[str, Any]]:
    """Extras of an asset's events, oldest first."""
    with create_session() as session:
        events = session.query(AssetEvent).order_by(AssetEvent.id).all()
        return [event.extra for event in events if event.asset.uri == uri]


def example(spec_file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example DAG, over a spec."""
    monkeypatch.setenv("TABVAE_SPEC", str(spec_file))
    monkeypatch.syspath_prepend(str(HOME / "dags"))
    sys.modules.pop("tabvae_refresh_dag", None)
    return import_module("tabvae_refresh_dag")


def a_dag(name: str, spec: dict[str, Any], **arguments: Any) -> DAG:
    """A DAG of a refresh alone, in a file of the DAGs folder as Airflow wants it."""
    text = (
        "from airflow.sdk import DAG\nfrom tabvae_airflow.refresh import refresh_group\n"
        f"with DAG({name!r}, schedule=None) as dag:\n    refresh_group({spec!r}, **{arguments!r})\n"
    )
    file = HOME / "dags" / f"{name}.py"
    file.write_text(text, encoding="utf-8")
    sys.modules.pop(name, None)
    sys.path.insert(0, str(file.parent))
    try:
        dag: DAG = import_module(name).dag
    finally:
        sys.path.remove(str(file.parent))
    return dag


# ---------------------------------------------------------------- the loop


def test_the_example_dag_runs_the_loop(spec: dict[str, Any], spec_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refresh, target = example(spec_file, monkeypatch).refresh, RefreshSpec.model_validate(spec).target
    assert run(refresh) == ("success", dict.fromkeys(STEPS, "success"))
    first = current(target)
    assert first is not None
    assert read_release(target).num_rows == first.rows == 300
    said = [{"version": first.version, "uri": first.uri, "rows": 300}]
    assert [{key: extra[key] for key in said[0]} for extra in asset_events(target.uri)] == said

    # Nothing has changed: nothing is done, and who waits for the asset hears nothing.
    states = dict.fromkeys(STEPS, "skipped") | {"snapshot": "success"}
    assert run(refresh) == ("success", states)
    assert (len(releases(target)), len(asset_events(target.uri))) == (1, 1)

    # The parameter of the run form reaches the snapshot.
    assert run(refresh, force=True) == ("success", dict.fromkeys(STEPS, "success"))
    assert (len(releases(target)), len(asset_events(target.uri))) == (2, 2)


@ONE_STORE
def test_a_refused_table_fails_once_and_updates_no_asset(spec: dict[str, Any]) -> None:
    spec["gates"] |= {"max_auc": 0.5, "max_column_jsd": 0}
    target = RefreshSpec.model_validate(spec).target
    dag = a_dag("refused", spec, retries=3)
    state, states = run(dag)
    assert (state, states["evaluate"], states["publish"]) == ("failed", "success", "failed")
    assert current(target) is None
    assert asset_events(target.uri) == []
    with create_session() as session:
        tries = [
            ti.try_number for ti in session.query(TaskInstance).filter_by(dag_id="refused") if "publish" in ti.task_id
        ]
    assert tries == [1], "gates would refuse the same table again"


# ---------------------------------------------------------------- training elsewhere


@ONE_STORE
def test_a_trainer_elsewhere_trains_while_the_task_is_deferred(
    spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, target = tmp_path / "trainer.log", RefreshSpec.model_validate(spec).target
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    submit = ["sh", "-c", f"{{train}} > {log} 2>&1 &"]
    state, states = run(a_dag("elsewhere", spec, train={"submit": submit, "poll_seconds": 0.2}))
    assert (state, states) == ("success", dict.fromkeys(STEPS, "success"))
    assert re.search(r"^learned 2\d\d rows in", log.read_text(encoding="utf-8"), re.M)
    assert current(target) is not None


@ONE_STORE
def test_a_trainer_that_fails_is_quoted(spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec["rules"] = ["age > 60", "age < 20"]
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    pinned = TabvaeStepOperator(task_id="snapshot", step="snapshot", spec=spec).execute({})
    task = TabvaeTrainOperator(
        task_id="train", spec=spec, references={"snapshot": pinned}, submit=["sh", "-c", "{train}; true"]
    )
    with pytest.raises(TaskDeferred) as deferred:
        task.execute({})
    trigger = deferred.value.trigger
    path, arguments = trigger.serialize()
    assert path == "tabvae_airflow.triggers.TrainingTrigger"
    event = first_event(TrainingTrigger(**json.loads(json.dumps(arguments))))
    with pytest.raises(AirflowFailException, match="exclude each other"):
        task.trained({}, event)


@ONE_STORE
def test_a_command_that_fails_starts_no_waiting(spec: dict[str, Any]) -> None:
    pinned = TabvaeStepOperator(task_id="snapshot", step="snapshot", spec=spec).execute({})
    task = TabvaeTrainOperator(task_id="train", spec=spec, references={"snapshot": pinned}, submit=["false"])
    with pytest.raises(AirflowException, match="false ended with exit code 1: no trainer was started"):
        task.execute({})


def first_event(trigger: TrainingTrigger) -> Any:
    import asyncio

    async def wait() -> Any:
        return await anext(aiter(trigger.run()))

    return asyncio.run(wait()).payload


@ONE_STORE
def test_waiting_gives_up_on_a_store_that_does_not_answer(spec: dict[str, Any]) -> None:
    from s3_servers import refused_endpoint

    spec["workspace"]["storage"] |= {"endpoint_url": refused_endpoint()}
    event = first_event(TrainingTrigger(spec, "0d1f5a5e8c7b3a21", 0.01))
    task = TabvaeTrainOperator(task_id="train", spec=spec, references={"snapshot": {}}, train_timeout=timedelta(1))
    with pytest.raises(AirflowException, match="cannot be reached") as caught:
        task.trained({}, event)
    assert not isinstance(caught.value, AirflowFailException), "storage is worth another try"


# ---------------------------------------------------------------- what Airflow sees


def test_airflow_lists_the_provider() -> None:
    assert "tabvae" in airflow("providers", "list")


def test_a_dag_file_loads_nothing_heavy(tmp_path: Path) -> None:
    """The scheduler parses it all the time."""
    (tmp_path / "customers.yaml").write_text("source: {uri: a}\ntarget: {uri: s3://lake/b}\n", encoding="utf-8")
    script = (
        f"import sys; sys.path.insert(0, {str(HOME / 'dags')!r}); import tabvae_refresh_dag; "
        "print(*{'torch', 'pyarrow', 'pandas', 'great_expectations', 's3fs', 'prefect'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "TABVAE_SPEC": str(tmp_path / "customers.yaml")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""


@ONE_STORE
def test_openlineage_hears_of_the_release(spec: dict[str, Any]) -> None:
    state, _ = run(a_dag("lineage", spec))
    assert state == "success"
    events = [json.loads(line) for line in EVENTS.read_text(encoding="utf-8").splitlines()]
    ended = [e for e in events if e["eventType"] == "COMPLETE" and e["job"]["name"] == "lineage.refresh.publish"]
    version = current(RefreshSpec.model_validate(spec).target)
    assert version is not None
    (output,) = ended[-1]["outputs"]
    assert (output["namespace"], output["name"]) == (
        "s3://lake",
        "moto/test_openlineage_hears_of_the_release/synthetic",
    )
    assert output["facets"]["version"]["datasetVersion"] == version.version
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 300
    assert [(one["namespace"], one["name"]) for one in ended[-1]["inputs"]] == [
        ("s3://lake", "moto/test_openlineage_hears_of_the_release/customers")
    ]


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": "trian"}, "step must be one of snapshot, .*, however: 'trian'"),
        ({"step": "sample", "references": {"snapshot": {}}}, r"'sample' takes the references \(snapshot, model\)"),
    ],
)
def test_a_wrong_task_is_refused_where_the_dag_is_defined(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabvaeStepOperator(task_id="t", spec="refresh.yaml", **arguments)


def test_a_target_that_only_a_run_knows_needs_outlets_by_name() -> None:
    with pytest.raises(ValueError, match="must be known where the DAG is defined"):
        release_asset({"target": {"uri": "s3://lake/{{ ds }}"}})


def test_a_wrong_spec_fails_without_a_retry() -> None:
    task = TabvaeStepOperator(task_id="snapshot", step="snapshot", spec={"source": {"uri": "a"}, "modle": {}})
    with pytest.raises(AirflowFailException, match="modle is not a known key, did you mean 'model'"):
        task.execute({})


def test_the_group_is_the_loop() -> None:
    with DAG("shape", schedule=None) as dag:
        refresh_group({"target": {"uri": "s3://lake/x"}}, group_id="customers", train={"queue": "gpu"}, retries=2)
    assert [task.task_id for task in dag.topological_sort()] == [f"customers.{step}" for step in STEPS]
    train = dag.get_task("customers.train")
    assert (train.queue, train.retries) == ("gpu", 2)
    assert [asset.uri for asset in dag.get_task("customers.publish").outlets] == ["s3://lake/x"]
