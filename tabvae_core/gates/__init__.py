"""Gates: what a synthetic table must pass before it is published.

`validate` checks the table itself against schema and rules with Great Expectations; `gate_metrics` holds the
figures of an evaluation against the spec's thresholds, `gate_attacks` what attacks proved. All answer with results,
never with an error: whoever publishes decides. Great Expectations takes seconds to import and is loaded on the first
`validate`.
"""

from __future__ import annotations

from tabvae_core.evaluation.divergence import Histogram
from tabvae_core.gates.attacks import ATTACK, gate_attacks
from tabvae_core.gates.distribution import floors_of, reference_histograms
from tabvae_core.gates.figures import gate_metrics
from tabvae_core.gates.validation import validate

__all__ = ["ATTACK", "Histogram", "floors_of", "gate_attacks", "gate_metrics", "reference_histograms", "validate"]
