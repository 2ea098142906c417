"""Weighted means, of all values and of groups of them."""

from torch import Tensor


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return Σ w x / Σ w of values and weights (K,); 0 where all weights are."""
    return (weights * values).sum() / _positive(weights.sum())


def group_means(
    values: Tensor, weights: Tensor, group: Tensor, groups: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return weighted means and summed weights of groups.

    Parameters
    ----------
    values, weights : Tensor (K,)
    group : LongTensor (K,)
        From 0.
    groups : int, optional
        Their number; by default as many as occur.

    Returns
    -------
    means, totals : Tensor (groups,)
        The mean of a group whose weights are all 0 is 0.
    """
    if groups is None:
        groups = int(group.max()) + 1 if len(group) else 0
    totals = weights.new_zeros(groups).index_add(0, group, weights)
    sums = values.new_zeros(groups).index_add(0, group, weights * values)
    return sums / _positive(totals), totals


def _positive(totals: Tensor) -> Tensor:
    # Where all weights are zero, or no frame is inside the grid, the sum above it is zero too.
    return totals.where(totals > 0, totals.new_ones(()))
