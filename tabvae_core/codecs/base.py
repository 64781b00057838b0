"""The contract of a column codec: a column of any Arrow type to slots of tokens and values, and back.

A codec is fitted in one streaming pass from mergeable partial results, the way of a map-reduce:

    fitter = NumberFitter(...); fitter.observe(array, first_row); fitter.merge(other); codec = fitter.finish()

A *slot* is one position of the autoregressive model. Its token is always drawn; tokens below `n_levels` also carry
a continuous value (in Gaussian-quantile space), the others stand for something exact: a null, a spike, a category.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from tabvae_core.codecs.numeric import NumericTable

__all__ = ["Codec", "CodecState", "Encoded", "Fitter", "FloatArray", "IntArray", "Slot"]

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Slot:
    """One position of the model.

    Args:
        name: The column's name, with a suffix where a column has several slots ("signup_at.day").
        n_tokens: Size of the vocabulary, at least 1.
        n_levels: Tokens 0 … n_levels-1 carry a continuous value; 0 where the slot has none.
        parent: Index, within the codec, of the earlier slot whose token chooses a row of `CodecState` prior
            (a category of two levels); None for all others.

    """

    name: str
    n_tokens: int
    n_levels: int = 0
    parent: int | None = None


@dataclass(frozen=True)
class Encoded:
    """Cells of one column as the model sees them; n rows, s slots.

    Args:
        tokens: int32, shape (n, s).
        low: float32, shape (n, s): lower edge of the cell's value; the value lies uniformly between the edges.
        high: float32, shape (n, s): upper edge; equal to `low` for continuous values. Zero where a cell has none.

    """

    tokens: IntArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True)
class CodecState:
    """What a bundle stores of a codec: JSON for the small and the textual, arrays for safetensors."""

    kind: str
    values: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)


class Codec(ABC):
    """A fitted codec of one column. Immutable; the same cells always give the same slots."""

    kind: ClassVar[str]
    """Name in the bundle."""
    slots: tuple[Slot, ...]
    """Possibly empty: a constant column needs no position."""
    arrow_type: pa.DataType
    """Exact type that `decode` returns."""

    @abstractmethod
    def encode(self, array: pa.Array) -> Encoded:
        """Encode cells; values that the codec never learned (a rare category) become what `finish` decided."""

    @abstractmethod
    def decode(self, tokens: IntArray, values: FloatArray, *, rows: npt.NDArray[np.uint64], seed: int) -> pa.Array:
        """Turn slots back into cells of exactly `arrow_type`.

        Args:
            tokens: int32, shape (n, s).
            values: float32, shape (n, s); meaningful where the token carries a value.
            rows: Global numbers of the rows in the synthetic table, shape (n,), so that keys are unique over shards.
            seed: Seed of the sample, for codecs that make values anew.

        """

    @abstractmethod
    def state(self) -> CodecState:
        """What `restore` needs to build an equal codec."""

    @classmethod
    @abstractmethod
    def restore(cls, state: CodecState, arrow_type: pa.DataType) -> Self:
        """Rebuild a codec from a bundle."""

    def log_prior(self) -> list[npt.NDArray[np.float32] | None]:
        """Log frequencies of each slot's tokens in the training rows, to start the model's output from.

        Shape (n_tokens,) for a slot without parent, (parent's n_tokens, n_tokens) for one with; -inf marks tokens that
        must never be drawn; None where nothing is known.
        """
        return [None] * len(self.slots)

    def token_values(self) -> list[npt.NDArray[np.float32] | None]:
        """Continuous value that each exact token stands for, so that the model knows a spike's place among numbers.

        Shape (n_tokens,) for each slot, NaN for tokens without one (nulls, levels); None where no token has one.
        """
        return [None] * len(self.slots)

    def value_ranges(self) -> list[tuple[float, float]]:
        """Range of each slot's values in quantile space, outside of which nothing is drawn."""
        return [(-6.0, 6.0)] * len(self.slots)

    def tables(self) -> list[NumericTable | None]:
        """Table behind each slot that holds numbers; None for the others."""
        return [None] * len(self.slots)

    @property
    def null_token(self) -> int | None:
        """Token of the first slot that stands for null; None where none does, as in a column without slots."""
        return None

    def known(self, array: pa.Array) -> npt.NDArray[np.bool_]:
        """Which cells (n,) the codec can tell from others, so that they may be given as a condition."""
        return np.ones(len(array), dtype=np.bool_)

    def knows(self, array: pa.Array) -> bool:
        """Whether every cell may be given as a condition."""
        return bool(self.known(array).all())

    def classes(self) -> tuple[pa.Array, npt.NDArray[np.float64]] | None:
        """Values that a column of classes holds and the training rows of each, (k,) both, in one order.

        Nulls and categories too rare to be learned are no classes. None where the column is not one of classes: a
        measure, a key, a text, a constant.
        """
        return None

    def notes(self) -> tuple[str, ...]:
        """Decisions that a user should know of, such as rare categories left out; no cell of real data."""
        return ()


class Fitter(ABC):
    """A partial result: sees some batches of a column, merges with others, then becomes a codec."""

    @abstractmethod
    def observe(self, array: pa.Array, first_row: int) -> None:
        """Take in cells; `first_row` is the number of the first one in the training rows."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Take in another partial result; the order of merges does not change the codec."""

    @abstractmethod
    def finish(self) -> Codec:
        """Decide vocabulary, levels and tables.

        Raises:
            DataError: The cells cannot be learned, naming the column.

        """
