"""Whether settings hold their replicas otherwise: how often noise alone says so."""

import numpy as np

from cgfe.experiment.further import compare_figures
from cgfe.experiment.trapping import FIGURES, LABELS

EXPERIMENTS = 200


def test_noise_differs_in_one_sweep_of_twenty_at_most() -> None:
    """11 settings times 9 seeds, all figures: the share of sweeps in which any is told apart."""
    random = np.random.default_rng(0)
    told = 0
    for _ in range(EXPERIMENTS):
        figures = {key: random.normal(size=(11, 9)) for key in FIGURES}
        told += any(any(figure.apart) for figure in compare_figures(figures, LABELS, 0))
    # Of 5 %, four standard errors more.
    assert told / EXPERIMENTS <= 0.05 + 4 * (0.05 * 0.95 / EXPERIMENTS) ** 0.5


def test_a_large_difference_is_told() -> None:
    random = np.random.default_rng(1)
    figures = {key: random.normal(size=(11, 9)) for key in FIGURES}
    figures["stayed"][7] += 6.0
    apart = {figure.key: figure.apart for figure in compare_figures(figures, LABELS, 0)}
    assert apart["stayed"][7]
    assert sum(map(sum, apart.values())) == 1


def test_a_difference_that_all_seeds_share_exactly_is_told() -> None:
    figures = {"memory": np.repeat([[0.0], [1.0]], 9, axis=1)}
    (figure,) = compare_figures(figures, LABELS, 0)
    assert figure.apart == (False, True)
