"""`Rule`: a condition on the rows of a table, and how it is evaluated."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.errors import SpecError
from tabvae_core.rules import syntax, values
from tabvae_core.rules.syntax import RuleFault

__all__ = ["Rule", "as_rules", "parse_rule", "spec_error", "violations"]

_Cells = Mapping[str, pa.Array]


@dataclass(frozen=True)
class Rule:
    """A condition on the cells of one row; equal when the texts are.

    Args:
        text: The rule as the spec writes it.
        tree: What it means.

    """

    text: str
    tree: syntax.Node = field(repr=False, compare=False)

    @property
    def columns(self) -> frozenset[str]:
        """Names of the columns that the rule reads."""
        return syntax.column_names(self.tree)

    def evaluate(self, data: pa.Table | pa.RecordBatch, *, null_as: bool = True) -> pa.BooleanArray:
        """Test every row.

        Args:
            data: Rows with at least the rule's columns.
            null_as: What counts where nulls leave the answer open; True as in SQL's CHECK, False as in its
            WHERE.

        Returns:
            One boolean a row, without nulls.

        Raises:
            SpecError: A column is missing, or its type does not fit the rule.

        """
        try:
            if isinstance(data, pa.Table):
                self._check_columns(data.schema)
                return self._evaluate_table(data, null_as)
            return self._evaluate_batch(data, null_as)
        except RuleFault as fault:
            raise spec_error(self.text, fault) from None

    def _evaluate_table(self, table: pa.Table, null_as: bool) -> pa.BooleanArray:
        parts = [self._evaluate_batch(batch, null_as) for batch in table.select(sorted(self.columns)).to_batches()]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.bool_())

    def _evaluate_batch(self, batch: pa.RecordBatch, null_as: bool) -> pa.BooleanArray:
        self._check_columns(batch.schema)
        cells = {name: values.plain(batch.column(name)) for name in self.columns}
        return pc.fill_null(_truth(self.tree, cells), null_as)

    def _check_columns(self, schema: pa.Schema) -> None:
        for name in sorted(self.columns):
            if len(schema.get_all_field_indices(name)) != 1:
                raise _unknown_column(name, self.tree, schema.names)


def parse_rule(text: str) -> Rule:
    """Read a rule, such as `age > 0`, `status in ('open', 'closed')` or `` `closed at` >= opened_at ``.

    Raises:
        SpecError: The text is no rule; names the place.

    """
    try:
        return Rule(text, syntax.parse(text))
    except RuleFault as fault:
        raise spec_error(text, fault) from None


def as_rules(rules: Iterable[Rule | str]) -> tuple[Rule, ...]:
    """Read those that are still texts."""
    return tuple(rule if isinstance(rule, Rule) else parse_rule(rule) for rule in rules)


def violations(rules: Iterable[Rule | str], data: pa.Table | pa.RecordBatch) -> dict[str, int]:
    """Count the rows that break each rule, by the rule's text."""
    return {rule.text: int(data.num_rows) - int(pc.sum(rule.evaluate(data)).as_py() or 0) for rule in as_rules(rules)}


def spec_error(text: str, fault: RuleFault) -> SpecError:
    """Say which rule is wrong, and where in it."""
    place = "" if fault.at is None else f", character {fault.at + 1}"
    hint = fault.hint or "a rule is a condition on columns, such as `age > 0` or `closed_at >= opened_at`"
    return SpecError(f"rule {text.strip()!r}{place}: {fault.message}", hint=hint)


def _unknown_column(name: str, tree: syntax.Node, known: list[str]) -> RuleFault:
    if known.count(name) > 1:
        return RuleFault(f"column {name!r} stands more than once in the table", _position(tree, name))
    # `closed-at` without backticks reads as a difference of `closed` and `at`
    dashed = [column for column in known if "-" in column and name in column.split("-")]
    lower = {column.lower(): column for column in known}
    close = dashed or [lower[found] for found in difflib.get_close_matches(name.lower(), lower, n=1)]
    if close:
        quoted = close[0] if close[0].replace(".", "_").isidentifier() else f"`{close[0]}`"
        hint = f"did you mean {quoted}?"
    else:
        hint = f"columns: {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}"
    return RuleFault(f"there is no column {name!r}", _position(tree, name), hint)


def _position(node: Any, name: str) -> int | None:
    """Where a column stands in the text."""
    if isinstance(node, syntax.Column):
        return node.at if node.name == name else None
    children = node if isinstance(node, tuple) else tuple(vars(node).values()) if is_dataclass(node) else ()
    places = (_position(child, name) for child in children)
    return next((place for place in places if place is not None), None)


def _truth(node: syntax.Node, cells: _Cells) -> pa.Array:
    """Evaluate a condition to a boolean array with nulls."""
    match node:
        case syntax.And(parts):
            return _joined(pc.and_kleene, parts, cells)
        case syntax.Or(parts):
            return _joined(pc.or_kleene, parts, cells)
        case syntax.Not(part):
            return pc.invert(_truth(part, cells))
        case syntax.Compare():
            return _compare(node, cells)
        case syntax.Member(item, members, negated, at):
            return values.is_member(_array(item, cells, at), members, negated, at)
        case syntax.IsNull(item, negated, at):
            array = _array(item, cells, at)
            return pc.is_valid(array) if negated else pc.is_null(array)
        case syntax.Constant(value, at):
            if not isinstance(value, bool):
                raise RuleFault("has a value where a condition is needed", at)
            return pa.repeat(pa.scalar(value), len(next(iter(cells.values()))))
        case _:
            array = _array(node, cells, None)
            if values.family(array.type) is values.Family.NULL:
                return pa.nulls(len(array), pa.bool_())
            if values.family(array.type) is not values.Family.BOOLEAN:
                raise RuleFault(
                    f"has a {values.family(array.type)} where a condition is needed",
                    getattr(node, "at", None),
                )
            return array


def _joined(kernel: Callable[[Any, Any], Any], parts: tuple[syntax.Node, ...], cells: _Cells) -> pa.Array:
    return reduce(kernel, (_truth(part, cells) for part in parts))


def _operand(node: syntax.Node, cells: _Cells) -> pa.Array | syntax.Value:
    match node:
        case syntax.Column(name):
            return cells[name]
        case syntax.Constant(value):
            return value
        case syntax.Arithmetic(op, left, right, at):
            return values.arithmetic(op, _operand(left, cells), _operand(right, cells), at)
        case syntax.Call(function, inner, at):
            return values.function(function, _array(inner, cells, at), at)
        case _:
            return _truth(node, cells)


def _array(node: syntax.Node, cells: _Cells, at: int | None) -> pa.Array:
    found = _operand(node, cells)
    if not isinstance(found, pa.Array):
        raise RuleFault("needs a column here, not a constant", at)
    return found


def _compare(node: syntax.Compare, cells: _Cells) -> pa.Array:
    left, right = _operand(node.left, cells), _operand(node.right, cells)
    match isinstance(left, pa.Array), isinstance(right, pa.Array):
        case True, True:
            return values.compare_arrays(node.op, left, right, node.at)
        case True, False:
            return values.compare_constant(node.op, left, right, node.at)
        case False, True:
            return values.compare_constant(values.FLIPPED[node.op], right, left, node.at)
    raise RuleFault("compares two constants", node.at)
