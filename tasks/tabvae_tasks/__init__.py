"""One Prefect task for each step. The work is in `tabvae_core`; here are retries, artifacts, assets and events."""

from tabvae_tasks.listening import hold_target
from tabvae_tasks.runs import label_run
from tabvae_tasks.steps import (
    choose_model,
    conclude_comparison,
    evaluate_table,
    feed_table,
    find_model,
    find_release,
    find_snapshot,
    measure_method,
    plan_comparison,
    publish_release,
    sample_table,
    take_snapshot,
    train_model,
    validate_table,
)

__all__ = [
    "choose_model",
    "conclude_comparison",
    "evaluate_table",
    "feed_table",
    "find_model",
    "find_release",
    "find_snapshot",
    "hold_target",
    "label_run",
    "measure_method",
    "plan_comparison",
    "publish_release",
    "sample_table",
    "take_snapshot",
    "train_model",
    "validate_table",
]
