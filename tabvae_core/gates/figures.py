"""Thresholds on the figures of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from tabvae_core.references import GateResult
from tabvae_core.spec import GateSpec

__all__ = ["gate_metrics"]


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


def gate_metrics(
    metrics: Mapping[str, _Figure], columns: Iterable[_ColumnFigures], gates: GateSpec
) -> tuple[GateResult, ...]:
    """Hold the figures of an evaluation against the thresholds of a spec.

    Args:
        metrics: The evaluation's figures by name: shape, trend and copies in percent, c2st as AUC. One that
        is absent,
            or without value, could not be measured and refuses nothing.
        columns: The evaluation's columns.
        gates: The thresholds.

    Returns:
        One result a column and one a figure that is gated, in that order.

    """
    results = [
        _column(column.name, column.jsd, column.jsd_floor, gates.max_column_jsd)
        for column in columns
        if column.jsd is not None
    ]
    shape, trend, auc, copies = (metrics.get(name) for name in ("shape", "trend", "c2st", "copies"))
    if gates.max_shape is not None:
        results.append(_whole("shape", "mean column error", "%", shape, gates.max_shape))
    results.append(_whole("trend", "mean error of associations", "%", trend, gates.max_trend, beyond=True))
    results.append(_whole("auc", "AUC of real or synthetic", "", auc, gates.max_auc))
    results.append(_whole("copies", "rows equal to a training row", "%", copies, gates.max_copies, beyond=True))
    return tuple(results)


def _column(name: str, jsd: float, floor: float | None, limit: float) -> GateResult:
    allowed = min(1.0, limit + (floor or 0.0))
    passed = jsd <= allowed
    verdict = f"{name} is close" if passed else f"refused: {name} differs"
    detail = f"{verdict}, Jensen-Shannon distance {jsd:.3g}, limit {allowed:.3g}"
    return GateResult(name="jsd", column=name, passed=passed, value=jsd, limit=allowed, detail=detail)


def _whole(
    name: str, title: str, unit: str, figure: _Figure | None, limit: float, *, beyond: bool = False
) -> GateResult:
    value = None if figure is None else figure.value
    floor = (figure.floor if figure is not None and beyond else None) or 0.0
    allowed = limit + floor
    if value is None:
        return GateResult(name=name, passed=True, limit=allowed, detail=f"{title}: could not be measured")
    passed = value <= allowed
    detail = f"{'' if passed else 'refused: '}{title} {value:.3g}{unit}, limit {allowed:.3g}{unit}"
    if beyond and floor:
        detail += f" ({limit:.3g}{unit} beyond the {floor:.3g}{unit} of real rows)"
    return GateResult(name=name, passed=passed, value=value, limit=allowed, detail=detail)
