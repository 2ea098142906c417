"""What a Reference depends on besides the training frames."""

import math
from dataclasses import dataclass
from typing import Literal

from cgfe.analysis.free_energy import DEFAULT_BINS
from cgfe.analysis.tica import default_lag_ps
from cgfe.errors import check_seed, require

MOST_BINS = 1000
"""Per TIC: of each bootstrap sample a density of their square is made."""


@dataclass
class ReferenceConfig:
    """What a Reference depends on besides the training frames."""

    tica_lag_ps: float | None = None
    """TICA lag time, a multiple of the frame interval; by default the one nearest to 20 ps."""
    tica_scaling: Literal["kinetic_map", "none"] = "kinetic_map"
    """`kinetic_map` scales each TIC by its eigenvalue."""
    bins: int = DEFAULT_BINS
    """Bins per TIC of the free-energy grid."""
    target_bins: int = 8
    """Bins per TIC of the conditional mean energies that `energy_target: total` is matched to;
    coarse, since a bin's entropy needs hundreds of frames."""
    label_estimator: Literal["marginal", "joint"] = "marginal"
    """Density behind the energy labels: product of 1-D densities as in the paper, or the 2-D
    one."""
    starts: int = 256
    """Training frames kept as starts of simulations, spread over TIC space."""
    seed: int = 0
    """Chooses the first start."""

    def lag_ps(self, frame_interval_ps: float) -> float:
        """Return the TICA lag time for frames of an interval."""
        return default_lag_ps(frame_interval_ps) if self.tica_lag_ps is None else self.tica_lag_ps

    def check(self) -> None:
        """Raise InputError if a value makes no sense."""
        good = self.tica_lag_ps is None or 0 < self.tica_lag_ps < math.inf
        require(good, "reference.tica_lag_ps", self.tica_lag_ps, "a positive finite time")
        for name in ("bins", "target_bins"):
            value = getattr(self, name)
            good = 2 <= value <= MOST_BINS
            require(good, f"reference.{name}", value, f"at least 2 and at most {MOST_BINS}")
        require(self.starts >= 1, "reference.starts", self.starts, "at least 1")
        check_seed("reference.seed", self.seed)
