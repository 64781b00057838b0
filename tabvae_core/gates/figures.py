"""Thresholds on the figures of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Protocol

from tabvae_core.references import GateResult
from tabvae_core.spec import GateSpec

__all__ = ["gate_metrics"]

_ONE_IN_A_HUNDRED = 2.326
"""Standard deviations that a normal variable exceeds with probability 0.01."""


class _Figure(Protocol):
    """A figure beside the same figure of training rows."""

    @property
    def value(self) -> float | None: ...
    @property
    def floor(self) -> float | None: ...


class _ColumnFigures(Protocol):
    """The Jensen-Shannon distance of one column; None where the column does not count."""

    @property
    def name(self) -> str: ...
    @property
    def jsd(self) -> float | None: ...
    @property
    def jsd_floor(self) -> float | None: ...
    @property
    def jsd_chance(self) -> float | None: ...


class _Rows(Protocol):
    """Rows that were measured."""

    @property
    def holdout(self) -> int: ...
    @property
    def synthetic(self) -> int: ...


def gate_metrics(
    metrics: Mapping[str, _Figure], columns: Iterable[_ColumnFigures], gates: GateSpec, *, rows: _Rows | None = None
) -> tuple[GateResult, ...]:
    """Hold the figures of an evaluation against the thresholds of a spec.

    Args:
        metrics: The evaluation's figures by name: shape, trend and copies in percent, c2st as AUC. One that
        is absent,
            or without value, could not be measured and refuses nothing.
        columns: The evaluation's columns.
        gates: The thresholds.
        rows: Rows that were measured; where they are few, what chance alone explains is allowed on top.

    Returns:
        One result a column and one a figure that is gated, in that order.

    """
    results = [
        _column(column.name, column.jsd, max(column.jsd_floor or 0.0, column.jsd_chance or 0.0), gates.max_column_jsd)
        for column in columns
        if column.jsd is not None
    ]
    shape, trend, auc, copies = (metrics.get(name) for name in ("shape", "trend", "c2st", "copies"))
    if gates.max_shape is not None:
        results.append(_whole("shape", "mean column error", "%", shape, gates.max_shape))
    results.append(_whole("trend", "mean error of associations", "%", trend, gates.max_trend, beyond=True))
    results.append(_whole("auc", "AUC of real or synthetic", "", auc, gates.max_auc))
    chance = _chance_of_share(copies, rows)
    results.append(
        _whole("copies", "rows equal to a training row", "%", copies, gates.max_copies, beyond=True, chance=chance)
    )
    return tuple(results)


def _chance_of_share(figure: _Figure | None, rows: _Rows | None) -> float:
    """Difference of two shares, in percent, that samples of one distribution exceed in one case of a hundred."""
    if figure is None or rows is None or not figure.floor or not rows.holdout or not rows.synthetic:
        return 0.0
    share = figure.floor / 100
    return 100 * _ONE_IN_A_HUNDRED * math.sqrt(share * (1 - share) * (1 / rows.holdout + 1 / rows.synthetic))


def _column(name: str, jsd: float, floor: float, limit: float) -> GateResult:
    allowed = min(1.0, limit + floor)
    passed = jsd <= allowed
    verdict = f"{name} is close" if passed else f"refused: {name} differs"
    detail = f"{verdict}, Jensen-Shannon distance {jsd:.3g}, limit {allowed:.3g}"
    return GateResult(name="jsd", column=name, passed=passed, value=jsd, limit=allowed, detail=detail)


def _whole(
    name: str,
    title: str,
    unit: str,
    figure: _Figure | None,
    limit: float,
    *,
    beyond: bool = False,
    chance: float = 0.0,
) -> GateResult:
    value = None if figure is None else figure.value
    floor = (figure.floor if figure is not None and beyond else None) or 0.0
    allowed = limit + floor + chance
    if value is None:
        return GateResult(name=name, passed=True, limit=allowed, detail=f"{title}: could not be measured")
    passed = value <= allowed
    detail = f"{'' if passed else 'refused: '}{title} {value:.3g}{unit}, limit {allowed:.3g}{unit}"
    if beyond and floor:
        by_chance = f" and {chance:.3g}{unit} of chance" if chance else ""
        detail += f" ({limit:.3g}{unit} beyond the {floor:.3g}{unit} of real rows{by_chance})"
    return GateResult(name=name, passed=passed, value=value, limit=allowed, detail=detail)
