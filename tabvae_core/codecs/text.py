"""Free text made anew from words that many rows share.

Learned are single words with the share of rows that hold them, and how many words a text has. No sequence
of words is kept, because two common words in a row can already be one person's phrase ("Dr Smith,
diabetes"): what is never learned cannot reappear. A column whose words are all rare but whose cells have
a format (part numbers, plates) gets texts of that format, one of addresses of mail gets invented ones at
example.com, any other gets neutral words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.codecs._nulls import NULL, cells_with_nulls, is_null, null_log_prior, null_slots, presence
from tabvae_core.codecs.base import Codec, CodecState, Encoded, Fitter, FloatArray, IntArray
from tabvae_core.codecs.formats import FormatStats, KeyMaker, draw_key, uniform
from tabvae_core.codecs.null import NullCodec
from tabvae_core.codecs.ordinal import base_type, is_binary_like, is_string_like, plain, restore_type
from tabvae_core.errors import DataError
from tabvae_core.schema import ColumnSchema
from tabvae_core.spec import PrivacySpec
from tabvae_core.tables import row_hash

__all__ = ["TextCodec", "TextFitter"]

_SHARED_ROWS = 20
_MAX_VOCABULARY = 5_000
_MAX_COUNTED = 200_000
"""Words counted at a time; beyond it the rarest are forgotten: a count can be too low, never too high."""
_MAX_WORDS = 500
_MAX_WORD_LENGTH = 40
_QUANTILES = 33
_MAIL = r"^[^@\s]+@[^@\s]+\.[^@\s]+$"
_CONSONANTS, _VOWELS = "bdfgklmnprstv", "aeiou"


class TextCodec(Codec):
    """Makes texts; its only slot says which cells are null.

    Args:
        name: The column.
        arrow_type: Exact type of the cells.
        nulls: Share of nulls among the rows learned; None where the column has no nulls.
        words: Vocabulary; empty for neutral words.
        weights: Rows that hold each word, shape (words,).
        lengths: Quantiles of the number of words, shape (33,).
        style: "words", "mail", or "format".
        maker: The formats of style "format".

    """

    kind: ClassVar[str] = "text"

    def __init__(
        self,
        name: str,
        arrow_type: pa.DataType,
        *,
        nulls: float | None,
        words: Sequence[str],
        weights: npt.NDArray[np.float64],
        lengths: npt.NDArray[np.float64],
        style: str = "words",
        maker: KeyMaker | None = None,
    ) -> None:
        self.name, self.arrow_type, self.nulls = name, arrow_type, nulls
        self.slots = null_slots(name, nullable=nulls is not None)
        self.words, self.style = tuple(words), style
        self._weights, self._lengths, self._maker = weights, lengths, maker
        self._words = np.array(self.words, dtype=object)
        self._edges = np.cumsum(weights) / max(float(weights.sum()), 1e-300)

    def encode(self, array: pa.Array) -> Encoded:
        """Encode which cells are null."""
        return presence(array, self.slots)

    def decode(self, tokens: IntArray, values: FloatArray, *, rows: npt.NDArray[np.uint64], seed: int) -> pa.Array:
        """Make the texts of the given rows."""
        key = draw_key(seed, "text", self.name)
        if self._maker is not None:
            texts = self._maker.free_keys(rows, key=key)
        elif self.style == "mail":
            texts = _neutral_words(row_hash(rows, key)) + "." + _neutral_words(row_hash(rows, key + 1))
            texts = texts + "@example.com"
        else:
            texts = self._sentences(rows, key)
        return restore_type(self._cells(texts, tokens), self.arrow_type)

    def _sentences(self, rows: npt.NDArray[np.uint64], key: int) -> npt.NDArray[np.object_]:
        counts = self._counts(uniform(rows, key))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        places = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        hashed = row_hash(np.repeat(row_hash(rows, key + 1), counts) + places.astype(np.uint64), key + 2)
        if len(self._words):
            chosen = self._words[np.searchsorted(self._edges, uniform(hashed, key + 3), side="right")]
        else:
            chosen = _neutral_words(hashed)
        lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(chosen, pa.string()))
        texts: npt.NDArray[np.object_] = pc.binary_join(lists, " ").to_numpy(zero_copy_only=False)
        return texts

    def _counts(self, uniforms: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        grid = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        return np.rint(np.interp(uniforms, grid, self._lengths)).astype(np.int64)

    def _cells(self, texts: npt.NDArray[np.object_], tokens: IntArray) -> pa.Array:
        if not is_binary_like(self.arrow_type):
            return cells_with_nulls(texts, tokens, pa.large_string())
        kind = base_type(self.arrow_type)
        width = int(kind.byte_width) if pa.types.is_fixed_size_binary(kind) else None
        cells = np.empty(len(texts), dtype=object)
        cells[:] = [text.encode() if width is None else text.encode()[:width].ljust(width) for text in texts]
        return cells_with_nulls(cells, tokens, pa.large_binary())

    @property
    def null_token(self) -> int | None:
        """Token of null."""
        return NULL if self.slots else None

    def log_prior(self) -> list[npt.NDArray[np.float32] | None]:
        """Log frequencies of "there" and "null"."""
        return null_log_prior(self.slots, self.nulls or 0.0)

    def state(self) -> CodecState:
        """Vocabulary and lengths."""
        values: dict[str, Any] = {"name": self.name, "nulls": self.nulls, "words": list(self.words)}
        values["style"] = self.style
        values["formats"] = None if self._maker is None else self._maker.to_json()
        return CodecState(self.kind, values, {"weights": self._weights, "lengths": self._lengths})

    @classmethod
    def restore(cls, state: CodecState, arrow_type: pa.DataType) -> Self:
        """Rebuild the codec."""
        values, arrays = state.values, state.arrays
        formats = values["formats"]
        return cls(
            values["name"],
            arrow_type,
            nulls=values["nulls"],
            words=values["words"],
            weights=arrays["weights"],
            lengths=arrays["lengths"],
            style=values["style"],
            maker=None if formats is None else KeyMaker.from_json(formats),
        )


class TextFitter(Fitter):
    """Counts the rows that hold each word.

    Args:
        column: The column; its decision `unlearnable` is "generate" or "null".
        arrow_type: Exact type of the cells.
        privacy: Words of fewer than max(20, `min_category_rows`) rows are never stored.

    Raises:
        DataError: Cells of the type are not text.

    """

    def __init__(self, column: ColumnSchema, arrow_type: pa.DataType, privacy: PrivacySpec) -> None:
        self._kept_null = column.unlearnable == "null"
        if not self._kept_null and not (is_string_like(arrow_type) or is_binary_like(arrow_type)):
            raise DataError(f"column {column.name!r}: cells of type {arrow_type} are no text")
        self._column, self._type = column, arrow_type
        self._min_rows = max(_SHARED_ROWS, privacy.min_category_rows)
        self._rows = self._nulls = self._mails = 0
        self._words: Counter[str] = Counter()
        self._lengths: npt.NDArray[np.int64] = np.zeros(_MAX_WORDS + 1, dtype=np.int64)
        self._formats = FormatStats()

    def observe(self, array: pa.Array, first_row: int) -> None:
        """Count words."""
        if self._kept_null:
            return
        self._rows += len(array)
        self._nulls += int(is_null(array).sum())
        texts = _as_text(plain(array).drop_null())
        if len(texts) == 0:
            return
        self._formats.observe(texts)
        self._mails += int(pc.sum(pc.match_substring_regex(texts, _MAIL)).as_py())
        split = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts))
        words, parents = split.flatten(), np.asarray(pc.list_parent_indices(split))
        there = np.asarray(pc.not_equal(words, "").to_numpy(zero_copy_only=False), dtype=np.bool_)
        self._count_lengths(np.bincount(parents[there], minlength=len(texts)))
        self._count_words(words.filter(pa.array(there)), parents[there])

    def _count_lengths(self, counts: npt.NDArray[Any]) -> None:
        self._lengths += np.bincount(np.minimum(counts, _MAX_WORDS), minlength=_MAX_WORDS + 1)

    def _count_words(self, words: pa.Array, parents: npt.NDArray[Any]) -> None:
        encoded = words.dictionary_encode()
        codes = np.asarray(encoded.indices).astype(np.int64)
        size = max(len(encoded.dictionary), 1)
        # A word that stands twice in a text is still one row's word.
        once = np.unique(parents.astype(np.int64) * size + codes) % size
        rows = np.bincount(once, minlength=size)
        short = np.asarray(pc.less_equal(pc.utf8_length(encoded.dictionary), _MAX_WORD_LENGTH))
        for word, count, usable in zip(encoded.dictionary.to_pylist(), rows.tolist(), short, strict=False):
            if usable:
                self._words[word] += count
        self._prune()

    def _prune(self) -> None:
        least = 1
        while len(self._words) > _MAX_COUNTED:
            self._words = Counter({word: rows for word, rows in self._words.items() if rows > least})
            least += 1

    def merge(self, other: Self) -> None:
        """Add the counts of another fitter."""
        self._rows += other._rows
        self._nulls += other._nulls
        self._mails += other._mails
        self._words.update(other._words)
        self._lengths += other._lengths
        self._formats.merge(other._formats)
        self._prune()

    def finish(self) -> Codec:
        """Decide vocabulary and style."""
        if self._kept_null:
            return NullCodec(self._type)
        shared = [(rows, word) for word, rows in self._words.items() if rows >= self._min_rows]
        shared.sort(key=lambda item: (-item[0], item[1]))
        shared = shared[:_MAX_VOCABULARY]
        style, maker = self._style(shared)
        return TextCodec(
            self._column.name,
            self._type,
            nulls=self._nulls / max(self._rows, 1) if self._column.nullable else None,
            words=[word for _, word in shared] if style == "words" else [],
            weights=np.array([rows for rows, _ in shared] if style == "words" else [], dtype=np.float64),
            lengths=self._length_quantiles(),
            style=style,
            maker=maker,
        )

    def _style(self, shared: list[tuple[int, str]]) -> tuple[str, KeyMaker | None]:
        there = self._rows - self._nulls
        if there and self._mails >= 0.95 * there:
            return "mail", None
        # Shared words alone do not make part numbers ("A/5 21171"): most of the words must be shared.
        words = int((self._lengths * np.arange(_MAX_WORDS + 1)).sum())
        if sum(rows for rows, _ in shared) >= 0.6 * words or not self._formats.has_format:
            return "words", None
        return "format", KeyMaker(self._formats.variants(min_rows=self._min_rows, capacity=1))

    def _length_quantiles(self) -> npt.NDArray[np.float64]:
        """Quantiles within the distribution, never its ends: no single text's length stands out."""
        total = int(self._lengths.sum())
        if total == 0:
            return np.ones(_QUANTILES)
        grid = (np.arange(_QUANTILES) + 0.5) / _QUANTILES * total
        return np.searchsorted(np.cumsum(self._lengths), grid, side="left").astype(np.float64)


def _as_text(cells: pa.Array) -> pa.Array:
    """Cells as large_string; none at all where there are bytes that are not UTF-8."""
    try:
        return cells.cast(pa.large_string())
    except pa.ArrowInvalid:
        return pa.array([], pa.large_string())


def _neutral_words(hashed: npt.NDArray[np.uint64]) -> npt.NDArray[np.object_]:
    """Pronounceable words of two or three syllables from random bits, shape (n,)."""
    syllables = np.array([c + v for c in _CONSONANTS for v in _VOWELS], dtype=object)
    size = np.uint64(len(syllables))
    parts = [syllables[(row_hash(hashed, turn) % size).astype(np.intp)] for turn in range(3)]
    parts[2] = np.where(hashed & np.uint64(1), parts[2], "")
    words: npt.NDArray[np.object_] = parts[0] + parts[1] + parts[2]
    return words
