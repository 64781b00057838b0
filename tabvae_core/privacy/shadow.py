"""Membership by shadow models: the attacker learns what a row's being there does, by training models of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.errors import DataError
from tabvae_core.evaluation.view import Floats, Side, modelled, table_view
from tabvae_core.privacy.ground import LEAST, NEIGHBOURS
from tabvae_core.privacy.intervals import auc_interval, precision_gain
from tabvae_core.privacy.membership import advantage_of
from tabvae_core.privacy.points import Encoding, nearest
from tabvae_core.privacy.result import AttackResult
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.schema import TableSchema
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.tables import take_rows

__all__ = ["Draw", "drawn_by", "shadow_attack"]

Draw = Callable[[pa.Table, int, int], pa.Table]
"""Learns rows and draws others, given the rows, a seed, and how many are wanted."""

_TARGETS = 500
_LEAST_ROWS = 200
_NEAREST = 1e-4
_FEW_MODELS = 16
"""As many models weigh as much as what all targets have in common."""


def shadow_attack(
    train: pa.Table,
    holdout: pa.Table,
    synthetic: pa.Table,
    schema: TableSchema,
    *,
    draw: Draw,
    method: str,
    shadows: int = 16,
    seed: int = 0,
    progress: Progress = silent,
) -> AttackResult:
    """Score rows by a likelihood ratio that shadow models teach.

    The online attack of Carlini et al., "Membership Inference Attacks From First Principles" (S&P 2022), with the
    synthetic table in place of a model's loss, as in Stadler et al., "Synthetic Data - Anonymisation Groundhog Day"
    (USENIX Security 2022). Each shadow model learns reference rows and a random half of the targets; what is observed
    of a target is the mean logarithm of its distances to the nearest five synthetic rows. Two normal distributions of
    one variance, with the target and without it, give the ratio; models are few, so what a target's presence does is
    drawn to what presence does on average. Models that learn nothing by heart teach the attacker nothing.

    Args:
        train: Rows that the model learned; up to 500 are targets.
        holdout: Rows that it never saw: as many are targets, the others are what shadow models learn beside targets.
        synthetic: The table under attack.
        schema: The columns and their kinds.
        draw: The shadow model, see `drawn_by`; strongest where it is what made the table.
        method: Its name.
        shadows: Models to train, at least 4.
        seed: Of every random choice.
        progress: Told of every model.

    Raises:
        DataError: There are too few rows to train shadow models.

    """
    targets = min(_TARGETS, train.num_rows, holdout.num_rows // 3)
    rng = np.random.default_rng([seed, 7])
    inside, outside = (rng.permutation(table.num_rows) for table in (train, holdout))
    others = take_rows(holdout, outside[targets:])
    if targets < LEAST or others.num_rows < _LEAST_ROWS:
        raise DataError(
            f"too few held-out rows for shadow models: {holdout.num_rows:,}",
            hint=f"hold out at least {_LEAST_ROWS * 3 // 2:,}, or leave shadow models out",
        )
    rows = pa.concat_tables([take_rows(train, inside[:targets]), take_rows(holdout, outside[:targets])])
    tables = {Side.HOLDOUT: others, Side.TRAIN: rows}
    observed = _observe(tables, synthetic, schema, seed)
    shares = np.stack([rng.permutation(np.arange(2 * targets) % 2 == 0) for _ in range(max(shadows, 4))])
    seen = []
    for done, share in enumerate(shares):
        progress(ProgressEvent("attack", done, len(shares), "shadow models", method))
        learned = pa.concat_tables([others, take_rows(rows, np.flatnonzero(share))])
        drawn = draw(learned, seed + done, min(synthetic.num_rows, 2 * learned.num_rows))
        seen.append(_observe(tables, drawn, schema, seed))
    progress(ProgressEvent("attack", len(shares), len(shares), "shadow models"))
    scores = _log_ratio(observed, np.stack(seen), shares)
    auc = auc_interval(scores[:targets], scores[targets:])
    highest = np.argsort(-scores, kind="stable")[: max(3 * LEAST, len(scores) // 100)]
    return AttackResult(
        name="membership_shadow",
        title="Who was learned: shadow models",
        knows=f"a person's whole row, real rows of other people, and the method ({method})",
        auc=auc,
        advantage=advantage_of(auc),
        exposed=precision_gain(highest < targets),
    )


def drawn_by(method: str, schema: TableSchema, model: ModelSpec | None = None) -> Draw:
    """Shadow models of a method, as by default or as `model` says.

    Raises:
        SpecError: There is no such method.

    """
    from tabvae_core.synthesizers import registry

    registry.find(method)

    def draw(learned: pa.Table, seed: int, rows: int) -> pa.Table:
        spec = (model or ModelSpec()).model_copy(update={"method": method, "seed": seed})
        return registry.create(method, spec, PrivacySpec()).fit(learned, schema).sample(rows, seed=seed)

    return draw


def _observe(tables: dict[Side, pa.Table], synthetic: pa.Table, schema: TableSchema, seed: int) -> Floats:
    """Mean logarithm of each target's distances to its nearest synthetic rows, shape (2 n,)."""
    view = table_view({**tables, Side.SYNTHETIC: synthetic}, modelled(schema))
    encoding = Encoding(view.columns, [column.values[Side.HOLDOUT] for column in view.columns], seed)
    distances, _ = nearest(encoding.points(Side.TRAIN), encoding.points(Side.SYNTHETIC), NEIGHBOURS)
    means: Floats = np.log(np.maximum(distances, _NEAREST)).mean(axis=1)
    return means


def _log_ratio(observed: Floats, seen: Floats, inside: npt.NDArray[np.bool_]) -> Floats:
    """Log-likelihood with the target learned less that without, up to a positive factor.

    Args:
        observed: What the table under attack shows of each target, shape (2 n,).
        seen: What the shadow tables show, shape (models, 2 n).
        inside: Which models learned which targets, shape (models, 2 n).

    """
    with_it, without = (
        np.where(side, seen, 0).sum(axis=0) / np.maximum(side.sum(axis=0), 1) for side in (inside, ~inside)
    )
    pull = len(inside) / (len(inside) + _FEW_MODELS)
    gap = (with_it - without).mean() * (1 - pull) + (with_it - without) * pull
    centre = (with_it + without) / 2
    left = np.where(inside, seen - with_it, seen - without)
    variance = (left**2).mean(axis=0) + (left**2).mean()  # a target's own, drawn to that of all
    ratio: Floats = 2 * gap * (observed - centre) / variance
    return ratio
