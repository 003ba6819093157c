"""How much longer an update can be where it is read than it was where it was made.

An unbiased compressor sends few coordinates and makes them longer; error feedback sends together
what several updates had to say.
"""

from __future__ import annotations

import math

from fedlite.compression.dense import Dense
from fedlite.compression.eden import Eden
from fedlite.compression.interface import Compressor
from fedlite.compression.randk import RandK
from fedlite.compression.rotated import RotatedTopK
from fedlite.compression.topk import TopK


def gain(compressor: Compressor, *, feedback: bool) -> float:
    """Return the factor for a compressor of the house, with or without error feedback.

    Infinity where nothing is known: for one of others, and for random coordinates with feedback,
    each of which waits for as long as chance will have it. A coordinate of a sparse update with
    feedback waits for about 1 / density rounds, and what it says has then grown by that factor, in
    a share `density` of the coordinates: 1 / sqrt(density) in length, and 3 times that for the
    wait's being uneven. (Signs of one magnitude say a few large coordinates slowly: updates
    that never change may come to more; their sender then shortens them, see `feedback`.) Sparse and
    unbiased is about the same: density times as many coordinates, each 1 / density times as long.

    >>> from fedlite.compression import make
    >>> gain(make("topk", density=0.01), feedback=True), gain(make("dense"), feedback=False)
    (30.0, 1.01)
    """
    if isinstance(compressor, Dense):
        return 1.01
    if isinstance(compressor, Eden):
        return 3.0
    if isinstance(compressor, RandK):
        # All of an update may be in one coordinate, and that one chosen.
        return math.inf if feedback else 1.0 / compressor.density
    if isinstance(compressor, TopK | RotatedTopK):
        return 3.0 / math.sqrt(compressor.density)
    return math.inf
