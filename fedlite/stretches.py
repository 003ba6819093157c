"""What travels behind the model's values, and what compresses a link.

Statistics that layers keep, and vectors that an objective needs: each a stretch with compressors of
its own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedlite import compression, objectives
from fedlite.compression import Compressor, Stretch
from fedlite.models import Model
from fedlite.parameters import Layout, counts_running, least_running, running_to_vector
from fedlite.scenario import Link, Scenario
from fedlite.settings import read_options

# The stretch of what layers keep of the records that they have seen.
RUNNING = "running statistics"


def compressor(link: Link, sections: tuple[int, ...] = ()) -> Compressor:
    """Return the compressor of a link, for a model whose tensors have the sizes `sections`.

    Raises ValueError when it refuses its settings.
    """
    return compression.make(
        link.compressor,
        density=link.density or None,
        values=link.values or None,
        bits=link.bits,
        unbiased=not link.error_feedback,
        sections=sections,
        options=read_options(link.options),
    )


def statistics(scenario: Scenario, model: Model, running: Layout) -> tuple[Stretch, ...]:
    """Return the running statistics of normalisation layers as what travels behind the model.

    Exactly as they are: compressed, a variance may become negative, and the model is destroyed.
    """
    if not running.names:
        return ()
    if scenario.private:
        raise ValueError(
            f"model: '{running.names[0].rpartition('.')[0]}' keeps running statistics, which is "
            "not allowed under privacy (rule: the mechanism covers one vector, and statistics of "
            "records would travel without noise); take nn.GroupNorm in the place of BatchNorm"
        )
    exact = compression.make("dense", values="fp32")
    first, least = running_to_vector(model), least_running(running)
    return (Stretch(RUNNING, first, exact, exact, least=least, apart=counts_running(running)),)


def vectors(
    scenario: Scenario, layout: Layout, term: objectives.Term | None
) -> tuple[Stretch, ...]:
    """Return what travels behind the model; each as long as it and compressed by its links."""
    names = term.extras if term else ()
    if names and scenario.private:
        raise ValueError(
            "training.objective: must send nothing beside the model when privacy.unit is not none "
            "(rule: the mechanism covers one vector), got "
            f"{scenario.training.objective!r}, which sends {', '.join(names)}; use plain"
        )
    # What is left out of a site's own value is in the next change of it, and so may not be scaled.
    up = compressor(replace(scenario.uplink, error_feedback=True), layout.sizes)
    down = compressor(scenario.downlink, layout.sizes)
    zeros = np.zeros(layout.size, np.float32)
    return tuple(Stretch(name, zeros, up, down, per_site=True) for name in names)
