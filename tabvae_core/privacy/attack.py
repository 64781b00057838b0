"""`attack`: every attack on one synthetic table, against rows that were never learned."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from tabvae_core.evaluation.view import Side
from tabvae_core.privacy.attribute_inference import attribute_inference
from tabvae_core.privacy.density import density_attack
from tabvae_core.privacy.distance import distance_attack
from tabvae_core.privacy.ground import LEAST, Ground, ground_of
from tabvae_core.privacy.linkability import linkability
from tabvae_core.privacy.memorised import memorised_values
from tabvae_core.privacy.rare_copies import exact_copies, near_copies
from tabvae_core.privacy.result import AttackResult, PrivacyFigures
from tabvae_core.privacy.singling_out import singling_out_multivariate, singling_out_univariate
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.schema import TableSchema

__all__ = ["attack"]

_ATTACKS: tuple[Callable[[Ground], AttackResult], ...] = (
    distance_attack,
    density_attack,
    singling_out_univariate,
    singling_out_multivariate,
    linkability,
    attribute_inference,
    exact_copies,
    near_copies,
    memorised_values,
)


def attack(
    train: pa.Table,
    holdout: pa.Table,
    synthetic: pa.Table,
    schema: TableSchema,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> PrivacyFigures:
    """Attack a synthetic table.

    At most 10,000 training rows are attacked and as many held-out rows, chosen uniformly; fewer beside a large
    synthetic table, so that a million rows take minutes.

    Args:
        train: Rows that the model learned.
        holdout: Rows that it never saw: half are controls, the other half is what attackers know of the population.
        synthetic: The synthetic rows.
        schema: The columns and their kinds.
        seed: Of every random choice; the same tables and seed give the same figures.
        progress: Told of every attack, and within the first, which takes longest.

    Raises:
        DataError: A table lacks a column, or holds it in a type that does not compare.

    """
    total = len(_ATTACKS) + 1

    def report(done: float, message: str) -> None:
        progress(ProgressEvent("attack", done, total, "attacks", message))

    report(0, "distances")
    ground = ground_of(
        train, holdout, synthetic, schema, seed=seed, tick=lambda share: report(share, "distances to synthetic rows")
    )
    if ground is None:
        few = f"Too few rows or columns to attack: {LEAST} training rows and {2 * LEAST} held-out ones are needed."
        report(total, "too few rows")
        return PrivacyFigures(members=0, controls=0, reference=0, synthetic=synthetic.num_rows, seed=seed, notes=(few,))
    results = []
    for done, attack_by in enumerate(_ATTACKS, 1):
        report(done, attack_by.__name__.replace("_", " "))
        results.append(attack_by(ground))
    report(total, "")
    return PrivacyFigures(
        members=ground.targets,
        controls=ground.targets,
        reference=ground.reference,
        synthetic=ground.view.rows[Side.SYNTHETIC],
        seed=seed,
        attacks=tuple(results),
        notes=_notes(ground, train.num_rows),
    )


def _notes(ground: Ground, learned: int) -> tuple[str, ...]:
    if ground.targets == learned:
        return ()
    return (f"{ground.targets:,} of {learned:,} training rows were attacked, chosen uniformly.",)
