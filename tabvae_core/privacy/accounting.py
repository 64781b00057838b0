"""What mechanisms cost, how costs add up, and a budget that refuses to be overspent.

A mechanism's cost is its Rényi divergence between any two neighbouring tables (Mironov, 2017), as a curve over orders:
curves of mechanisms that run one after the other add up, whatever the later ones make of the earlier ones' results.

    mechanism                                      curve at order a            source
    Gaussian noise s on a sum of L2 sensitivity 1  a / (2 s^2)                 Mironov, 2017; Bun & Steinke, 2016
    discrete Gaussian noise, whole numbers         the same                    Canonne, Kamath & Steinke, 2020
    exponential mechanism with parameter e         a e^2 / 8                   Cesar & Rogers, 2021
    Gaussian noise on Poisson samples (DP-SGD)     given by its own accountant Mironov, Talwar & Zhang, 2019

A curve of the form rho * a is zero-concentrated differential privacy (zCDP). A curve becomes (epsilon, delta) at its
best order by the conversion of Canonne, Kamath & Steinke (2020, proposition 12).

Neighbouring tables differ in one row, which is there or not, and one row is one individual. Other rows keep their
places, so which rows are held out is the same for both. The number of rows is not public.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tabvae_core.errors import BudgetExceeded, SpecError
from tabvae_core.spec import PrivacySpec

__all__ = ["ORDERS", "Budget", "Loss", "Spending", "rho_of"]

Floats = npt.NDArray[np.float64]

ORDERS: Floats = 1.0 + np.logspace(-2, 4, 121)
"""Orders at which curves are kept. They lie 12 % apart, which costs less than 0.1 % of epsilon."""
_SLACK = 1.0 + 1e-9
"""Rounding that sums of shares are allowed."""
_THRESHOLD_SHARE = 0.1
"""Share of delta kept for thresholds on categories; the rest is for the conversion of the curve."""


@dataclass(frozen=True)
class Loss:
    """What one or several mechanisms cost.

    Args:
        rdp: Rényi divergence at each of `ORDERS`, shape (121,).
        delta: Probability that is not covered by the curve, such as that of a threshold.

    """

    rdp: Floats = field(default_factory=lambda: np.zeros(len(ORDERS)))
    delta: float = 0.0

    @classmethod
    def zcdp(cls, rho: float, delta: float = 0.0) -> Self:
        """Cost of a mechanism that satisfies rho-zCDP but for a probability of delta."""
        return cls(rho * ORDERS, delta)

    @classmethod
    def gaussian(cls, sigma: float, delta: float = 0.0) -> Self:
        """Cost of Gaussian noise with standard deviation `sigma` on a sum of L2 sensitivity 1."""
        return cls.zcdp(0.5 / sigma**2, delta)

    @classmethod
    def exponential(cls, epsilon: float) -> Self:
        """Cost of the exponential mechanism with weights exp(epsilon score / (2 sensitivity))."""
        return cls.zcdp(epsilon**2 / 8)

    def __add__(self, other: Loss) -> Loss:
        """Cost of both, one after the other."""
        return Loss(self.rdp + other.rdp, self.delta + other.delta)

    def epsilon(self, delta: float) -> float:
        """Smallest epsilon for which (epsilon, delta) holds; infinite where delta is used up."""
        left = delta - self.delta
        if not self.rdp.any() and left >= 0:
            return 0.0
        if left <= 0:
            return math.inf
        found = self.rdp + np.log1p(-1 / ORDERS) - (math.log(left) + np.log(ORDERS)) / (ORDERS - 1)
        return max(0.0, float(np.min(found)))

    @property
    def rho(self) -> float | None:
        """Its rho, where the curve is that of zCDP."""
        rho = float(self.rdp[-1] / ORDERS[-1])
        return rho if np.allclose(self.rdp, rho * ORDERS, rtol=1e-9, atol=0) else None

    def to_json(self) -> dict[str, Any]:
        """As JSON: rho where that says it all, else the curve."""
        rho = self.rho
        curve: dict[str, Any] = {"rdp": [float(value) for value in self.rdp]} if rho is None else {"rho": rho}
        return {**curve, "delta": self.delta}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: It is no cost: a part is missing, negative, or not a number.

        """
        try:
            rdp = float(data["rho"]) * ORDERS if "rho" in data else np.asarray(data["rdp"], dtype=np.float64)
            delta = float(data["delta"])
        except (KeyError, TypeError) as error:
            raise ValueError("not a cost") from error
        if rdp.shape != ORDERS.shape or not (np.isfinite(rdp).all() and (rdp >= 0).all() and 0 <= delta < 1):
            raise ValueError("not a cost")
        return cls(rdp, delta)


def rho_of(epsilon: float, delta: float) -> float:
    """Largest rho whose zCDP implies (epsilon, delta)."""
    low, high = 0.0, epsilon + 1.0 / math.log(1 / delta) * epsilon**2
    while Loss.zcdp(high).epsilon(delta) < epsilon:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if Loss.zcdp(middle).epsilon(delta) <= epsilon else (low, middle)
    return low


@dataclass(frozen=True)
class Spending:
    """One entry of a budget's record.

    Args:
        share: Share of the budget that it was taken from.
        mechanism: What was done.
        loss: Its cost.
        details: Parameters that say how, all public.

    """

    share: str
    mechanism: str
    loss: Loss
    details: Mapping[str, Any] = field(default_factory=dict)


class Budget:
    """Epsilon and delta of one training, divided into named shares of rho; every use is recorded.

    Args:
        epsilon: Of the whole training.
        delta: Of the whole training.
        shares: Part of the rho of (epsilon, 0.9 delta) that each share may use, adding up to 1 at most.

    """

    def __init__(self, epsilon: float, delta: float, shares: Mapping[str, float]) -> None:
        if sum(shares.values()) > _SLACK or min(shares.values(), default=0.0) < 0:
            raise ValueError(f"shares must be positive and add up to 1 at most, however: {dict(shares)}")
        self.epsilon, self.delta = epsilon, delta
        self.rho = rho_of(epsilon, (1 - _THRESHOLD_SHARE) * delta)
        self.shares = dict(shares)
        self.spent: list[Spending] = []

    @classmethod
    def of(cls, privacy: PrivacySpec, shares: Mapping[str, float]) -> Self:
        """Make the budget that a spec asks for.

        Raises:
            SpecError: It asks for none.

        """
        if privacy.epsilon is None:
            raise SpecError("privacy.epsilon is not set", hint="set it, for example privacy: {epsilon: 1}")
        return cls(privacy.epsilon, privacy.delta, shares)

    @property
    def threshold_delta(self) -> float:
        """Delta that thresholds may use, all together."""
        return _THRESHOLD_SHARE * self.delta

    @property
    def loss(self) -> Loss:
        """All that was spent."""
        return sum((one.loss for one in self.spent), Loss())

    def left(self, share: str) -> float:
        """The rho that is left of a share."""
        used = sum(one.loss.rho or 0.0 for one in self.spent if one.share == share)
        return max(0.0, self.shares[share] * self.rho - used)

    def pass_on(self, share: str, to: str) -> None:
        """Give what is left of a share to another one."""
        rest = self.left(share) / self.rho
        self.shares[share] -= rest
        self.shares[to] += rest

    def spend(self, share: str, mechanism: str, loss: Loss, **details: Any) -> None:
        """Record a use, before what it paid for is looked at.

        Raises:
            BudgetExceeded: The share or the whole budget does not suffice; nothing is recorded.

        """
        rho = loss.rho
        if rho is not None and rho > self.left(share) * _SLACK + 1e-15 * self.rho:
            raise BudgetExceeded(
                f"privacy budget: {mechanism} costs rho {rho:.3g}, share {share!r} has {self.left(share):.3g} left"
            )
        if (epsilon := (self.loss + loss).epsilon(self.delta)) > self.epsilon * _SLACK:
            raise BudgetExceeded(
                f"privacy budget: with {mechanism}, epsilon would be {epsilon:.4g}, more than {self.epsilon:g}"
            )
        self.spent.append(Spending(share, mechanism, loss, details))

    def calibrated(self, curve: Callable[[float], Loss], *, least: float = 1e-2, most: float = 1e6) -> float:
        """Find the smallest noise that what is left of the whole budget can pay for.

        Args:
            curve: Cost as a function of the noise; it falls as the noise grows.
            least: Noise to try from.
            most: Noise to try to.

        Returns:
            Noise at which all that was spent, and the curve, cost `epsilon` at `delta`, to within a millionth.

        Raises:
            BudgetExceeded: No noise is enough.

        """
        spent = self.loss

        def too_much(noise: float) -> bool:
            return (spent + curve(noise)).epsilon(self.delta) > self.epsilon

        if too_much(most):
            raise BudgetExceeded("privacy budget: nothing is left for training", hint="raise privacy.epsilon")
        low, high = least, most
        while high / low > 1 + 1e-6:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if too_much(middle) else (low, middle)
        return high

    def record(self) -> dict[str, Any]:
        """All that was spent, as JSON: nothing in it depends on the rows."""
        loss = self.loss
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "spent_epsilon": round(loss.epsilon(self.delta), 6),
            "loss": loss.to_json(),
            "accounting": "RDP, converted as in Canonne, Kamath & Steinke (2020)",
            "neighbours": "one row more or less; one row is one individual",
            "spending": [
                {"share": one.share, "mechanism": one.mechanism, "rho": one.loss.rho, "delta": one.loss.delta}
                | dict(one.details)
                for one in self.spent
            ],
        }
