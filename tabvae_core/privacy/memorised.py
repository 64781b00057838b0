"""Memorised values: what one row alone holds, such as a number, a key or a text, and the synthetic table repeats."""

from __future__ import annotations

import numpy as np

from tabvae_core.evaluation.view import Side, row_codes
from tabvae_core.privacy.ground import LEAST, Ground, risk_of
from tabvae_core.privacy.intervals import Mask, risk
from tabvae_core.privacy.result import AttackResult, Estimate
from tabvae_core.schema import ColumnSchema
from tabvae_core.spec import Kind

__all__ = ["memorised_values"]

_FREE = (Kind.NUMBER, Kind.DATETIME, Kind.IDENTIFIER, Kind.TEXT, Kind.CATEGORY)


def memorised_values(ground: Ground) -> AttackResult:
    """How many values that one target alone holds stand in the synthetic table.

    In the manner of Carlini et al., "The Secret Sharer" (USENIX Security 2019), without inserted canaries: values of
    members and of controls that occur once among all targets are exchangeable unless members' values were memorised.
    Values of one row depend on each other, so intervals count rows.
    """
    n = ground.targets
    found: list[Mask] = []
    places: list[np.ndarray] = []
    columns: dict[str, Estimate] = {}
    for column in ground.schema.of_kind(*_FREE):
        if any(column.name not in table.schema.names for table in ground.tables.values()):
            continue
        once, repeated = _once(ground, column)
        members, controls = repeated[once < n], repeated[once >= n]
        if min(len(members), len(controls)) >= LEAST:
            columns[column.name] = risk(members, controls)
        found.append(repeated)
        places.append(once)
    repeated, rows = (np.concatenate([np.zeros(0, kind), *parts]) for parts, kind in ((found, bool), (places, int)))
    is_member, exposed = rows < n, ground.exposed[rows]
    return AttackResult(
        name="memorised_values",
        title="Values of one row alone, repeated",
        knows="that a value is one person's alone",
        advantage=risk_of(repeated, np.ones(len(rows), np.bool_), is_member, rows),
        exposed=risk_of(repeated, exposed, is_member, rows),
        attack_rate=float(repeated[is_member].mean()) if is_member.any() else None,
        control_rate=float(repeated[~is_member].mean()) if (~is_member).any() else None,
        columns=columns,
    )


def _once(ground: Ground, column: ColumnSchema) -> tuple[np.ndarray, Mask]:
    """Targets with a value that no other target has, and whether the synthetic table holds it."""
    codes = row_codes(ground.tables, column)
    targets = np.concatenate([codes[Side.TRAIN], codes[Side.HOLDOUT][: ground.targets]])
    _, first, counts = np.unique(targets, return_index=True, return_counts=True)
    once = np.sort(first[(counts == 1) & (targets[first] > 0)])  # code 0 is null
    return once, np.isin(targets[once], codes[Side.SYNTHETIC])
