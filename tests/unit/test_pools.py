"""The work-pool templates, container files and the composed set-up of `deployments/`, by the validators there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.server.schemas.actions import WorkPoolCreate
from prefect.utilities.templating import apply_values, find_placeholders
from prefect.workers.process import ProcessJobConfiguration

from tabvae_core.spec import parse_spec

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = ROOT / "deployments"
TYPES = ("docker", "kubernetes", "process")
JOB = {"name": "run-1", "env": [{"name": "A", "value": "b"}], "labels": {"app": "tabvae"}, "command": ["prefect"]}


def template(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOYMENTS / "pools" / f"{kind}.json").read_text(encoding="utf-8"))
    return found


def rendered(kind: str, **values: Any) -> dict[str, Any]:
    """A job as a worker would start it: the template's defaults, and a deployment's job variables over them."""
    variables = template(kind)["variables"]["properties"]
    defaults = {name: variable["default"] for name, variable in variables.items() if "default" in variable}
    filled: dict[str, Any] = apply_values(template(kind)["job_configuration"], defaults | JOB | values)
    return filled


def test_there_is_a_template_of_each_type() -> None:
    assert sorted(path.stem for path in (DEPLOYMENTS / "pools").iterdir()) == list(TYPES)


@pytest.mark.parametrize("kind", TYPES)
def test_the_server_takes_the_template_and_every_variable_is_used(kind: str) -> None:
    found = template(kind)
    WorkPoolCreate(name="pool", type=kind, base_job_template=found)
    used = {placeholder.name for placeholder in find_placeholders(found["job_configuration"])}
    assert used == set(found["variables"]["properties"])
    assert all(variable["description"] for variable in found["variables"]["properties"].values())


def test_a_process_worker_reads_its_template() -> None:
    read = ProcessJobConfiguration(**rendered("process", env={"LAKE": "1"}, command=None))
    assert read.env["LAKE"] == "1"
    assert read.stream_output is True


def test_a_docker_container_gets_memory_and_gpu_where_asked() -> None:
    plain = rendered("docker")
    assert plain["image"] == "tabvae:cpu"
    assert "mem_limit" not in plain
    assert not plain["container_create_kwargs"]
    gpu = rendered("docker", image="tabvae:gpu", runtime="nvidia", mem_limit="16g", shm_size="1g")
    assert (gpu["image"], gpu["mem_limit"]) == ("tabvae:gpu", "16g")
    assert gpu["container_create_kwargs"] == {"runtime": "nvidia", "shm_size": "1g"}


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["template"]["spec"]["containers"][0]
    return found


def test_a_kubernetes_job_gets_memory_and_gpu_where_asked() -> None:
    plain = container(rendered("kubernetes")["job_manifest"])
    assert plain["resources"] == {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "8Gi"}}
    gpu = container(rendered("kubernetes", gpus=1, memory="32Gi", image="tabvae:gpu")["job_manifest"])
    assert gpu["resources"]["limits"] == {"memory": "32Gi", "nvidia.com/gpu": 1}
    assert (gpu["image"], gpu["name"]) == ("tabvae:gpu", "prefect-job"), "the name that Prefect's worker asks for"


def test_a_kubernetes_job_has_more_shared_memory_than_64_mib_for_several_gpus() -> None:
    manifest = rendered("kubernetes", gpus=2)["job_manifest"]
    assert manifest["spec"]["template"]["spec"]["volumes"] == [
        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}}
    ]
    assert container(manifest)["volumeMounts"] == [{"name": "shared-memory", "mountPath": "/dev/shm"}]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, which knows the fields of a job")
def test_kubernetes_knows_every_field_of_the_job(tmp_path: Path) -> None:
    """No cluster is asked: kubectl reads the manifest into its own type, in which unknown fields get lost."""
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    manifest = rendered(
        "kubernetes", gpus=1, tolerations=tolerations, node_selector={"gpu": "h100"}, service_account_name="lake"
    )["job_manifest"]
    file = tmp_path / "job.json"
    file.write_text(json.dumps(manifest), encoding="utf-8")
    command = ["kubectl", "set", "image", "--local", "-f", str(file), "prefect-job=checked", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    missing = set(lost(manifest, json.loads(done.stdout))) - {"/spec/template/spec/containers/0/image"}
    # Prefect's worker asks for these two in a place where Kubernetes does not know them, and passes over them.
    assert missing == {"/spec/template/spec/completions", "/spec/template/spec/parallelism"}


def lost(one: Any, other: Any, where: str = "") -> list[str]:
    """Places of a value that another one has not; numbers may have become quantities, which are text."""
    if isinstance(one, dict):
        gone = [f"{where}/{key}" for key in one if key not in other]
        return gone + [place for key in one if key in other for place in lost(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list):
        return [place for k, item in enumerate(one) for place in lost(item, other[k], f"{where}/{k}")]
    return [] if str(one) == str(other) else [where]


def test_what_images_copy_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    files = sorted((DEPLOYMENTS / "containers").glob("*.Dockerfile"))
    assert [file.stem for file in files] == ["cpu", "gpu"]
    for file in files:
        lines = re.findall(r"^COPY (?!--from)(.+)$", file.read_text(encoding="utf-8"), re.M)
        copied = {name for line in lines for name in line.split()[:-1]}
        assert copied == kept
        assert all((ROOT / name).exists() for name in copied)


def test_the_composed_services_start_commands_that_there_are() -> None:
    services = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert set(services) == {"database", "server", "cpu", "gpu"}
    for pool in ("cpu", "gpu"):
        assert services[pool]["command"][:5] == ["prefect", "worker", "start", "--pool", pool]
        assert services[pool]["image"] == f"tabvae:{pool}"
        assert services[pool]["environment"]["PREFECT_API_URL"] == "http://server:4200/api"


def test_specs_of_the_deployments_are_specs() -> None:
    deployments = yaml.safe_load((DEPLOYMENTS / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    specs = [one["parameters"]["spec"] for one in deployments if "spec" in one.get("parameters", {})]
    assert [parse_spec(spec).name for spec in specs] == ["customers"]
