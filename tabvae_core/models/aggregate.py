"""The aggregate posterior of a VAE, q(z) = mean over rows of q(z | row), estimated from some rows.

Shapes: B draws of z, M rows whose posteriors are mixed, D dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["log_aggregate", "log_normal", "total_correlation"]


def log_normal(z: Tensor, mean: Tensor | float = 0.0, log_variance: Tensor | float = 0.0) -> Tensor:
    """Log density of each dimension by itself under a normal distribution, in the broadcast shape."""
    log_variance = torch.as_tensor(log_variance, dtype=z.dtype)
    return -0.5 * ((z - mean) ** 2 * (-log_variance).exp() + log_variance + math.log(2 * math.pi))


def log_aggregate(z: Tensor, mean: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor]:
    """Log density of draws under the mixture of the rows' posteriors.

    Args:
        z: Shape (B, D).
        mean: Shape (M, D).
        log_variance: Shape (M, D).

    Returns:
        Of all dimensions together, shape (B,), and of each by itself, shape (B, D).

    """
    each = log_normal(z.unsqueeze(1), mean, log_variance)
    count = math.log(len(mean))
    return each.sum(dim=-1).logsumexp(dim=1) - count, each.logsumexp(dim=1) - count


def total_correlation(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Estimate the total correlation of q(z), KL(q(z) || product of its margins), in nats; differentiable.

    Minibatch-weighted sampling (Chen et al., 2018) without its constant (D - 1) log(rows of the table), which has no
    gradient: so the value is that of the mixture over these M rows, and nears the table's as M grows.

    Args:
        z: One draw from each row's posterior, shape (M, D).
        mean: Shape (M, D).
        log_variance: Shape (M, D).

    """
    joint, margins = log_aggregate(z, mean, log_variance)
    return (joint - margins.sum(dim=-1)).mean()
