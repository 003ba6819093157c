"""Rules of virtual time, and of a server that adds updates of models of different age."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedlite.scenario.network import PROFILES, Network

if TYPE_CHECKING:
    from fedlite.scenario.whole import Scenario

# What rules of the server look at together were updates of one model; these keep a sum alone.
_STREAMED = ("fedavg", "fedadam", "fedyogi", "fedadagrad")
_UNBIASED = ("eden", "randk", "rotated-topk")


def broken(scenario: Scenario) -> list[str]:
    """Return a line for each rule that the keys break, with the mend."""
    network, errors = scenario.network, []
    if not network.profile:
        if network != Network():
            errors.append(
                "network.profile: must be set where other keys of [network] are, got nothing; "
                f"name one of {', '.join(PROFILES)}, or own"
            )
        return errors
    for key in ("up_kbps", "down_kbps", "speed"):
        if not getattr(network.line, key):
            errors.append(
                f"network.{key}: must be greater than 0 with the profile own, got 0; set it"
            )
    if scenario.shared:
        errors.append(
            "network.profile: must be left out with privacy.noise_at shared (rule: the steps of a "
            f"secure sum are not timed), got {network.profile!r}; leave it out"
        )
    private = scenario.private and scenario.privacy.unit != "record" and not scenario.training.steps
    if private and scenario.data.own and not network.records:
        errors.append(unknown(scenario.data.name))
    if network.records and not private:
        errors.append(
            "network.records: must be 0 but where a site's update is protected and it trains by "
            "epochs (rule: else the batches, or the records themselves, are counted), got "
            f"{network.records}; leave it out"
        )
    if network.over_selection and scenario.noised_at_server:
        errors.append(
            "network.over_selection: must be 0 with privacy.noise_at server (rule: who is late may "
            "bring another into the sum, for which its noise is not made), got "
            f"{network.over_selection:g}; leave it out"
        )
    federation = scenario.federation
    if network.over_selection and federation.participants >= federation.sites:
        errors.append(
            "network.over_selection: must be 0 where all sites are asked anyway (rule: there is "
            f"nobody more to ask), got {network.over_selection:g} with federation.participation "
            f"{federation.participation:g}; lower federation.participation, or leave it out"
        )
    return errors + (_buffered(scenario) if network.buffer else [])


def unknown(source: str) -> str:
    """Return what is wrong where a private run trains on nobody knows how many records."""
    return (
        "network.records: must be above 0 with epochs where a site's update is protected and the "
        "records are your own (rule: times are published, and decide who is late, so no private "
        f"record may be counted for them), got 0 with {source!r}; give the number that a site "
        "has about, as it is known without looking, or take training.steps"
    )


def deployed(network: Network) -> list[str]:
    """Return a line for each key that means nothing where real sites answer when they do."""
    return [
        f"network.{key}: must be 0 in a deployment (rule: it goes by virtual time, and there is "
        f"none), got {getattr(network, key):g}; leave it out"
        for key in ("over_selection", "buffer")
        if getattr(network, key)
    ]


def _buffered(scenario: Scenario) -> list[str]:
    """What a server cannot do that adds updates of models of different age."""
    errors, buffer = [], scenario.network.buffer
    federation, up, down = scenario.federation, scenario.uplink, scenario.downlink

    def refuse(key: str, must: str, rule: str, got: object, mend: str) -> None:
        errors.append(f"{key}: must {must} with network.buffer (rule: {rule}), got {got!r}; {mend}")

    if scenario.network.over_selection:
        refuse(
            "network.over_selection",
            "be 0",
            "there are no rounds, and nobody is too many",
            scenario.network.over_selection,
            "leave it out",
        )
    if buffer > federation.sites:
        errors.append(
            f"network.buffer: must be at most {federation.sites}, the sites (rule: a site trains "
            f"once on a model, so a step has no more updates), got {buffer}; lower it"
        )
    if federation.quorum > buffer:
        refuse(
            "federation.quorum",
            f"be at most {buffer}, the buffer",
            "a step has no more updates",
            federation.quorum,
            "lower it",
        )
    if federation.strategy not in _STREAMED:
        refuse(
            "federation.strategy",
            f"be one of {', '.join(_STREAMED)}",
            "what others compare or keep is of updates of one model",
            federation.strategy,
            "use fedavg",
        )
    unbiased = up.compressor in _UNBIASED and not up.error_feedback
    if not unbiased and not (up.compressor == "dense" and up.values != "fp16"):
        refuse(
            "uplink.compressor",
            f"be one of {', '.join(_UNBIASED)} without error_feedback, or dense in float32",
            "nothing is carried over to an update of another model, so none may be biased",
            up.compressor,
            "use rotated-topk with error_feedback = false",
        )
    if up.aggregate_feedback:
        refuse(
            "uplink.aggregate_feedback",
            "be 0",
            "the last broadcast is another for every site",
            up.aggregate_feedback,
            "leave it out",
        )
    if down.compressor != "dense":
        refuse(
            "downlink.compressor",
            "be dense",
            "a difference needs the model of the round before, and sites come when they are free",
            down.compressor,
            "set downlink.compressor to dense",
        )
    if scenario.training.objective not in ("plain", "fedprox"):
        refuse(
            "training.objective",
            "be plain or fedprox",
            "what a site keeps counts from the round that used it",
            scenario.training.objective,
            "leave it out",
        )
    if federation.weak or federation.weak_sites:
        refuse(
            "federation.weak",
            "be 0",
            "portions are averaged over the sites of one round",
            federation.weak or federation.weak_sites,
            "leave it out",
        )
    if scenario.noised_at_server:
        refuse(
            "privacy.noise_at",
            "be site",
            "the server's noise is for a mean over one round's sites, each once",
            "server",
            "use the noise of the sites",
        )
    return errors
