"""How long a table is learned, from its shape alone, so that a run can be estimated before it starts.

Small tables need steps, not epochs. Tables of numbers need more steps; tables of categories, whose counts are learned
by heart sooner, need more networks instead: measured on halves of public tables, see decision 0012.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tabvae_core.spec import ModelSpec

__all__ = [
    "CTGAN_BATCH",
    "FEW_ROWS",
    "SMALL_ROWS",
    "WIDE_SLOTS",
    "Budget",
    "copula_budget",
    "ctgan_epochs",
    "diffusion_budget",
    "training_budget",
]

SMALL_ROWS, FEW_ROWS = 3_000, 8_000
"""Below the first a network knows rows by heart unless it is held back, below the second it tends to."""
_USUAL_SLOTS, WIDE_SLOTS = 20, 80
"""Beyond the latter, a step takes so long that one network has to do."""
_MANY_ROWS = 200_000
"""Beyond, chance is no longer what a network gets wrong."""
_MIN_EPOCHS, _MAX_EPOCHS = 1, 300
CTGAN_BATCH = 500
"""Rows a step of `ctgan`, the paper's."""
_CTGAN_EPOCHS, _CTGAN_LEAST_STEPS, _CTGAN_MOST_STEPS = 150, 2_000, 20_000
"""Half the paper's epochs, as weights are averaged, where they make no fewer steps than small tables need and no more
than large ones do."""
_DIFFUSION_STEPS, _DIFFUSION_EPOCHS = 8_000, 500
_COPULA_STEPS = 8_000


@dataclass(frozen=True)
class Budget:
    """What training may cost.

    Args:
        epochs: Passes over the rows.
        batch_size: Rows a step.
        learning_rate: Peak of the learning rate.
        members: Networks of the ensemble, which are trained for so long each.

    """

    epochs: int
    batch_size: int
    learning_rate: float
    members: int


def training_budget(rows: int, slots: int, valued: int, model: ModelSpec) -> Budget:
    """Choose epochs, batch size, learning rate and members of `vae`; what the spec says stands.

    Args:
        rows: Rows learned.
        slots: Positions of the model, about the number of columns. Wide tables cost more a step and get fewer.
        valued: Those that carry continuous values.
        model: The spec's own wishes.

    """
    small, few, numbers = rows < SMALL_ROWS, rows < FEW_ROWS, 2 * valued >= slots
    batch = model.batch_size or (64 if small else 128 if few else 256)
    steps = 400.0 if small else 1_200.0 if few or numbers else 700.0
    steps *= min(1.0, max(0.5, math.sqrt(_USUAL_SLOTS / max(slots, 1))))
    epochs = model.epochs or min(max(math.ceil(steps * batch / max(rows, 1)), _MIN_EPOCHS), _MAX_EPOCHS)
    members = 1 if slots > WIDE_SLOTS or rows > _MANY_ROWS else 2 if numbers or slots > _USUAL_SLOTS else 4
    return Budget(epochs, batch, model.learning_rate or (2e-3 if few else 5e-3), members)


def ctgan_epochs(rows: int, batch_size: int = CTGAN_BATCH) -> int:
    """Choose the epochs of `ctgan` from the rows learned."""
    steps = max(1, rows // batch_size)
    most = max(1, _CTGAN_MOST_STEPS // steps)
    return min(max(_CTGAN_EPOCHS, math.ceil(_CTGAN_LEAST_STEPS / steps)), most)


def diffusion_budget(rows: int, model: ModelSpec) -> Budget:
    """Choose epochs, batch size and learning rate of `tabddpm`, which learns a step of noise a row at a time.

    So it needs many passes, and as many steps for few rows as for many.

    Args:
        rows: Rows learned.
        model: The spec's own wishes.

    """
    batch = model.batch_size or 256
    epochs = min(max(math.ceil(_DIFFUSION_STEPS * batch / max(rows, 1)), _MIN_EPOCHS), _DIFFUSION_EPOCHS)
    return Budget(model.epochs or epochs, batch, model.learning_rate or 3e-3, members=1)


def copula_budget(rows: int, model: ModelSpec) -> Budget:
    """Choose epochs, batch size and learning rate of `copula_vae`: as many steps whatever the table.

    Args:
        rows: Rows learned.
        model: The spec's own wishes.

    """
    batch = model.batch_size or 256
    epochs = model.epochs or min(max(math.ceil(_COPULA_STEPS * batch / max(rows, 1)), _MIN_EPOCHS), _MAX_EPOCHS)
    return Budget(epochs, batch, model.learning_rate or 2e-3, 1)
