"""Every error that tabvae raises on purpose.

    TabvaeError                     exit code 1
    ├── SpecError                   2   the refresh spec, a rule, an option
    │   ├── ImpossibleRule          2   no row, or too few, can satisfy a rule
    │   └── BudgetExceeded          2   more privacy budget is asked for than is left
    ├── DataError                   3   the table itself
    │   ├── SchemaDrift             3   the source no longer has the columns that the spec or model knows
    │   ├── SourceChanged           3   the source was rewritten while a run read it
    │   └── ModelFileError          3   a model bundle that is missing, damaged or of another format
    ├── GateRefused                 4   the synthetic table did not pass
    ├── PublishConflict             5   another writer moved the pointer first, or is refreshing the target
    └── StorageError                6   access, network, disk

A message says what is wrong, where, and what to do (`hint`). Messages never quote cells of real data.
All of them survive pickling, because tasks of an orchestrator cross processes.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BudgetExceeded",
    "DataError",
    "GateRefused",
    "ImpossibleRule",
    "ModelFileError",
    "PublishConflict",
    "SchemaDrift",
    "SourceChanged",
    "SpecError",
    "StorageError",
    "TabvaeError",
]


class TabvaeError(Exception):
    """A failure with a place and a remedy.

    Args:
        message: What is wrong, naming the table, column, rule or object.
        hint: What the user can do about it.

    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.__dict__.copy())


def _rebuild(kind: type[TabvaeError], message: str, hint: str, state: dict[str, object]) -> TabvaeError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class SpecError(TabvaeError):
    """The refresh spec, a rule or an option is wrong; found before anything runs."""

    exit_code = 2


class ImpossibleRule(SpecError):
    """A rule that no row can satisfy, or so few that sampling would not end.

    Args:
        rule: The rule as the spec writes it.
        acceptance: Share of the sampled rows that satisfied it, in [0, 1].

    """

    def __init__(self, message: str, *, rule: str, acceptance: float = 0.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.rule = rule
        self.acceptance = acceptance


class BudgetExceeded(SpecError):
    """A training, or a refresh of a source, would spend more privacy budget than is left; nothing was learned."""


class DataError(TabvaeError):
    """The table cannot be used: missing, malformed, empty, too small, or of a type that was not decided on."""

    exit_code = 3


class SchemaDrift(DataError):
    """The source's columns differ from those that the spec or the model was written for."""


class SourceChanged(DataError):
    """A source object was rewritten or removed while a run was reading it."""


class ModelFileError(DataError):
    """A model bundle is missing, damaged, or of a format that this version does not read."""


class GateRefused(TabvaeError):
    """The synthetic table did not pass its gates and was quarantined.

    Args:
        failures: One line for each gate that refused, naming rule or column.
        quarantine: URI of the quarantined table and its report.

    """

    exit_code = 4

    def __init__(self, message: str, *, failures: tuple[str, ...] = (), quarantine: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.failures = failures
        self.quarantine = quarantine


class PublishConflict(TabvaeError):
    """Another writer moved the release pointer between our read and our write, or is refreshing the target."""

    exit_code = 5


class StorageError(TabvaeError):
    """Storage refused or failed: credentials, network, permissions, a full disk."""

    exit_code = 6
