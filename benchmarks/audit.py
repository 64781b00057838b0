"""Audit the accounts: attack the private mechanisms with canaries, as they are and with half the noise.

    python benchmarks/audit.py --epsilons 1,3,10 --canaries 50000 --runs 20

Each run tosses a coin for every canary, trains (or counts) with the noise that the accountant asks for, lets the
attacker guess, and bounds epsilon from below; see `tabvae_core/privacy/audit.py`. With the whole noise, a run in twenty
may be refuted by chance; with half of it, every run should be: the share that is, is the power of the audit. Results
are written to docs/benchmarks.md and kept in docs/benchmarks/audit.json as they come.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import statistics
from collections.abc import Callable

import numpy as np
from page import Kept, comma_separated, parser_of, table, write_section

from tabvae_core.privacy.accounting import Budget, rho_of
from tabvae_core.privacy.audit import Audit, attack_counts, attack_training
from tabvae_core.privacy.dpsgd import PrivatePlan, SecretRandomness, sampled_gaussian
from tabvae_core.privacy.noise import Noise

NAME = "audit"
DELTA = 1e-5
_PLAN = PrivatePlan(steps=40, sample_rate=0.5, noise=1.0, learning_rate=0.1, expected_batch=100.0)
_SHARES = {"as asked": 1.0, "half": 0.5}

_ABOUT = (
    "{canaries:,} canaries, {runs} runs each, delta 1e-5, 95 % confidence in both bounds together. DP-SGD: {steps}"
    " steps, each row in a batch with probability {rate:g}, every canary with a gradient of its own that is as long as"
    " is allowed; the attacker sees every noisy sum. Counts: every canary alone in its cell."
)


@functools.cache
def _asked(epsilon: float) -> float:
    """Noise that the accountant asks for."""
    budget = Budget(epsilon, DELTA, {})
    return budget.calibrated(lambda s: sampled_gaussian(s, _PLAN.sample_rate, _PLAN.steps), least=0.2, most=1e3)


def training(epsilon: float, canaries: int, share: float, seed: int) -> Audit:
    """DP-SGD with a share of the noise that it needs."""
    rng, plan = np.random.default_rng(seed), dataclasses.replace(_PLAN, noise=share * _asked(epsilon))
    return Audit.of(attack_training(canaries, plan, SecretRandomness(), rng), epsilon, DELTA)


def counts(epsilon: float, canaries: int, share: float, seed: int) -> Audit:
    """Noisy counts, as marginals are measured."""
    sigma, noise = math.sqrt(0.5 / rho_of(epsilon, DELTA)), Noise()
    attack = attack_counts(canaries, lambda c: noise.gaussian(c, share * sigma), np.random.default_rng(seed))
    return Audit.of(attack, epsilon, DELTA)


MECHANISMS: dict[str, Callable[[float, int, float, int], Audit]] = {"DP-SGD": training, "counts": counts}


def main() -> None:
    given = _arguments()
    kept = Kept(given.out, NAME, {"canaries": given.canaries, "runs": given.runs, "threads": given.threads})
    kept.forget(comma_separated(given.again))
    for name, mechanism in MECHANISMS.items():
        for epsilon in map(float, comma_separated(given.epsilons)):
            for noise, share in _SHARES.items():
                key = f"{name}:{epsilon:g}:{noise}"
                if key not in kept:
                    audits = [mechanism(epsilon, given.canaries, share, seed) for seed in range(given.runs)]
                    result = {
                        "one_run": [round(one.one_run, 3) for one in audits],
                        "gaussian": [round(one.gaussian, 3) for one in audits],
                        "refuted": sum(one.refuted for one in audits),
                    }
                    kept.keep(key, result, {})
    lines = _lines(kept)
    print("\n".join(lines), flush=True)
    about = _ABOUT.format(canaries=given.canaries, runs=given.runs, steps=_PLAN.steps, rate=_PLAN.sample_rate)
    write_section(given.out, NAME, ["## Audit of the accounts", "", about, "", *lines, "", *kept.provenance()])


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    parser.add_argument("--epsilons", default="1,3,10", help="separated by commas; %(default)s")
    parser.add_argument("--canaries", type=int, default=50_000, help="%(default)s")
    parser.add_argument("--runs", type=int, default=20, help="%(default)s")
    return parser.parse_args()


def _lines(kept: Kept) -> list[str]:
    rows = []
    for key, result in kept.results.items():
        bounds = (f"{statistics.mean(result[one]):.2f} (to {max(result[one]):.2f})" for one in ("one_run", "gaussian"))
        rows.append([*key.split(":"), *bounds, f"{result['refuted']} of {len(result['gaussian'])}"])
    heads = ["mechanism", "claimed epsilon", "noise", "bound, any mechanism", "bound, Gaussian trade-off", "refuted"]
    return table(heads, rows)


if __name__ == "__main__":
    main()
