"""How long a table is learned, from its size alone, so that a run can be estimated before it starts.

Small tables need steps, not epochs: measured on halves of public tables, see `docs/decisions/0011-a-running-sum.md`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tabvae_core.spec import ModelSpec

__all__ = ["SMALL_ROWS", "Budget", "training_budget"]

SMALL_ROWS = 3_000
"""Below, a network knows rows by heart unless it is held back."""
_FEW_ROWS = 8_000
_USUAL_SLOTS = 20
_MIN_EPOCHS, _MAX_EPOCHS = 1, 300


@dataclass(frozen=True)
class Budget:
    """What training may cost.

    Args:
        epochs: Passes over the rows.
        batch_size: Rows a step.
        learning_rate: Peak of the learning rate.

    """

    epochs: int
    batch_size: int
    learning_rate: float


def training_budget(rows: int, slots: int, model: ModelSpec) -> Budget:
    """Choose epochs, batch size and learning rate of `vae`; what the spec says stands.

    Args:
        rows: Rows learned.
        slots: Positions of the model, about the number of columns. Wide tables cost more a step and get fewer.
        model: The spec's own wishes.

    """
    small, few = rows < SMALL_ROWS, rows < _FEW_ROWS
    batch = model.batch_size or (64 if small else 128 if few else 256)
    steps = 400.0 if small else 600.0 if few else 700.0
    steps *= min(1.0, max(0.5, math.sqrt(_USUAL_SLOTS / max(slots, 1))))
    epochs = model.epochs or min(max(math.ceil(steps * batch / max(rows, 1)), _MIN_EPOCHS), _MAX_EPOCHS)
    return Budget(epochs, batch, model.learning_rate or (2e-3 if few else 5e-3))
