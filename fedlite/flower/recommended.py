"""Which compressor an app gets that names none: by what its strategy does with updates."""

from __future__ import annotations

from collections.abc import Iterator

from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedMedian,
    FedTrimmedAvg,
    MultiKrum,
    QFedAvg,
    Strategy,
)

from fedlite.scenario.keys import Link
from fedlite.scenario.links import unnoticed_density

# They look at every update by itself, so that no errors average out.
_ONE_BY_ONE = (
    *(Bulyan, FedMedian, FedTrimmedAvg, MultiKrum, QFedAvg),
    *(
        DifferentialPrivacyClientSideAdaptiveClipping,
        DifferentialPrivacyClientSideFixedClipping,
        DifferentialPrivacyServerSideAdaptiveClipping,
        DifferentialPrivacyServerSideFixedClipping,
    ),
)


def recommend(strategy: Strategy, asked: int) -> Link:
    """Return the link for a round of `asked` clients.

    A federation of fedlite's own can be tuned for its links, an app that gets two lines is not: it
    has as many clients a round for a density as would otherwise do with two fifths of them.

    >>> from flwr.serverapp.strategy import FedAvg, Krum
    >>> link = recommend(FedAvg(), 5)
    >>> link.compressor, link.density, recommend(Krum(), 5).compressor
    ('rotated-topk', 0.1, 'eden')
    """
    one_by_one = any(isinstance(one, _ONE_BY_ONE) for one in layers(strategy))
    if asked < 2 or one_by_one:
        return Link("eden", error_feedback=False)
    density = unnoticed_density(max(2, 2 * asked // 5))
    return Link("rotated-topk", density=density, error_feedback=False)


def layers(strategy: Strategy) -> Iterator[Strategy]:
    """Yield a strategy and those that it wraps, from the outside."""
    inner: object = strategy
    while isinstance(inner, Strategy):
        yield inner
        inner = getattr(inner, "strategy", None)
