r"""The coordinate-wise median, as a strategy of one's own.

fedlite simulate --set federation.strategy=examples/own_strategy.py:Median \
    --set privacy.unit=none --set training.learning_rate=1 --set uplink.compressor=rotated-topk
"""

import numpy as np

from strategies import CoordinateWise


class Median(CoordinateWise):
    """In every coordinate the value in the middle, so that a few hostile sites decide nothing."""

    def across(self, values):
        """Return one value for each column of `values`, in which every site has a row."""
        return np.median(values, axis=0)
