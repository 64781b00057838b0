"""A whole refresh as a task group.

snapshot → up_to_date → train → sample → validate → evaluate → publish
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Asset, TaskGroup

from tabvae_airflow.operators import (
    STEPS,
    TabvaePublishOperator,
    TabvaeStepOperator,
    TabvaeTrainOperator,
    TabvaeUpToDateOperator,
    spec_mapping,
)

__all__ = ["refresh_group", "release_asset"]


def refresh_group(
    spec: str | os.PathLike[str] | Mapping[str, Any],
    *,
    settings: Sequence[str] = (),
    force: bool | str = False,
    train: Mapping[str, Any] | None = None,
    outlets: Sequence[Asset] | None = None,
    group_id: str = "refresh",
    **task_arguments: Any,
) -> TaskGroup:
    """Lay the tasks of a refresh into the DAG that is being defined.

    Args:
        spec: The refresh: path of a YAML file, or a mapping. Templated, as are `settings` and `force`.
        settings: `key=value` settings on top of the spec.
        force: Publish a new version even where source and spec have not changed.
        train: Arguments of the training task alone: `submit` and `train_timeout` to train elsewhere, `queue`, `pool` or
            `executor_config` for a worker that has a GPU.
        outlets: Assets that a published version updates; `release_asset(spec)` where left out.
        group_id: Name of the group.
        task_arguments: Arguments of all tasks, such as `retries`.

    """
    common: dict[str, Any] = {"spec": spec, "settings": settings, **task_arguments}
    with TaskGroup(group_id) as group:
        made: dict[str, Any] = {}

        def taken(step: str) -> dict[str, Any]:
            return {name: made[name] for name in STEPS[step]}

        def simple(step: str, **arguments: Any) -> Any:
            task = TabvaeStepOperator(task_id=step, step=step, references=taken(step), **common, **arguments)
            return task.output

        made["snapshot"] = simple("snapshot", force=force)
        news = TabvaeUpToDateOperator(task_id="up_to_date", references=taken("up_to_date"), **common)
        learning = TabvaeTrainOperator(task_id="train", references=taken("train"), **{**common, **(train or {})})
        news >> learning
        made["model"] = learning.output
        made["table"] = simple("sample")
        made["validation"] = simple("validate")
        made["evaluation"] = simple("evaluate")
        assets = [release_asset(spec, settings)] if outlets is None else list(outlets)
        TabvaePublishOperator(task_id="publish", references=taken("publish"), outlets=assets, **common)
    return group


def release_asset(spec: str | os.PathLike[str] | Mapping[str, Any], settings: Sequence[str] = ()) -> Asset:
    """The asset of a refresh: the folder of its releases, `target.uri`.

    Raises:
        SpecError: The spec cannot be read.
        ValueError: It names no target, or one that is known only when a task runs.

    """
    from tabvae_core.spec import apply_settings

    target = apply_settings(spec_mapping(spec), tuple(settings)).get("target")
    uri = target.get("uri") if isinstance(target, Mapping) else None
    if not uri or "{{" in uri:
        raise ValueError(f"target.uri must be known where the DAG is defined, however: {uri!r}; or name outlets=[...]")
    return Asset(uri=uri)
