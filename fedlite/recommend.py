"""Which compressor a link gets when its scenario names none, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedlite.config import Link, Scenario

# Density and squared error of one unbiased update, in units of its squared norm (measured on real
# updates; docs/benchmarks.md). The error of a mean over m sites is an m-th of it, and up to about
# this much of that, training did not notice it.
_ERRORS = ((0.01, 9.0), (0.03, 3.5), (0.1, 1.1))
_UNNOTICED = 0.7


def recommend(scenario: Scenario, direction: str) -> tuple[Link, str]:
    """Return the link for `direction` ("uplink" or "downlink"), and the reason in one line.

    Nothing but public settings is looked at, so sites and server come to the same choice.

    >>> from fedlite.config import from_dict
    >>> link, why = recommend(from_dict({"federation": {"sites": 20}}), "uplink")
    >>> link.compressor, link.density, why
    ('rotated-topk', 0.01, '20 sites a round: their independent errors average out')
    """
    from fedlite.config import Link

    asked = scenario.federation.participants
    if direction == "downlink":
        link = Link("topk", density=0.1, values="sign-per-tensor")
        return link, "one sender: what is left out must go out later"
    if scenario.privacy.unit == "client" and scenario.privacy.noise_at == "server":
        return Link("eden", error_feedback=False), "the server clips every update by itself"
    if scenario.private:
        link = Link("topk", density=0.1, values="sign")
        return link, "noised updates: error feedback adds no further noise"
    for density, error in _ERRORS:
        if error <= _UNNOTICED * asked:
            link = Link("rotated-topk", density=density, error_feedback=False)
            return link, f"{asked} sites a round: their independent errors average out"
    link = Link("topk", density=0.1, values="sign-per-tensor")
    return link, "one site a round: no errors to average"
