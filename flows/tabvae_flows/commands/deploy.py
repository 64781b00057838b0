"""`tabvae deploy`: refreshes on a schedule, by Prefect's workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tabvae_flows.console import notice
from tabvae_flows.options import Json, Settings, example, print_result

__all__ = ["EPILOG", "deploy"]

EPILOG = example(
    'tabvae deploy refresh.yaml --cron "0 3 * * *" --timezone Europe/Berlin',
    "tabvae deploy specs/*.yaml --work-pool cpu --train-pool gpu",
)


def deploy(
    specs: Annotated[list[Path], typer.Argument(metavar="SPEC...", help="Spec files, one a deployment.")],
    work_pool: Annotated[str, typer.Option("--work-pool", metavar="POOL", help="Runs the refreshes.")] = "cpu",
    train_pool: Annotated[
        str | None, typer.Option("--train-pool", metavar="POOL", help="Trains, by a deployment of its own.")
    ] = None,
    cron: Annotated[
        str | None, typer.Option("--cron", metavar="CRON", help="When to run; else an existing schedule stays.")
    ] = None,
    timezone: Annotated[str, typer.Option("--timezone", metavar="ZONE", help="Zone of --cron.")] = "UTC",
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name of the deployment; else the spec's.")
    ] = None,
    variables: Annotated[
        list[str] | None,
        typer.Option("--variable", metavar="KEY=VALUE", help="Job variable, as memory=8Gi. Repeatable."),
    ] = None,
    train_variables: Annotated[
        list[str] | None,
        typer.Option(
            "--train-variable", metavar="KEY=VALUE", help="Job variable of the training, as gpus=1. Repeatable."
        ),
    ] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Make or update deployments: refreshes that Prefect's workers run."""
    from tabvae_core.errors import SpecError
    from tabvae_core.spec import apply_settings, load_spec
    from tabvae_flows.environment import quiet_prefect
    from tabvae_flows.runner import prefect_installed

    if not prefect_installed():
        raise SpecError("deployments need Prefect, which is not installed", hint='pip install "tabvae[prefect]"')
    loaded = [load_spec(spec, tuple(settings or ())) for spec in specs]
    quiet_prefect()
    from tabvae_flows.deploying import deploy as run_deploy

    made = run_deploy(
        loaded, work_pool=work_pool, train_pool=train_pool, cron=cron, timezone=timezone, name=name,
        variables=apply_settings({}, tuple(variables or ())),
        train_variables=apply_settings({}, tuple(train_variables or ())),
    )  # fmt: skip
    for pool in made.new_pools:
        notice(f"made work pool {pool}, of type process; its worker: prefect worker start --pool {pool}")
    if made.local:
        notice(f"on this machine's disks, which every worker must see: {', '.join(made.local)}")
    text = "\n".join(f"deployed {one['name']} on {one['work_pool']}" for one in made.deployments)
    first = made.deployments[-1]["name"]
    print_result(made.as_dict(), f"{text}\nnext: prefect deployment run {first}", as_json)
