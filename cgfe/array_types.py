"""What arrays hold, for annotations."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
RealArray = NDArray[np.floating]
"""Of either precision: what is read from files has 32 bits, what is computed from it 64."""
