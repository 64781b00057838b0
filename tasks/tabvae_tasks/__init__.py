"""One Prefect task for each step. The work is in `tabvae_core.steps`; here are retries and artifacts."""

from tabvae_tasks.steps import (
    evaluate_table,
    find_release,
    publish_release,
    sample_table,
    take_snapshot,
    train_model,
    validate_table,
)

__all__ = [
    "evaluate_table",
    "find_release",
    "publish_release",
    "sample_table",
    "take_snapshot",
    "train_model",
    "validate_table",
]
