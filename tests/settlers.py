"""Settlers, as `generate` asks for them, of tests without codecs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor


class Unsettled:
    """Leaves everything as it was drawn."""

    def allowed(self, slot: int) -> npt.NDArray[np.bool_] | None:
        return None

    def settle(self, slot: int, tokens: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return tokens, values

    def settled(self, slot: int, tokens: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return tokens, values

    def is_linked(self, slot: int) -> bool:
        return False

    def frames(self, slot: int) -> Tensor | None:
        return None

    def log_cells(self, slot: int, tokens: Tensor, values: Tensor, origins: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raise AssertionError("no slot has ratios")

    def places_of(self, slot: int, tokens: Tensor, real: Tensor) -> Tensor:
        raise AssertionError("no slot has ratios")
