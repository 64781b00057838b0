"""An audit: attack a mechanism with canaries, and bound its epsilon from below by how well the attack does.

A claim of (epsilon, delta) is an upper bound, proven on paper; a bug in the code breaks it without a sign. Canaries are
rows made up to be as visible as the mechanism allows. Each is put in by the toss of a coin; the attacker sees what the
mechanism gives out, scores every canary, and guesses which are in. More right guesses than the claim allows refute it.

    bound            holds                                                     source
    `one_run_bound`  for every mechanism, one run with many canaries           Steinke, Nasr & Jagielski, 2023
    `gaussian_bound` where the mechanism's trade-off curve is Gaussian and no  Nasr et al., 2023; Dong, Roth & Su, 2022
                     canary touches another's score; sharper

Canaries here do not touch each other: in DP-SGD each has a weight of its own for a gradient, in marginals a cell of
its own. A bound is below the true epsilon with the stated confidence; how far below is a matter of the attack's
strength, so a low bound proves nothing, and a high one that something is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import beta, binom
from torch import Tensor, nn

from tabvae_core.privacy.dpsgd import PrivatePlan, SecretRandomness, train_privately

__all__ = ["Audit", "Scores", "attack_counts", "attack_training", "gaussian_bound", "one_run_bound"]

Floats = npt.NDArray[np.float64]

_MOST_EPSILON = 60.0
_GUESSED = 0.02
"""Share of the canaries that are guessed to be in, and as many to be out: the surest ones. Chosen ahead."""


@dataclass(frozen=True)
class Scores:
    """What an attack made of m canaries.

    Args:
        included: Whether each was among the rows, by the toss of a coin, shape (m,).
        scores: How much each looks as if it were, shape (m,).
        middle: Score at which in and out are as likely, known ahead.

    """

    included: npt.NDArray[np.bool_]
    scores: Floats
    middle: float


@dataclass(frozen=True)
class Audit:
    """A claim, and the bounds that an attack on it gives.

    Args:
        epsilon: Claimed.
        delta: Claimed.
        one_run: Lower bound on epsilon at `delta` for any mechanism.
        gaussian: Lower bound on epsilon at `delta` for one with a Gaussian trade-off curve.
        confidence: With which both of them hold.
        canaries: How many there were.

    """

    epsilon: float
    delta: float
    one_run: float
    gaussian: float
    confidence: float
    canaries: int

    @classmethod
    def of(cls, attack: Scores, epsilon: float, delta: float, confidence: float = 0.95) -> Audit:
        """Bound epsilon from the scores of an attack, and put it beside the claim; the bounds share the risk."""
        each = (1 + confidence) / 2
        one_run, gaussian = one_run_bound(attack, delta, each), gaussian_bound(attack, delta, each)
        return cls(epsilon, delta, one_run, gaussian, confidence, len(attack.scores))

    @property
    def refuted(self) -> bool:
        """Whether the claim is false, with the stated confidence."""
        return max(self.one_run, self.gaussian) > self.epsilon

    def text(self) -> str:
        """One line for people."""
        verdict = "REFUTED" if self.refuted else "not refuted"
        return (
            f"claimed epsilon {self.epsilon:.3g} at delta {self.delta:g}: {verdict}; lower bounds"
            f" {self.one_run:.3g} (any mechanism), {self.gaussian:.3g} (Gaussian trade-off),"
            f" {self.confidence:.0%} confidence, {self.canaries:,} canaries"
        )


def one_run_bound(attack: Scores, delta: float, confidence: float) -> float:
    """Largest epsilon that this many right guesses refute (Steinke et al., 2023, theorem 5.2), 0 where none is.

    Under (epsilon, delta), right guesses are at most binomial with probability e^epsilon / (1 + e^epsilon), but for a
    term that grows with delta.
    """
    m = len(attack.scores)
    each = max(1, round(_GUESSED * m))
    order = np.argsort(attack.scores, kind="stable")
    right = int(attack.included[order[-each:]].sum() + (~attack.included[order[:each]]).sum())
    return _largest(lambda epsilon: _chance(right, 2 * each, m, epsilon, delta) <= 1 - confidence)


def _chance(right: int, guesses: int, m: int, epsilon: float, delta: float) -> float:
    """Most probable that `right` or more of the guesses are right under (epsilon, delta)."""
    p = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(right - 1, guesses, p))
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, p))  # of right - i … right - 1 right guesses
    worst = float(np.max(below / np.arange(1, right + 1), initial=0.0))
    return min(1.0, tail + 2 * m * delta * worst)


def gaussian_bound(attack: Scores, delta: float, confidence: float) -> float:
    """Lower bound on epsilon at `delta` of a mechanism whose trade-off curve is that of N(0, 1) and N(mu, 1).

    Both error rates of the guess "in, if above the middle" are bounded by Clopper and Pearson, each with half of the
    risk; a lower bound on mu follows from them, and epsilon from mu (Dong et al., 2022, corollary 2.13).
    """
    above, risk = attack.scores > attack.middle, (1 - confidence) / 2
    false_in = _at_most(above[~attack.included], risk)
    false_out = _at_most(~above[attack.included], risk)
    mu = -float(ndtri(false_in) + ndtri(false_out))
    return _epsilon_of(mu, delta) if mu > 0 else 0.0


def _at_most(wrong: npt.NDArray[np.bool_], risk: float) -> float:
    """Upper bound on a rate, exceeded with probability `risk` at most (Clopper & Pearson, 1934)."""
    k, n = int(wrong.sum()), len(wrong)
    return float(beta.ppf(1 - risk, k + 1, n - k)) if k < n else 1.0


def _epsilon_of(mu: float, delta: float) -> float:
    """Smallest epsilon at `delta` of mu-Gaussian differential privacy."""

    def too_small(epsilon: float) -> bool:
        spent = ndtr(-epsilon / mu + mu / 2) - math.exp(epsilon) * ndtr(-epsilon / mu - mu / 2)
        return bool(spent > delta)

    return _largest(too_small)


def _largest(refuted: Callable[[float], bool]) -> float:
    """Largest epsilon for which a statement holds that is true below some point."""
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, _MOST_EPSILON
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


# Attacks ------------------------------------------------------------------------------------------------------------


def attack_training(
    canaries: int, plan: PrivatePlan, randomness: SecretRandomness, coins: np.random.Generator
) -> Scores:
    """Attack DP-SGD as it is, from within: every canary's gradient is a direction of its own, as long as is allowed.

    The attacker sees the noisy sum of every step (Nasr et al., 2021: the strongest adversary that the proof allows) and
    adds up what lies in a canary's direction.

    Args:
        canaries: How many.
        plan: How to train; its noise is what is audited, the rest decides how much a canary shows.
        randomness: Batches and noise.
        coins: Which canaries are in.

    """
    included = coins.random(canaries) < 0.5
    rows = torch.from_numpy(np.flatnonzero(included))
    table = nn.Embedding(canaries, 1)

    def losses(chosen: Tensor) -> Tensor:
        # So steep that every gradient is clipped.
        shown: Tensor = table(rows[chosen][:, None])
        return -1e3 * plan.clip * shown[:, 0, 0]

    seen = torch.zeros(canaries, dtype=torch.float64)

    def observe(sums: list[Tensor]) -> None:
        seen.add_(-sums[0][:, 0].double())

    train_privately([table], losses, len(rows), plan, randomness, observe=observe)
    return Scores(included, seen.numpy(), plan.steps * plan.sample_rate / 2)


def attack_counts(
    canaries: int, noisy: Callable[[npt.NDArray[np.int64]], Floats], coins: np.random.Generator
) -> Scores:
    """Attack noisy counts: every canary is the only row in its cell.

    Args:
        canaries: How many.
        noisy: The mechanism: counts (m,) to noisy counts (m,).
        coins: Which canaries are in.

    """
    included = coins.random(canaries) < 0.5
    return Scores(included, np.asarray(noisy(included.astype(np.int64)), dtype=np.float64), 0.5)
