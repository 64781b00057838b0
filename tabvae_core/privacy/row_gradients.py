"""Sums of clipped gradients of single rows, without ever holding the gradient of one.

A layer's gradient for a row is the product of what went in and what came back, so its norm follows from theirs
(Goodfellow, 2015; "ghost norm": Li et al., 2022), and with the clipping factors known, the sum over all rows is one
more product of the same two arrays ("book-keeping": Bu et al., 2023): one forward and one backward pass, as without
clipping. Opacus does the like for its own list of layers, to which embeddings of many slots and layers of n slots do
not belong. A test compares with gradients taken row by row.

Shapes: B rows, n slots, I inputs and O outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["RowGradients"]


class RowGradients:
    """Gradients of the layers that are listed; each is called once in a forward pass.

    Args:
        layers: `nn.Embedding` over tokens (B, n), no token twice in a row; `nn.Linear` over (B, I); or modules over
            (n, B, I) with a weight (n, I, O) and a bias of n * O numbers.

    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers = list(layers)
        self.parameters = [p for layer in self.layers for p in layer.parameters()]

    def clipped_sum(self, losses: Callable[[], Tensor], clip: float) -> tuple[list[Tensor], Tensor]:
        """Sum the rows' gradients, each scaled down to a norm of at most `clip` over all parameters.

        Args:
            losses: Runs the forward pass; returns one loss for each row, (B,), which depends on that row alone.
            clip: Largest norm.

        Returns:
            A sum for each of `parameters`, and the norms before clipping, (B,).

        """
        calls: dict[nn.Module, tuple[Tensor, Tensor]] = {}

        def remember(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            calls[layer] = (inputs[0].detach(), output)

        with ExitStack() as hooks:
            for layer in self.layers:
                hooks.callback(layer.register_forward_hook(remember).remove)
            total = losses().sum()
        pairs = [calls[layer] for layer in self.layers]
        # A row that overflows must not escape the clipping: it counts as far as it is finite.
        backs = [
            torch.nan_to_num(back, 0.0, 0.0, 0.0) for back in torch.autograd.grad(total, [out for _, out in pairs])
        ]
        squares = [
            _squared_norms(layer, x, back) for layer, (x, _), back in zip(self.layers, pairs, backs, strict=True)
        ]
        norms = torch.stack(squares).sum(dim=0).sqrt()
        factors = torch.where(norms.isfinite(), (clip / norms.clamp(min=1e-12)).clamp(max=1.0), 0.0)
        sums = [
            part
            for layer, (x, _), back in zip(self.layers, pairs, backs, strict=True)
            for part in _weighted_sum(layer, x, back, factors)
        ]
        return sums, norms


def _squared_norms(layer: nn.Module, x: Tensor, back: Tensor) -> Tensor:
    """Squared norm (B,) of each row's gradient of a layer's parameters."""
    if isinstance(layer, nn.Embedding):
        return back.square().sum(dim=(1, 2))
    came, went = back.square().sum(dim=-1), x.square().sum(dim=-1)
    each = came * went + came  # of the weight, and of the bias
    return each if each.ndim == 1 else each.sum(dim=0)


def _weighted_sum(layer: nn.Module, x: Tensor, back: Tensor, factors: Tensor) -> list[Tensor]:
    """Sum of the rows' gradients times their factors (B,), for each parameter of a layer in its order."""
    if isinstance(layer, nn.Embedding):
        scaled = back * factors[:, None, None]
        return [torch.zeros_like(layer.weight).index_add_(0, x.flatten(), scaled.flatten(0, 1))]
    scaled = back * factors[:, None]
    if isinstance(layer, nn.Linear):
        return [scaled.T @ x, scaled.sum(dim=0)]
    _, bias = layer.parameters()
    return [torch.bmm(x.transpose(1, 2), scaled), scaled.sum(dim=1).view_as(bias)]
