"""Rules: conditions that every synthetic row satisfies, such as `age > 0` or `closed_at >= opened_at`.

The language is a small part of Python's expressions: comparisons (chained too), `and`, `or`, `not`, `in` and
`not in` lists of values, `+ - * / %`, `len()`, `abs()`, `isnull()` and `notnull()`. Columns are written as
they are, or in backticks: `` `hours per week` > 0 ``. Dates are quoted ISO texts, durations are seconds.
"""

from __future__ import annotations

from tabvae_core.rules.bounds import Bounds, bounds_of, check_rules, residual
from tabvae_core.rules.rule import Rule, as_rules, parse_rule, violations

__all__ = ["Bounds", "Rule", "as_rules", "bounds_of", "check_rules", "parse_rule", "residual", "violations"]
