"""Is the synthetic table close to the real one? Figures beside their floors, and a report that shows them."""

from __future__ import annotations

from tabvae_core.evaluation.attack_view import render_receipt
from tabvae_core.evaluation.augmentation import augmentation
from tabvae_core.evaluation.classes import reweighted
from tabvae_core.evaluation.differences import Differences, differences, render_differences
from tabvae_core.evaluation.evaluate import evaluate
from tabvae_core.evaluation.report import render_report
from tabvae_core.evaluation.result import Augmentation, ColumnEvaluation, Evaluation, Metric

__all__ = [
    "Augmentation",
    "ColumnEvaluation",
    "Differences",
    "Evaluation",
    "Metric",
    "augmentation",
    "differences",
    "evaluate",
    "render_differences",
    "render_receipt",
    "render_report",
    "reweighted",
]
