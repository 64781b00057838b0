"""Is the synthetic table close to the real one? Figures beside their floors, and a report that shows them."""

from __future__ import annotations

from tabvae_core.evaluation.evaluate import evaluate
from tabvae_core.evaluation.report import render_report
from tabvae_core.evaluation.result import ColumnEvaluation, Evaluation, Metric

__all__ = ["ColumnEvaluation", "Evaluation", "Metric", "evaluate", "render_report"]
