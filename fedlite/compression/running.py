"""What layers keep of the records that they have seen, as a stretch behind the model's values."""

from __future__ import annotations

from torch import nn

from fedlite.compression.dense import Dense
from fedlite.compression.joined import Stretch
from fedlite.parameters import Layout, counts_running, least_running, running_to_vector

RUNNING = "running statistics"
"""What the stretch is called."""


def statistics(model: nn.Module, running: Layout, *, private: bool) -> tuple[Stretch, ...]:
    """Return the running statistics of normalisation layers, if there are any.

    They go exactly as they are: compressed, a variance may become negative, and the model is
    destroyed. running: their layout. Raises ValueError where updates are private.
    """
    if not running.names:
        return ()
    if private:
        raise ValueError(
            f"model: '{running.names[0].rpartition('.')[0]}' keeps running statistics, which is "
            "not allowed under privacy (rule: the mechanism covers one vector, and statistics of "
            "records would travel without noise); take nn.GroupNorm in the place of BatchNorm"
        )
    exact, first = Dense("fp32"), running_to_vector(model)
    least, apart = least_running(running), counts_running(running)
    return (Stretch(RUNNING, first, exact, exact, least=least, apart=apart),)
