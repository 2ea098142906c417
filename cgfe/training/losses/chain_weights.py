"""Weights of chains: what their model's changes are worth between two moves."""

import math

import numpy as np
import torch
from torch import Tensor


def effective_share(log_weights: Tensor) -> float:
    """Return (Σw)² / (M Σw²) of log weights (M,): the share of configurations that count."""
    exact = log_weights.double()
    squared = 2 * torch.logsumexp(exact, 0) - torch.logsumexp(2 * exact, 0)
    return float(squared.exp()) / len(exact)


def carried(log_weights: Tensor, work: Tensor, least: float) -> Tensor:
    """Return log weights (M,), of mean weight 1, after the model has changed.

    Parameters
    ----------
    log_weights : Tensor (M,)
        Before.
    work : Tensor (M,)
        β(U_new − U_old) of each configuration; NaN of one that has begun anew since: it gets the
        mean weight.
    least : float
        The change counts as long as it leaves an effective share of so much by itself; a model
        that has jumped farther cannot be told from these configurations, whose weights stay.
    """
    known = work.isfinite()
    gain = -work.double().where(known, 0.0)
    if known.any() and effective_share(gain[known]) < least:
        gain = torch.zeros_like(gain)
    found = log_weights.double() + gain
    if not known.any():
        return torch.zeros_like(found)
    mean = torch.logsumexp(found[known], 0) - math.log(int(known.sum()))
    return torch.where(known, found - mean, 0.0)


def resampled(log_weights: Tensor, random: np.random.Generator) -> Tensor:
    """Return which configurations (M,) to go on with: each by its weight, systematically.

    Systematic resampling has a configuration of weight w (mean 1) ⌊w⌋ or ⌈w⌉ times, w in the mean.
    """
    weights = torch.softmax(log_weights.double().cpu(), 0).numpy()
    count = len(weights)
    places = (np.arange(count) + random.random()) / count
    rows = np.searchsorted(np.cumsum(weights), places).clip(max=count - 1)
    return torch.from_numpy(rows).to(log_weights.device)
