"""What attacks found: advantages with their intervals, as JSON. Names columns, holds no cell."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["AttackResult", "Estimate", "PrivacyFigures"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Estimate(_Part):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float
    trials: int
    """Rows, guesses or values behind it, of training rows and controls together."""

    def text(self, digits: int = 3) -> str:
        """The figure and its interval, for a person."""
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"

    @property
    def proven(self) -> float:
        """The least advantage that the interval leaves, in either direction; 0 where it holds 0."""
        return max(0.0, self.low, -self.high)


class AttackResult(_Part):
    """One attack, on the whole table and on its most exposed rows."""

    name: str
    """Such as "membership_distance" or "linkability"."""
    title: str
    knows: str
    """What the attacker has beside the synthetic table."""
    advantage: Estimate | None
    """Gain on training rows beyond control rows: 0 gives nothing away, 1 everything. 2 AUC - 1 of membership, else
    (attack - control) / (1 - control), the risk of Giomi et al.; None where there are too few rows."""
    exposed: Estimate | None = None
    """The same for the most exposed 1 % of rows, at least 60, chosen without looking at who is a member."""
    auc: Estimate | None = None
    """Of membership attacks: how well scores order training rows before controls; 0.5 is guessing."""
    attack_rate: float | None = None
    """Share of successful guesses about training rows."""
    control_rate: float | None = None
    """Share of successful guesses about control rows: what follows from the population, not from a row itself."""
    baseline_rate: float | None = None
    """Share of successful guesses about training rows without the table's rows; an attack below it says nothing."""
    columns: dict[str, Estimate] = Field(default_factory=dict)
    """The advantage by column, where an attack is on single columns."""


class PrivacyFigures(_Part):
    """All attacks on one table."""

    members: int
    """Training rows attacked, chosen uniformly."""
    controls: int
    """As many held-out rows, attacked alike."""
    reference: int
    """Further held-out rows, that attackers know."""
    synthetic: int
    """Synthetic rows that attackers have."""
    seed: int
    attacks: tuple[AttackResult, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def strongest_membership(self) -> AttackResult | None:
        """The membership attack with the largest AUC."""
        tried = [result for result in self.attacks if result.auc is not None]
        return max(tried, key=lambda result: result.auc.value if result.auc else 0.0, default=None)

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        strongest = self.strongest_membership
        if strongest is None or strongest.auc is None:
            return "There were too few rows to attack the table."
        return (
            f"{len(self.attacks)} attacks on {self.members:,} training rows and as many rows that were never learned:"
            f" the strongest at telling who was in the training data reaches an AUC of {strongest.auc.text()},"
            " where 0.5 is guessing."
        )
