"""The text of a rule to a tree of plain values. Nothing of the text is ever executed.

A scanner replaces every name, number and string by a one-letter stand-in of the same width, Python's own
parser (`ast`) then settles precedence and brackets, and a whitelist of node types becomes the tree. So a
column may be called `class` or `education.num`, decimals keep their digits, and positions in errors are those
of the text.
"""

from __future__ import annotations

import ast
import difflib
import operator
import re
from dataclasses import dataclass
from decimal import Context, Decimal, DivisionByZero, InvalidOperation, Overflow, localcontext
from keyword import iskeyword

__all__ = [
    "And",
    "Arithmetic",
    "Call",
    "Column",
    "Compare",
    "Constant",
    "IsNull",
    "Member",
    "Node",
    "Not",
    "Or",
    "RuleFault",
    "Value",
    "column_names",
    "parse",
    "write_name",
]

Value = int | Decimal | str | bool | None

MAX_LENGTH = 10_000
"""Characters of a rule; generous for people, small enough that parsing can never hurt."""
MAX_EXPONENT = 400
"""Powers of ten of a number; those of a 64-bit float end at 308."""

_FUNCTIONS = ("abs", "isnull", "len", "notnull")
_WORDS = {"and", "or", "not", "in", "is"}
_CONSTANTS: dict[str, Value] = {"none": None, "null": None, "true": True, "false": False}
_FIRST_STAND_IN = 0x4E00  # the block of CJK ideographs: 20,000 letters that Python takes for names as they are
_EXACT = Context(prec=60)

_TOKEN = re.compile(
    r"""(?P<text>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*")
      | (?P<quoted>`(?:[^`]|``)+`)
      | (?P<number>(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<word>[^\W\d]\w*(?:\.[^\W\d]\w*)*)
      | (?P<operator><>|==|!=|<=|>=|&&|\|\||\*\*|//|[<>()\[\],+\-*/%{}])
      | (?P<space>\s+)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_INSTEAD = {
    "=": "equality is written ==",
    "<>": "inequality is written !=",
    "&&": "write and",
    "||": "write or",
    "&": "write and",
    "|": "write or",
    "!": "write not",
    "**": "powers are not supported",
    "//": "whole division is not supported",
    "'": "this quote is never closed",
    '"': "this quote is never closed",
    "`": "this backtick is never closed",
}


class RuleFault(Exception):
    """Something wrong at one place of a rule; becomes a `SpecError` that quotes the rule.

    Args:
        message: What is wrong.
        at: Position in the text, from 0; None: the rule as a whole.
        hint: What to do.

    """

    def __init__(self, message: str, at: int | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.at, self.hint = message, at, hint


@dataclass(frozen=True)
class Column:
    """The cells of a column."""

    name: str
    at: int


@dataclass(frozen=True)
class Constant:
    """A number, a text, a truth value or null."""

    value: Value
    at: int


@dataclass(frozen=True)
class Compare:
    """`left op right`, op one of < <= > >= == !=."""

    op: str
    left: Node
    right: Node
    at: int


@dataclass(frozen=True)
class Arithmetic:
    """`left op right`, op one of + - * / %."""

    op: str
    left: Node
    right: Node
    at: int


@dataclass(frozen=True)
class Call:
    """`len(...)` or `abs(...)`."""

    function: str
    operand: Node
    at: int


@dataclass(frozen=True)
class Member:
    """`item in values`, or `not in`."""

    item: Node
    values: tuple[Value, ...]
    negated: bool
    at: int


@dataclass(frozen=True)
class IsNull:
    """`isnull(item)`, or `notnull(item)`."""

    item: Node
    negated: bool
    at: int


@dataclass(frozen=True)
class And:
    """All parts hold."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    """Some part holds."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Not:
    """The part does not hold."""

    part: Node


Node = Column | Constant | Compare | Arithmetic | Call | Member | IsNull | And | Or | Not


def parse(text: str) -> Node:
    """Read a rule.

    Raises:
        RuleFault: The text is no rule; names the position.

    """
    if not text.strip():
        raise RuleFault("is empty")
    if len(text) > MAX_LENGTH:
        raise RuleFault(f"has {len(text):,} characters, at most {MAX_LENGTH:,} are read")
    source, symbols = _scan(text)
    lead = len(source) - len(source.lstrip())
    try:
        tree = ast.parse(source.strip(), mode="eval")
        node = _Reader(source.strip(), lead, symbols).read(tree.body)
    except SyntaxError as error:
        at = None if error.offset is None else min(error.offset - 1 + lead, len(text.rstrip()))
        raise RuleFault("cannot be read", at, "for example: age > 0 and status in ('open', 'closed')") from None
    except (RecursionError, MemoryError):
        raise RuleFault("has too many nested brackets") from None
    if not column_names(node):
        raise RuleFault("names no column")
    return node


def column_names(node: Node) -> frozenset[str]:
    """Names of the columns that a tree reads."""
    match node:
        case Column(name):
            return frozenset({name})
        case Compare(_, left, right) | Arithmetic(_, left, right):
            return column_names(left) | column_names(right)
        case Call(_, inner) | Member(inner) | IsNull(inner) | Not(inner):
            return column_names(inner)
        case And(parts) | Or(parts):
            return frozenset().union(*map(column_names, parts))
        case _:
            return frozenset()


def write_name(name: str) -> str:
    """Write a column's name as a rule does: plain where it reads as a name, else in backticks."""
    is_plain = name.isascii() and name.isidentifier() and not iskeyword(name)
    if is_plain and name.lower() not in _WORDS and name.lower() not in _CONSTANTS:
        return name
    return "`" + name.replace("`", "``") + "`"


def _scan(text: str) -> tuple[str, dict[str, Column | Constant]]:
    """Replace names and values by stand-ins; the result is as long as the text."""
    pieces: list[str] = []
    symbols: dict[str, Column | Constant] = {}
    for token in _TOKEN.finditer(text):
        piece = _keep(token, text)
        if piece is None:
            stand_in = chr(_FIRST_STAND_IN + len(symbols))
            symbols[stand_in] = _symbol(token)
            piece = stand_in + " " * (len(token.group()) - 1)
        pieces.append(piece)
    return "".join(pieces), symbols


def _keep(token: re.Match[str], text: str) -> str | None:
    """What stays in the source as it is: operators, brackets, functions; None for a name or value."""
    word, at = token.group(), token.start()
    if token["space"]:
        return " " * len(word)
    if token["operator"] and word not in _INSTEAD:
        return word
    if token["operator"] or token["other"]:
        raise RuleFault(f"cannot be read at {word!r}", at, _INSTEAD.get(word, ""))
    if not token["word"]:
        return None
    if word.lower() in _WORDS and (word.islower() or word.isupper()):
        return word.lower()
    if text[token.end() :].lstrip().startswith("("):
        if word.lower() in _FUNCTIONS:
            return word.lower()
        close = difflib.get_close_matches(word.lower(), _FUNCTIONS, n=1)
        hint = f"did you mean {close[0]}()?" if close else f"functions: {', '.join(_FUNCTIONS)}"
        raise RuleFault(f"calls {word}(), which is not known", at, hint)
    return None


def _symbol(token: re.Match[str]) -> Column | Constant:
    word, at = token.group(), token.start()
    if token["text"]:
        quote = word[0]
        inner = word[1:-1].replace(quote * 2, quote)
        return Constant(re.sub(r"\\([\\'\"])", r"\1", inner), at)
    if token["quoted"]:
        return Column(word[1:-1].replace("``", "`"), at)
    if token["number"]:
        number = Decimal(word.replace("_", ""))
        _check_size(number, at)
        return Constant(int(number) if word.replace("_", "").isdigit() else number, at)
    if word.lower() in _CONSTANTS and word in (word.lower(), word.upper(), word.capitalize()):
        return Constant(_CONSTANTS[word.lower()], at)
    return Column(word, at)


class _Reader:
    """Turns Python's tree into ours, refusing every node that is not listed here."""

    def __init__(self, source: str, lead: int, symbols: dict[str, Column | Constant]) -> None:
        self._bytes, self._lead, self._symbols = source.encode(), lead, symbols

    def _at(self, node: ast.expr) -> int:
        return len(self._bytes[: node.col_offset].decode()) + self._lead

    def read(self, node: ast.expr) -> Node:
        match node:
            case ast.Name(id=name):
                return self._name(node, name)
            case ast.BoolOp(op=op, values=values):
                parts = tuple(map(self.read, values))
                return And(parts) if isinstance(op, ast.And) else Or(parts)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Not(self.read(operand))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                zero = Constant(0, self._at(node))
                return _fold(Arithmetic("-", zero, self.read(operand), self._at(node)))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.read(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _fold(Arithmetic(_ARITHMETIC[type(op)], self.read(left), self.read(right), self._at(node)))
            case ast.Compare():
                return self._compare(node)
            case ast.Call(func=ast.Name(id=function), args=arguments):
                return self._call(node, function, arguments)
            case _:
                raise RuleFault("has something here that is no condition", self._at(node))

    def _name(self, node: ast.expr, name: str) -> Node:
        if name not in self._symbols:  # two tokens that touch, such as 5x
            raise RuleFault("cannot be read: an operator is missing", self._at(node) + 1)
        return self._symbols[name]

    def _call(self, node: ast.expr, function: str, arguments: list[ast.expr]) -> Node:
        if len(arguments) != 1:
            raise RuleFault(f"{function}() takes one column, however: {len(arguments)} arguments", self._at(node))
        inner = self.read(arguments[0])
        if function in ("isnull", "notnull"):
            return IsNull(inner, function == "notnull", self._at(node))
        return Call(function, inner, self._at(node))

    def _compare(self, node: ast.Compare) -> Node:
        parts: list[Node] = []
        left = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            parts.append(self._pair(left, op, right))
            left = right
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Node:
        at = self._at(left)
        if isinstance(op, ast.In | ast.NotIn):
            return Member(self.read(left), self._values(right), isinstance(op, ast.NotIn), at)
        first, second = self.read(left), self.read(right)
        if isinstance(first, Constant) and first.value is None:
            first, second = second, first
        if isinstance(second, Constant) and second.value is None:
            if not isinstance(op, ast.Is | ast.IsNot | ast.Eq | ast.NotEq):
                raise RuleFault("orders by null", at, "use isnull(column) or notnull(column)")
            return IsNull(first, isinstance(op, ast.IsNot | ast.NotEq), at)
        if isinstance(op, ast.Is | ast.IsNot):
            raise RuleFault("uses `is` with something other than null", at, "equality is written ==")
        return Compare(_COMPARISON[type(op)], first, second, at)

    def _values(self, node: ast.expr) -> tuple[Value, ...]:
        if not isinstance(node, ast.List | ast.Tuple | ast.Set):
            raise RuleFault("`in` needs a list of values", self._at(node), "for example: status in ('open', 'closed')")
        values: list[Value] = []
        for element in node.elts:
            item = self.read(element)
            if not isinstance(item, Constant):
                raise RuleFault("the list after `in` holds more than values", self._at(element))
            if item.value is None:
                raise RuleFault("the list after `in` holds null", self._at(element), "add `or isnull(column)`")
            values.append(item.value)
        if not values:
            raise RuleFault("the list after `in` is empty", self._at(node))
        return tuple(values)


_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Mod: "%",
}
_COMPARISON: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
_PYTHON = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "%": operator.mod}


def _fold(node: Arithmetic) -> Node:
    """Compute arithmetic of two constants, so that `-5` and `30 * 86400` are constants too."""
    left, right = node.left, node.right
    if not isinstance(left, Constant) or not isinstance(right, Constant):
        return node
    if not _is_number(left.value) or not _is_number(right.value):
        raise RuleFault(f"{node.op} needs numbers", node.at)
    try:
        with localcontext(_EXACT):
            value = _PYTHON[node.op](Decimal(left.value), Decimal(right.value))  # type: ignore[arg-type]
    except (InvalidOperation, DivisionByZero, Overflow):
        raise RuleFault("divides by zero, or leaves the range of numbers", node.at) from None
    _check_size(value, node.at)
    whole = isinstance(left.value, int) and isinstance(right.value, int) and value == value.to_integral_value()
    return Constant(int(value) if whole else value, node.at)


def _check_size(number: Decimal, at: int) -> None:
    """Keep exact arithmetic cheap: 1e999999999 has a billion digits."""
    if number and abs(number.adjusted()) > MAX_EXPONENT:
        raise RuleFault("has a number that no column can hold", at)


def _is_number(value: Value) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)
