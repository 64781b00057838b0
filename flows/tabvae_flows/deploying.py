"""Refreshes as deployments of Prefect: what `tabvae deploy` does, and `deployments/prefect.yaml` says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import DeploymentApplyError, RunnerDeployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import get_current_settings
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from tabvae_core.errors import SpecError, StorageError
from tabvae_core.spec import RefreshSpec
from tabvae_core.storage import safe_uri
from tabvae_core.workspace import local_path
from tabvae_flows.refresh import synthetic_refresh, train_model

__all__ = ["Deployed", "deploy"]


@dataclass(frozen=True)
class Deployed:
    """What was made or updated."""

    deployments: tuple[dict[str, Any], ...]
    """One a deployment: its name with that of the flow, id, work pool, cron."""
    new_pools: tuple[str, ...]
    """Work pools that there were not, made for workers of type `process`."""
    local: tuple[str, ...]
    """Places of the specs on this machine's disks, which every worker must see."""

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def deploy(
    specs: Sequence[RefreshSpec],
    *,
    work_pool: str,
    train_pool: str | None = None,
    cron: str | None = None,
    timezone: str = "UTC",
    name: str | None = None,
    variables: dict[str, Any] | None = None,
    train_variables: dict[str, Any] | None = None,
) -> Deployed:
    """Make or update one deployment a spec, and one that trains where a train pool is named.

    Args:
        specs: The refreshes. Local paths in them become absolute: workers run in folders of their own.
        work_pool: Pool whose workers run the refreshes. A missing pool is made, as `prefect worker start` makes it.
        train_pool: Pool whose workers train; those of `work_pool` where left out.
        cron: When to run; a deployment keeps its schedules where left out.
        timezone: IANA name of the zone that `cron` is meant in.
        name: Name of the deployment where there is one spec; else that of the table.
        variables: Job variables of the refreshes, such as memory: see the base job template of their pool.
        train_variables: Job variables of the training, such as gpus.

    Raises:
        SpecError: No server is named; two deployments would have one name; cron or timezone are none.
        StorageError: The server does not answer, or refuses.

    """
    schedules = None if cron is None else [DeploymentScheduleCreate(schedule=_schedule(cron, timezone))]
    names = _names(specs, name)
    with _server_errors():
        pools = [work_pool] if train_pool is None else [work_pool, train_pool]
        new_pools = tuple(pool for pool in dict.fromkeys(pools) if _make_pool(pool))
        made: list[dict[str, Any]] = []
        parameters: dict[str, Any] = {}
        if train_pool is not None:
            made.append(_apply(train_model, train_pool, train_pool, job_variables=train_variables or {}))
            parameters["train_on"] = made[0]["name"]
        placed = [_absolute(spec) for spec in specs]
        for spec, own in zip(placed, names, strict=True):
            described = spec.model_dump(mode="json", exclude_unset=True)
            made.append(
                _apply(
                    synthetic_refresh, own, work_pool,
                    schedules=_schedules_of(f"{synthetic_refresh.name}/{own}") if schedules is None else schedules,
                    job_variables=variables or {},
                    parameters={"spec": described, **parameters},
                    tags=["tabvae", spec.name],
                    # Two refreshes of one table would race for its pointer: the second one waits.
                    concurrency_limit=ConcurrencyLimitConfig(
                        limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE
                    ),
                )
            )  # fmt: skip
            made[-1]["cron"] = cron
    places = {part.uri for spec in placed for part in (spec.source, spec.target, spec.workspace)}
    return Deployed(tuple(made), new_pools, tuple(sorted(place for place in places if local_path(place) is not None)))


def _schedule(cron: str, timezone: str) -> CronSchedule:
    for key, value, example in (("timezone", timezone, "Europe/Berlin"), ("cron", cron, '"0 3 * * *"')):
        try:
            CronSchedule(**{"cron": "0 0 * * *", key: value})
        except ValidationError:
            raise SpecError(f"--{key} cannot be read: {value!r}", hint=f"for example --{key} {example}") from None
    return CronSchedule(cron=cron, timezone=timezone)


def _schedules_of(deployment: str) -> list[DeploymentScheduleCreate]:
    """Schedules that a deployment has, perhaps set in the UI since then: an update without any would end them."""
    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment_by_name(deployment)
        except ObjectNotFound:
            return []
    kept = ("schedule", "active", "parameters", "slug")
    return [DeploymentScheduleCreate(**{name: getattr(item, name) for name in kept}) for item in found.schedules]


def _names(specs: Sequence[RefreshSpec], name: str | None) -> list[str]:
    if name is not None and len(specs) > 1:
        raise SpecError(f"--name names one deployment, however there are {len(specs)} specs", hint="leave it out")
    names = [name or spec.name for spec in specs]
    twice = [one for one, count in Counter(names).items() if count > 1]
    if twice:
        raise SpecError(f"{names.count(twice[0])} specs have the name {twice[0]!r}", hint="give each `name` once")
    return names


def _absolute(spec: RefreshSpec) -> RefreshSpec:
    """Make local paths absolute."""
    parts = {name: getattr(spec, name) for name in ("source", "target", "workspace")}
    moved = {
        name: part.model_copy(update={"uri": str(Path(part.uri).absolute())})
        for name, part in parts.items()
        if "://" not in part.uri
    }
    return spec.model_copy(update=moved)


def _make_pool(name: str) -> bool:
    """Make a work pool where there is none of that name; say whether it was made."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=name, type="process"))
            return True
    return False


def _apply(flow: Flow[..., Any], name: str, work_pool: str, **settings: Any) -> dict[str, Any]:
    """Make or update a deployment whose entrypoint is a module, which a worker imports wherever it is."""
    chosen: dict[str, Any] = {"tags": ["tabvae"], "entrypoint_type": EntrypointType.MODULE_PATH} | settings
    deployment = cast(RunnerDeployment, flow.to_deployment(name, **chosen))
    made = deployment.apply(work_pool_name=work_pool)
    return {"name": f"{flow.name}/{name}", "id": str(made), "work_pool": work_pool, "cron": None}


@contextmanager
def _server_errors() -> Iterator[None]:
    url = get_current_settings().api.url
    if url is None:
        raise SpecError(
            "PREFECT_API_URL is not set: there is no server to deploy to",
            hint="`prefect server start`, then `export PREFECT_API_URL=http://127.0.0.1:4200/api`",
        )
    where = f"Prefect's server at {safe_uri(url)}"
    try:
        yield
    except (httpx.TransportError, RuntimeError):  # the latter from Prefect's first look at the server's version
        raise StorageError(
            f"{where} does not answer, or not as one of this version of Prefect does",
            hint="is it running, and is PREFECT_API_URL its address?",
        ) from None
    except DeploymentApplyError as error:
        raise SpecError(
            f"{where} refuses the deployment: {error}",
            hint="job variables must fit the base job template of their work pool",
        ) from None
    except PrefectHTTPStatusError as error:
        raise StorageError(
            f"{where} refuses: {error.response.status_code} {error.response.reason_phrase}",
            hint="PREFECT_API_KEY or PREFECT_API_AUTH_STRING hold what it asks for; its log says more",
        ) from None
