"""The contract of every synthesizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.errors import DataError, SpecError
from tabvae_core.given import given_blocks
from tabvae_core.progress import Progress, silent
from tabvae_core.schema import TableSchema
from tabvae_core.spec import Kind, ModelSpec, PrivacySpec
from tabvae_core.tables import RowSample, TableSource, as_source

if TYPE_CHECKING:
    from tabvae_core.latent import LatentSpace
    from tabvae_core.privacy.accounting import Loss

__all__ = ["BLOCK_ROWS", "Synthesizer", "learned", "row_numbers"]

T = TypeVar("T")

BLOCK_ROWS = 4096
"""Rows drawn at a time. Block k of a sample has its own random generator, so shards change nothing."""


def learned(part: T | None) -> T:
    """Return what fitting left.

    Raises:
        DataError: It left nothing: nothing was learned yet.

    """
    if part is None:
        raise DataError("the synthesizer has learned nothing yet", hint="call fit, or load a bundle")
    return part


def row_numbers(block: int, n_rows: int) -> npt.NDArray[np.uint64]:
    """Numbers in the sample of the first rows of a block."""
    return np.arange(block * BLOCK_ROWS, block * BLOCK_ROWS + n_rows, dtype=np.uint64)


def not_private(method: str) -> SpecError:
    """Say that a method has no differential privacy, and which have."""
    from tabvae_core.synthesizers.registry import private_methods

    return SpecError(
        f"privacy.epsilon is set, however: method {method!r} has no differential privacy",
        hint=f"use method {' or '.join(private_methods())}, or leave epsilon out",
    )


class Synthesizer(ABC):
    """Learns a table and draws rows like it.

    Args:
        model: Training parameters: epochs, batch size, learning rate, seed, device, seconds, options.
        privacy: What the model must not hold.

    """

    method: ClassVar[str]
    """Name in specs and bundles."""
    conditions: ClassVar[bool] = True
    """Whether `given` values can be fixed, and given cells be kept."""
    private: ClassVar[bool] = False
    """Whether it learns with differential privacy where `privacy.epsilon` is set: all that reaches the bundle is paid
    for out of the budget or public. Its noise has no seed, so no two trainings are the same."""
    needs_epsilon: ClassVar[bool] = False
    """Whether it learns with differential privacy alone."""

    def __init__(self, model: ModelSpec | None = None, privacy: PrivacySpec | None = None) -> None:
        self.model = model if model is not None else ModelSpec(method=self.method)
        self.privacy = privacy if privacy is not None else PrivacySpec()
        self._record: dict[str, Any] = {}
        if self.privacy.epsilon is not None and not self.private:
            raise not_private(self.method)

    @classmethod
    def planned_loss(cls, privacy: PrivacySpec) -> Loss | None:
        """Most that a training costs, where that is known before it begins; None: its epsilon and delta as they are."""
        return None

    @abstractmethod
    def fit(
        self,
        table: pa.Table | TableSource,
        schema: TableSchema | None = None,
        *,
        progress: Progress = silent,
        checkpoint: Path | None = None,
    ) -> Self:
        """Learn a table.

        Args:
            table: The training rows.
            schema: Their schema; inferred when left out.
            progress: Told of every epoch.
            checkpoint: Folder for checkpoints; an interrupted training found there is resumed.

        Raises:
            DataError: The table cannot be learned (too few rows, no learnable column).

        """

    def _learnable(
        self, table: pa.Table | TableSource, schema: TableSchema | None, progress: Progress
    ) -> tuple[TableSource, TableSchema, TableSource]:
        """Look at the rows: all of them, their schema, and the rows to learn, at most `model.max_rows`.

        Raises:
            DataError: There are too few rows.

        """
        from tabvae_core.inference import MIN_ROWS, infer_schema

        source = as_source(table)
        if schema is None:
            schema = infer_schema(source, privacy=self.privacy, progress=progress)
        if source.num_rows < MIN_ROWS:
            raise DataError(
                f"the table has {source.num_rows} rows, too few to learn from",
                hint=f"at least {MIN_ROWS} are needed: a copy of fewer would be those rows",
            )
        return source, schema, RowSample(source, self.model.max_rows, seed=self.model.seed)

    @property
    @abstractmethod
    def schema(self) -> TableSchema:
        """Schema of the rows that were learned."""

    @property
    def record(self) -> Mapping[str, Any]:
        """The training record of the model card: rows, epochs, losses, seconds, device."""
        return self._record

    @property
    def row_keyed(self) -> tuple[str, ...]:
        """Columns made from the row's number: a row that is drawn again keeps them, so that keys stay unique."""
        return tuple(column.name for column in self.schema.of_kind(Kind.IDENTIFIER))

    @abstractmethod
    def sample_block(
        self,
        block: int,
        n_rows: int,
        *,
        seed: int,
        attempt: int = 0,
        given: Mapping[str, Any] | pa.Table | None = None,
        bounds: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """Draw one block of rows; a function of its arguments and the model alone.

        Args:
            block: Number of the block in the sample; its rows are number block * 4096 and on.
            n_rows: Rows wanted, at most 4096.
            seed: Seed of the sample.
            attempt: Number of the redraw, when rules refused rows of the attempts before.
            given: Values fixed for every row; or a table of exactly `n_rows` rows and some of the learned columns, of
                types that can be cast to theirs. Its cells are kept exactly, and condition what is drawn beside them
                where their values were learned. Its nulls are filled: drawn, but not null again unless the method
                learned nothing else of the column (nested values, columns that are always null). Columns that it
                lacks are drawn as ever, nulls included.
            bounds: `rules.Bounds` by column: values outside are never drawn, where the method can promise it. Given
                cells may lie outside.

        Raises:
            DataError: Cells of a given table cannot become what its columns hold.
            SpecError: A given column does not exist, a fixed value was never learned, a given table has not `n_rows`
                rows, or the method has `conditions` False and something is given.

        """

    def latent_space(self, member: int = 0) -> LatentSpace:
        """The latent space of one network, to look into.

        Args:
            member: The network, where the model is an ensemble; each has a space of its own.

        Raises:
            SpecError: The method has none to look into, or the model no such member.

        """
        raise SpecError(f"method {self.method!r} has no latent space to look into", hint="fit with method vae")

    def _refuse_given(self, given: Mapping[str, Any] | pa.Table | None) -> None:
        """Refuse what is given, in methods that do not condition.

        Raises:
            SpecError: Something is.

        """
        if given is not None and len(given):
            raise SpecError(f"method {self.method!r} cannot fix given values", hint="use method vae or gaussian_copula")

    def unlearned(self, given: pa.Table) -> Mapping[str, int]:
        """Count given cells of values that were never learned, by column: they are kept and condition nothing."""
        return {}

    def sample(self, n_rows: int, *, seed: int = 0, given: Mapping[str, Any] | pa.Table | None = None) -> pa.Table:
        """Draw exactly `n_rows` rows, with the Arrow schema that was learned; `given` as in `sample_block`."""
        tables = list(self.sample_blocks(n_rows, seed=seed, given=given))
        return pa.concat_tables(tables)

    def sample_blocks(
        self, n_rows: int, *, seed: int = 0, given: Mapping[str, Any] | pa.Table | None = None
    ) -> Iterator[pa.Table]:
        """Draw `n_rows` rows block by block."""
        parts = given_blocks({} if given is None else given, self.schema, n_rows, BLOCK_ROWS)
        for block, part in enumerate(parts):
            yield self.sample_block(block, min(BLOCK_ROWS, n_rows - block * BLOCK_ROWS), seed=seed, given=part)

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the bundle: weights.safetensors, bundle.json, MODEL_CARD.md."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read a bundle; never runs code from it.

        Raises:
            ModelFileError: The bundle is missing, damaged or of another format.

        """
