"""What an evaluation says: figures beside their floors, column by column and pair by pair, as JSON.

Holds figures and column names. Never a cell: categories and bin edges stay out of it.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tabvae_core.privacy.result import PrivacyFigures
from tabvae_core.spec import Kind

__all__ = [
    "Augmentation",
    "AugmentedFit",
    "ColumnEvaluation",
    "Evaluation",
    "KeptRelation",
    "Metric",
    "PairError",
    "Pairs",
    "RowCounts",
    "TellingColumn",
    "Verdict",
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Metric(_Part):
    """A figure of the synthetic table beside its floor."""

    value: float | None
    """Held-out rows against synthetic rows; None where it cannot be measured."""
    floor: float | None = None
    """The same figure with training rows in the place of synthetic ones; None without training rows."""


class RowCounts(_Part):
    """Rows that were measured; equally many synthetic and training ones, so that value and floor compare."""

    holdout: int
    synthetic: int
    train: int | None = None
    """None: no training rows were given, so there is no floor."""


class ColumnEvaluation(_Part):
    """One column."""

    name: str
    kind: Kind
    modelled: bool
    """Whether the column counts in the figures; identifiers, text, nested and constant columns do not."""
    shape: float | None = None
    """Percent: KS statistic (or difference of null shares, where larger), total variation for categories."""
    shape_floor: float | None = None
    jsd: float | None = None
    """Jensen-Shannon distance, base 2, in [0, 1]."""
    jsd_floor: float | None = None
    jsd_chance: float | None = None
    """Distance that two samples of one distribution and of these sizes exceed in one case of a hundred."""
    nulls_real: float
    """Share of nulls among the held-out rows, in [0, 1]."""
    nulls_synthetic: float
    """Share of nulls among the synthetic rows, in [0, 1]."""
    nulls_train: float | None = None
    """Share of nulls among the training rows; None without them."""
    auc: float | None = None
    """How well this column alone tells synthetic from held-out rows; 0.5 is perfect."""


class PairError(_Part):
    """The association of two columns."""

    first: str
    second: str
    error: float
    """Percent: |r - r'| / 2 of two measures, else the total variation of the two-way table."""
    floor: float | None = None


class Pairs(_Part):
    """Association of pairs: matrices for the heatmaps, and the pairs that are furthest apart."""

    columns: tuple[str, ...] = ()
    """Rows and columns of the matrices, at most 40."""
    real: tuple[tuple[float, ...], ...] = ()
    """Association among held-out rows, in [-1, 1]: Pearson's r of two measures, correlation ratio of a
    measure and a category, Cramér's V of two categories; 0 where a column does not vary."""
    synthetic: tuple[tuple[float, ...], ...] = ()
    """The same among synthetic rows."""
    measured: int = 0
    """Pairs behind the trend figure."""
    total: int = 0
    """Pairs of modelled columns."""
    worst: tuple[PairError, ...] = ()
    """The pairs furthest apart, worst first, at most 20."""


class TellingColumn(_Part):
    """A column that gives the synthetic rows away."""

    name: str
    auc_drop: float
    """What the classifier's AUC loses when this column is shuffled among the rows it is tested on."""
    auc: float | None
    """AUC of this column alone."""


class KeptRelation(_Part):
    """An exact relation between columns of the real table, and how often rows keep it."""

    formula: str
    """Such as "total = net + tax"; names columns, never a cell."""
    real: float
    """Share of the held-out rows that keep it, of those where all its cells are there, in [0, 1]."""
    synthetic: float | None
    """The same share of the synthetic rows; None where no row has all cells."""


class Verdict(_Part):
    """The figures in words; gates decide, this describes."""

    sentence: str
    close: tuple[str, ...] = ()
    """Figures close to their floor."""
    apart: tuple[str, ...] = ()
    """Figures that are not."""


class AugmentedFit(_Part):
    """A classifier that learned some rows, tested on held-out real ones."""

    rows: int
    """Rows that it learned."""
    of_class: int
    """Rows of the class among them."""
    average_precision: float
    """Of the class, in [0, 1]; its share of the held-out rows is what guessing scores."""
    gain: float | None = None
    """Average precision beyond that of real rows alone; None for these."""
    low: float | None = None
    high: float | None = None
    """Ends of the gain's 95 % interval, by the bootstrap over held-out rows."""


class Augmentation(_Part):
    """What rows of a rare class gain a classifier: real rows alone, with synthetic rows, with rows by SMOTE."""

    column: str
    value: str
    """The class, as the spec or the command line names it."""
    added: int
    """Rows of the class added to the real training rows."""
    holdout_rows: int
    holdout_of_class: int
    real: AugmentedFit
    synthetic: AugmentedFit
    smote: AugmentedFit | None = None
    """None where imbalanced-learn is not installed."""

    @property
    def fits(self) -> dict[str, AugmentedFit]:
        """The classifiers, by what they learned."""
        fits = {"real rows": self.real, "and synthetic rows": self.synthetic, "and rows by SMOTE": self.smote}
        return {name: fit for name, fit in fits.items() if fit is not None}

    def table(self) -> list[dict[str, Any]]:
        """The classifiers as rows to print."""
        return [{"learned from": name, **fit.model_dump()} for name, fit in self.fits.items()]

    @property
    def sentence(self) -> str:
        """The result in words."""
        found = self.synthetic
        if found.gain is None or found.low is None or found.high is None:
            return "Nothing was gained or lost: no rows were added."
        said = "makes no difference beyond chance"
        if found.low > 0 or found.high < 0:
            said = "helps" if found.low > 0 else "harms"
        return (
            f"Adding {self.added:,} synthetic rows of {self.column} = {self.value} {said}: average precision"
            f" {self.real.average_precision:.3f} becomes {found.average_precision:.3f}"
            f" (gain {found.gain:+.3f}, 95 % interval {found.low:+.3f} to {found.high:+.3f})."
        )


class Evaluation(_Part):
    """A synthetic table measured against held-out rows."""

    rows: RowCounts
    max_rows: int
    """Rows of each table that were measured at most, chosen uniformly."""
    seed: int
    """Seed of that choice, of the folds, and of the sampled pairs."""
    target_column: str | None = None
    """Column predicted to measure utility."""
    balanced: str | None = None
    """Column whose classes are in chosen numbers: all tables were compared at equal shares of them."""
    augmentation: Augmentation | None = None
    """What the rows of the rare class gain a classifier, where classes are balanced."""
    privacy: PrivacyFigures | None = None
    """What attacks found; None where the table was not attacked."""
    metrics: dict[str, Metric] = Field(default_factory=dict)
    """shape, trend, jsd, c2st, utility, copies, nulls; a figure without value is still listed."""
    columns: tuple[ColumnEvaluation, ...] = ()
    """Every column of the synthetic table, in its order."""
    pairs: Pairs = Pairs()
    relations: tuple[KeptRelation, ...] = ()
    """Exact relations of the training rows, those that synthetic rows break most often first, at most 40."""
    telling: tuple[TellingColumn, ...] = ()
    """What to mend first: columns that give the synthetic rows away, most telling first, at most 10."""
    verdict: Verdict
    notes: tuple[str, ...] = ()
    """What was left out, sampled or could not be measured, and why."""
