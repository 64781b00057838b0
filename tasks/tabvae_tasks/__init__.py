"""One Prefect task for each step. The work is in `tabvae_core`; here are retries and artifacts."""

from tabvae_tasks.steps import (
    conclude_comparison,
    evaluate_table,
    feed_table,
    find_release,
    measure_method,
    plan_comparison,
    publish_release,
    sample_table,
    take_snapshot,
    train_model,
    validate_table,
)

__all__ = [
    "conclude_comparison",
    "evaluate_table",
    "feed_table",
    "find_release",
    "measure_method",
    "plan_comparison",
    "publish_release",
    "sample_table",
    "take_snapshot",
    "train_model",
    "validate_table",
]
