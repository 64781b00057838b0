"""Formats of keys: what "C-000123", a UUID and a 64-bit number share with their neighbours, and nothing more.

A text is cut into *runs* of letters and digits between separators. Texts with the same separators share a
*skeleton*; within one, every position of every run has the alphabet that its characters show over all rows. A
*variant* is one skeleton with one length for each run, written out as one alphabet a position. Values are not
kept: only counts of characters by position, over all rows of a skeleton.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.codecs.ordinal import plain
from tabvae_core.tables import row_hash

__all__ = ["FormatStats", "KeyMaker", "Variant", "draw_key", "permute", "uniform"]

Rows = npt.NDArray[np.uint64]

DIGITS, LOWER, UPPER = "0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
BYTES = "".join(map(chr, range(256)))
_ALPHABETS = (DIGITS, UPPER, LOWER, DIGITS + UPPER, DIGITS + LOWER, UPPER + LOWER, DIGITS + UPPER + LOWER)
_HEX = (DIGITS + "abcdef", DIGITS + "ABCDEF")
_RUN = "\x02"
_MAX_SKELETONS = 64
_MAX_VARIANTS = 16
_MAX_LENGTHS = 1000
_MAX_POSITIONS = 64
_MAX_TEXT = 128
_SHARED_BY_ALL = 20
"""Rows that must show the same character before it counts as part of the format."""
_SET_ROWS = 200
_SET_SIZE = 4
_INDEX_CAPACITY = 2**61


@dataclass(frozen=True)
class Variant:
    """One format: an alphabet for each position (a literal is an alphabet of one), and its share of rows."""

    alphabets: tuple[str, ...]
    share: float = 1.0

    @property
    def capacity(self) -> int:
        """Different texts of this format, exact up to 2^61 and 2^61 beyond."""
        total = 1
        for alphabet in self.alphabets:
            total *= len(alphabet)
            if total > _INDEX_CAPACITY:
                return _INDEX_CAPACITY
        return total

    def grown(self, extra: int) -> Variant:
        """The format made longer by `extra` positions after its last free one."""
        free = [i for i, alphabet in enumerate(self.alphabets) if len(alphabet) > 1]
        at = free[-1] + 1 if free else len(self.alphabets)
        alphabet = self.alphabets[at - 1] if free else DIGITS
        if alphabet == DIGITS[1:]:
            alphabet = DIGITS
        longer = (*self.alphabets[:at], *[alphabet] * extra, *self.alphabets[at:])
        return Variant(longer, self.share)

    def texts(self, index: Rows, noise: Rows) -> npt.NDArray[np.uint32]:
        """Write numbers in the mixed base of the alphabets.

        Args:
            index: Numbers below `capacity`, shape (n,); different numbers give different texts.
            noise: Random bits, shape (n,), for positions that the number does not reach.

        Returns:
            Code points, shape (n, positions).

        """
        points = np.empty((len(index), len(self.alphabets)), dtype=np.uint32)
        rest, room = index.copy(), _INDEX_CAPACITY
        for position in range(len(self.alphabets) - 1, -1, -1):
            alphabet = np.array([ord(c) for c in self.alphabets[position]], dtype=np.uint32)
            size = len(alphabet)
            if size == 1:
                points[:, position] = alphabet[0]
            elif room >= size:
                points[:, position] = alphabet[(rest % np.uint64(size)).astype(np.intp)]
                rest, room = rest // np.uint64(size), room // size
            else:
                picked = row_hash(noise, position) % np.uint64(size)
                points[:, position] = alphabet[picked.astype(np.intp)]
        return points

    def regex(self, *, growing: bool = False) -> str:
        """Regular expression of the format; `growing`: longer ones too."""
        parts: list[str] = []
        runs = list(_run_lengths(self.alphabets))
        free = [i for i, (alphabet, _) in enumerate(runs) if len(alphabet) > 1]
        last = free[-1] if free else None
        for i, (alphabet, count) in enumerate(runs):
            more = growing and i == last
            if more and alphabet == DIGITS[1:]:
                parts.append(f"{_class(alphabet)}{{{count}}}{_class(DIGITS)}*" if count > 1 else "[1-9][0-9]*")
                continue
            if more:
                parts.append(f"{_class(alphabet)}{{{count},}}")
            elif len(alphabet) == 1 or count == 1:
                parts.append(_class(alphabet) * count)
            else:
                parts.append(f"{_class(alphabet)}{{{count}}}")
        return "".join(parts)


def _run_lengths(alphabets: Sequence[str]) -> Iterator[tuple[str, int]]:
    start = 0
    for end in range(1, len(alphabets) + 1):
        if end == len(alphabets) or alphabets[end] != alphabets[start]:
            yield alphabets[start], end - start
            start = end


def _class(alphabet: str) -> str:
    """One alphabet in regular-expression syntax that Python, RE2 and SQL engines share."""
    if len(alphabet) == 1:
        return alphabet if alphabet.isalnum() else re.escape(alphabet)
    points = sorted(map(ord, alphabet))
    ranges: list[list[int]] = []
    for point in points:
        if ranges and point == ranges[-1][1] + 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "[" + "".join(chr(a) if a == b else f"{chr(a)}-{chr(b)}" for a, b in ranges) + "]"


@dataclass
class _Skeleton:
    """What the rows of one skeleton show."""

    rows: int = 0
    characters: dict[tuple[int, int], npt.NDArray[np.int64]] = field(default_factory=dict)
    """Rows by character, shape (256,), at (run, position)."""
    lengths: Counter[tuple[int, ...]] = field(default_factory=Counter)

    def add(self, other: _Skeleton) -> None:
        self.rows += other.rows
        for place, counts in other.characters.items():
            mine = self.characters.get(place)
            self.characters[place] = counts if mine is None else mine + counts
        for lengths, rows in other.lengths.items():
            if lengths in self.lengths or len(self.lengths) < _MAX_LENGTHS:
                self.lengths[lengths] += rows


class FormatStats:
    """Mergeable counts of the formats of a column of texts or bytes.

    Args:
        binary: Whether cells are bytes without any text format; all bytes then form one run.

    """

    def __init__(self, *, binary: bool = False) -> None:
        self.binary = binary
        self.rows = 0
        self.other = 0
        """Rows outside the first 64 skeletons, empty, or longer than 128 characters."""
        self._with_digit = 0
        self._skeletons: dict[str, _Skeleton] = {}

    def observe(self, cells: pa.Array) -> None:
        """Count cells, nulls left out."""
        cells = plain(cells).drop_null()
        if pa.types.is_large_string(cells.type) == self.binary:
            cells = cells.cast(pa.large_binary() if self.binary else pa.large_string())
        self.rows += len(cells)
        lengths = pc.binary_length(cells)
        usable = cells.filter(pc.and_(pc.greater(lengths, 0), pc.less_equal(lengths, _MAX_TEXT)))
        if not self.binary:
            usable = usable.filter(pc.invert(pc.match_substring(usable, _RUN)))
        self.other += len(cells) - len(usable)
        if len(usable) == 0:
            return
        if self.binary:
            self._count(_RUN, [usable])
            return
        self._with_digit += int(pc.sum(pc.match_substring_regex(usable, "[0-9]")).as_py())
        skeletons = pc.replace_substring_regex(usable, "[0-9A-Za-z]+", _RUN).dictionary_encode()
        for code, skeleton in enumerate(skeletons.dictionary.to_pylist()):
            members = usable.filter(pc.equal(skeletons.indices, code))
            if skeleton in self._skeletons or len(self._skeletons) < _MAX_SKELETONS:
                self._count(skeleton, _runs(members, skeleton))
            else:
                self.other += len(members)

    def _count(self, skeleton: str, runs: list[pa.Array]) -> None:
        seen = _Skeleton(rows=len(runs[0]) if runs else 0)
        lengths = [np.asarray(pc.binary_length(run)) for run in runs]
        if runs:
            kinds, counts = np.unique(np.stack(lengths, axis=1), axis=0, return_counts=True)
            order = np.argsort(-counts, kind="stable")[:_MAX_LENGTHS]
            seen.lengths = Counter({tuple(map(int, kinds[i])): int(counts[i]) for i in order})
        for number, run in enumerate(runs):
            for position, column in enumerate(_byte_columns(run, lengths[number])):
                seen.characters[number, position] = np.bincount(column, minlength=256).astype(np.int64)
        self._skeletons.setdefault(skeleton, _Skeleton()).add(seen)

    def merge(self, other: Self) -> None:
        """Take in another partial result."""
        self.rows += other.rows
        self.other += other.other
        self._with_digit += other._with_digit
        for skeleton, seen in sorted(other._skeletons.items()):
            if skeleton in self._skeletons or len(self._skeletons) < _MAX_SKELETONS:
                self._skeletons.setdefault(skeleton, _Skeleton()).add(seen)
            else:
                self.other += seen.rows

    @property
    def is_key_like(self) -> bool:
        """Whether the cells look like keys: few skeletons without blanks, and digits or one fixed length."""
        if self.rows == 0 or self.other > 0 or len(self._skeletons) > _MAX_VARIANTS:
            return False
        if self.binary:
            return len(next(iter(self._skeletons.values())).lengths) == 1
        if any(re.search(r"[\s@]", skeleton) for skeleton in self._skeletons):
            return False
        return self._share_with_digits() >= 0.95 or self._is_fixed_code()

    @property
    def has_format(self) -> bool:
        """Whether few skeletons, blanks allowed, describe nearly all cells, and digits stand in most."""
        covered = sum(seen.rows for _, seen in self._common(max(_SHARED_BY_ALL, self.rows // 100)))
        return not self.binary and covered >= 0.95 * max(self.rows, 1) and self._share_with_digits() >= 0.9

    def _share_with_digits(self) -> float:
        return self._with_digit / max(self.rows, 1)

    def _is_fixed_code(self) -> bool:
        """One length over all: two capital letters or digits and more, or eight of any letters."""
        if len(self._skeletons) != 1:
            return False
        (seen,) = self._skeletons.values()
        used = {chr(i) for counts in seen.characters.values() for i in np.flatnonzero(counts)}
        shortest = 2 if used <= set(DIGITS + UPPER) else 8
        return len(seen.lengths) == 1 and sum(next(iter(seen.lengths))) >= shortest

    def _common(self, min_rows: int) -> list[tuple[str, _Skeleton]]:
        kept = [(name, seen) for name, seen in self._skeletons.items() if seen.rows >= min_rows and seen.lengths]
        return sorted(kept, key=lambda item: (-item[1].rows, item[0]))[:_MAX_VARIANTS]

    def variants(self, *, min_rows: int, capacity: int) -> tuple[Variant, ...]:
        """Decide the formats, most frequent first; shares add up to 1.

        Args:
            min_rows: Rows that must share a skeleton for it to count.
            capacity: Different texts that each format must have room for. A format with less is loosened:
                small sets of characters become whole alphabets, then constant digits become free. When no
                format has room, the most frequent one grows longer.

        """
        found: list[tuple[int, Variant]] = []
        for skeleton, seen in self._common(min_rows):
            for lengths, rows in sorted(seen.lengths.items(), key=_frequent_first)[:_MAX_VARIANTS]:
                for looseness in range(3):
                    variant = Variant(self._positions(skeleton, seen, lengths, looseness))
                    if variant.capacity >= capacity:
                        found.append((rows, variant))
                        break
        if not found:
            return (self._widened(min_rows, capacity),)
        found.sort(key=lambda item: (-item[0], item[1].alphabets))
        found = found[:_MAX_VARIANTS]
        total = sum(rows for rows, _ in found)
        return tuple(Variant(variant.alphabets, rows / total) for rows, variant in found)

    def _widened(self, min_rows: int, capacity: int) -> Variant:
        """The most frequent skeleton at its longest, made longer until it has room."""
        common = self._common(min_rows)
        if common:
            skeleton, seen = common[0]
            longest = max(seen.lengths, key=lambda lengths: (sum(lengths), lengths))
            variant = Variant(self._positions(skeleton, seen, longest, 2))
        else:
            variant = Variant((BYTES,) * 16 if self.binary else (DIGITS + LOWER,) * 8)
        extra = 0
        while variant.grown(extra).capacity < capacity:
            extra += 1
        return variant.grown(extra)

    def _positions(self, skeleton: str, seen: _Skeleton, lengths: tuple[int, ...], looseness: int) -> tuple[str, ...]:
        alphabets: list[str] = []
        number = 0
        for character in skeleton:
            if character != _RUN:
                alphabets.append(character)
                continue
            hexadecimal = None if self.binary else self._hexadecimal(seen, number)
            for position in range(lengths[number]):
                counts = seen.characters[number, min(position, _MAX_POSITIONS - 1)]
                if self.binary:
                    alphabets.append(_byte_alphabet(counts))
                else:
                    alphabets.append(_alphabet(counts, looseness, hexadecimal, first=position == 0))
            number += 1
        return tuple(alphabets)

    @staticmethod
    def _hexadecimal(seen: _Skeleton, number: int) -> str | None:
        """The hexadecimal alphabet when a run's free positions show it alone, both letters and digits."""
        used: set[str] = set()
        for (run, _), counts in seen.characters.items():
            if run == number and np.count_nonzero(counts) > 1:
                used |= {chr(i) for i in np.flatnonzero(counts)}
        if not used or used <= set(DIGITS) or not used & set(DIGITS):
            return None
        return next((alphabet for alphabet in _HEX if used <= set(alphabet)), None)


def _frequent_first(item: tuple[tuple[int, ...], int]) -> tuple[int, tuple[int, ...]]:
    return -item[1], item[0]


def _alphabet(counts: npt.NDArray[np.int64], looseness: int, hexadecimal: str | None, *, first: bool) -> str:
    """Alphabet of one position, from the rows by character that it shows."""
    used = "".join(chr(i) for i in np.flatnonzero(counts))
    rows = int(counts.sum())
    if len(used) == 1 and rows >= _SHARED_BY_ALL and (looseness < 2 or used not in DIGITS):
        return used
    if looseness == 0 and rows >= _SET_ROWS and 1 < len(used) <= _SET_SIZE:
        shown = [int(n) for n in counts if n]
        if min(shown) >= _SHARED_BY_ALL:
            return used
    if hexadecimal is not None:
        return hexadecimal
    alphabet = next(a for a in _ALPHABETS if set(used) <= set(a))
    if first and alphabet == DIGITS and "0" not in used and rows >= _SHARED_BY_ALL:
        return DIGITS[1:]
    return alphabet


def _byte_alphabet(counts: npt.NDArray[np.int64]) -> str:
    """Bytes that share their high half, or their two top bits, in all of 200 rows and more (as in a UUID)."""
    used = np.flatnonzero(counts)
    if int(counts.sum()) >= _SET_ROWS:
        for shift in (4, 6):
            heads = np.unique(used >> shift)
            if len(heads) == 1:
                start = int(heads[0]) << shift
                return BYTES[start : start + (1 << shift)]
    return BYTES


def _runs(cells: pa.Array, skeleton: str) -> list[pa.Array]:
    """The runs of texts of one skeleton, one array a run."""
    parts = pc.split_pattern_regex(cells, "[^0-9A-Za-z]+")
    width = pc.list_value_length(parts)[0].as_py()
    flat = parts.flatten()
    # A separator at either end leaves an empty part there.
    first = 0 if skeleton.startswith(_RUN) else 1
    starts = np.arange(0, len(flat), width)
    return [flat.take(pa.array(starts + first + number)) for number in range(skeleton.count(_RUN))]


def _byte_columns(cells: pa.Array, lengths: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.uint8]]:
    """The bytes of all cells at position 0, 1, …, 63; cells too short for a position are left out there."""
    offsets = np.frombuffer(cells.buffers()[1], dtype=np.int64)[cells.offset : cells.offset + len(cells)]
    data = np.frombuffer(cells.buffers()[2], dtype=np.uint8)
    for position in range(min(int(lengths.max(initial=0)), _MAX_POSITIONS)):
        yield data[offsets[lengths > position] + position]


def uniform(rows: Rows, key: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) that depend on row number and key alone."""
    bits: npt.NDArray[np.float64] = (row_hash(rows, key) >> np.uint64(11)).astype(np.float64)
    return bits * 2.0**-53


def draw_key(seed: int, *names: str | int) -> int:
    """A 63-bit key for a seed and names; different ones give unrelated draws."""
    text = "\x00".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def permute(rows: Rows, size: int, key: int) -> Rows:
    """Shuffle the numbers 0 … size-1 without a table.

    A Feistel network with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).

    Args:
        rows: Numbers below `size`, shape (n,).
        size: Size of the domain, at most 2^62.
        key: Chooses the permutation.

    Returns:
        Numbers below `size`, shape (n,); different ones for different input.

    """
    half = np.uint64(max(((size - 1).bit_length() + 1) // 2, 1))
    low_bits = (np.uint64(1) << half) - np.uint64(1)
    result = rows.astype(np.uint64)
    pending = np.arange(len(result))
    while len(pending):
        left, right = result[pending] >> half, result[pending] & low_bits
        for turn in range(4):
            left, right = right, left ^ (row_hash(right, key + turn) & low_bits)
        result[pending] = (left << half) | right
        pending = pending[result[pending] >= np.uint64(size)]
    return result


class KeyMaker:
    """Makes a different key for every row number, in given formats; needs no state, so shards never collide.

    A row draws its format by share. Formats have room for far more rows than were seen. Rows beyond the
    room of their format get keys longer than every format, so they collide with none.

    Args:
        variants: Formats that no text shares; see `FormatStats.variants`.

    """

    def __init__(self, variants: Sequence[Variant]) -> None:
        self.variants = tuple(variants)
        edges = np.cumsum([variant.share for variant in self.variants])
        self._edges = edges / edges[-1]
        longest = max(len(variant.alphabets) for variant in self.variants)
        self._first_growth = longest - len(self.variants[0].alphabets) + 1

    def keys(self, rows: Rows, *, key: int) -> npt.NDArray[np.object_]:
        """Make keys.

        Args:
            rows: Row numbers, shape (n,).
            key: Chooses the sequence of keys.

        Returns:
            Texts, shape (n,); characters stand for bytes where the formats are of bytes.

        """
        made = np.empty(len(rows), dtype=object)
        chosen = np.searchsorted(self._edges, uniform(rows, key), side="right")
        beyond = np.zeros(len(rows), dtype=np.bool_)
        for number, variant in enumerate(self.variants):
            mine = np.flatnonzero(chosen == number)
            fits = rows[mine] < variant.capacity
            self._write(made, rows, mine[fits], variant, key + 16 * (number + 1))
            beyond[mine[~fits]] = True
        extra = self._first_growth
        while beyond.any():
            variant = self.variants[0].grown(extra)
            fits = beyond & (rows < variant.capacity)
            self._write(made, rows, np.flatnonzero(fits), variant, key + 1024 + 16 * extra)
            beyond &= ~fits
            extra += 1
        return made

    @staticmethod
    def _write(
        made: npt.NDArray[np.object_], rows: Rows, where: npt.NDArray[np.intp], variant: Variant, key: int
    ) -> None:
        if len(where) == 0:
            return
        numbers = rows[where]
        points = variant.texts(permute(numbers, variant.capacity, key), row_hash(numbers, key + 8))
        made[where] = [row.tobytes().decode("utf-32-le") for row in points.astype("<u4")]

    def free_keys(self, rows: Rows, *, key: int) -> npt.NDArray[np.object_]:
        """Make keys of the formats that need not differ from row to row; otherwise as `keys`."""
        hashed = row_hash(rows, key + 1) >> np.uint64(3)
        made = np.empty(len(rows), dtype=object)
        chosen = np.searchsorted(self._edges, uniform(rows, key), side="right")
        for number, variant in enumerate(self.variants):
            mine = np.flatnonzero(chosen == number)
            if len(mine):
                points = variant.texts(hashed[mine] % np.uint64(variant.capacity), row_hash(rows[mine], key + 2))
                made[mine] = [row.tobytes().decode("utf-32-le") for row in points.astype("<u4")]
        return made

    @property
    def regex(self) -> str:
        """Regular expression that every key matches, whatever the number of rows."""
        first, *others = self.variants
        growing = any(variant.capacity < _INDEX_CAPACITY for variant in self.variants)
        return f"^(?:{'|'.join([first.regex(growing=growing), *(v.regex() for v in others)])})$"

    def to_json(self) -> list[dict[str, Any]]:
        """The formats as JSON, alphabets with repeats."""
        return [{"share": v.share, "alphabets": [list(p) for p in _run_lengths(v.alphabets)]} for v in self.variants]

    @classmethod
    def from_json(cls, stored: Sequence[dict[str, Any]]) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            [
                Variant(
                    tuple(a for a, count in item["alphabets"] for _ in range(int(count))),
                    float(item["share"]),
                )
                for item in stored
            ]
        )
