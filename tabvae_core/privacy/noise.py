"""Randomness of private mechanisms: from the operating system, never from a seed that a spec or a bundle holds.

A guarantee of differential privacy averages over noise that nobody can know. Whoever knows the seed subtracts the
noise. So the noise has no seed: two trainings of the same rows differ. Only tests hand in a generator of their own.

Floating-point noise has low bits that tell what it was added to (Mironov, 2012). `secure` noise has none: it is drawn
from the discrete Gaussian in whole numbers, by exact arithmetic over `secrets` (Canonne, Kamath & Steinke, 2020).
"""

from __future__ import annotations

import math
import secrets
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Noise"]

Floats = npt.NDArray[np.float64]

_STEPS = 16
"""Secure noise has standard deviations in steps of 1/16, rounded up: small fractions are fast."""


class Noise:
    """Source of noise.

    Args:
        secure: Exact arithmetic; slower, some 10,000 numbers a second.
        rng: Generator in place of one that the operating system seeds; for tests alone.

    """

    def __init__(self, *, secure: bool = False, rng: np.random.Generator | None = None) -> None:
        self.secure = secure
        self._rng = np.random.default_rng(secrets.randbits(256)) if rng is None else rng

    def gaussian(self, counts: npt.NDArray[Any], sigma: float) -> Floats:
        """Add Gaussian noise to counts of any shape; where `secure`, they must be whole numbers."""
        exact = np.asarray(counts)
        if not self.secure:
            return np.asarray(exact + self._rng.normal(0.0, sigma, exact.shape), dtype=np.float64)
        variance = Fraction(math.ceil(sigma * _STEPS), _STEPS) ** 2
        drawn = [_discrete_gaussian(variance) for _ in range(exact.size)]
        return np.asarray(exact + np.array(drawn, dtype=np.int64).reshape(exact.shape), dtype=np.float64)

    def choose(self, scores: Floats, epsilon: float, sensitivity: float) -> int:
        """Choose one of k scores by the exponential mechanism: with weight exp(epsilon score / (2 sensitivity)).

        One is proposed uniformly and kept with its weight, the best score's being 1, until one is.
        """
        below = epsilon * (float(np.max(scores)) - np.asarray(scores)) / (2 * sensitivity)
        while True:
            if self.secure:
                one = secrets.randbelow(len(below))
                kept = _bernoulli_exp(Fraction(float(below[one])).limit_denominator(1 << 20))
            else:
                one = int(self._rng.integers(len(below)))
                kept = bool(self._rng.random() < math.exp(-float(below[one])))
            if kept:
                return one


def _bernoulli(chance: Fraction) -> bool:
    return secrets.randbelow(chance.denominator) < chance.numerator


def _bernoulli_exp(gamma: Fraction) -> bool:
    """True with probability exp(-gamma), gamma >= 0 (Canonne, Kamath & Steinke, 2020, algorithm 1)."""
    while gamma > 1:
        if not _bernoulli_exp(Fraction(1)):
            return False
        gamma -= 1
    k = 1
    while _bernoulli(gamma / k):
        k += 1
    return k % 2 == 1


def _discrete_laplace(scale: int) -> int:
    """A whole number with weight exp(-|x| / scale) (algorithm 2)."""
    while True:
        low = secrets.randbelow(scale)
        if not _bernoulli_exp(Fraction(low, scale)):
            continue
        high = 0
        while _bernoulli_exp(Fraction(1)):
            high += 1
        size, negative = low + scale * high, secrets.randbelow(2)
        if size or not negative:
            return -size if negative else size


def _discrete_gaussian(variance: Fraction) -> int:
    """A whole number with weight exp(-x^2 / (2 variance)) (algorithm 3)."""
    scale = math.isqrt(math.floor(variance)) + 1
    while True:
        drawn = _discrete_laplace(scale)
        if _bernoulli_exp((abs(drawn) - variance / scale) ** 2 / (2 * variance)):
            return drawn
