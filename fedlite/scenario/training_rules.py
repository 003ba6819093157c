"""Rules that tie what a site minimises, and by which steps, to other keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedlite.scenario.whole import Scenario


def broken(scenario: Scenario) -> list[str]:
    """What the objectives of the house need, and where none is proven to be private."""
    errors, federation, training = [], scenario.federation, scenario.training
    name, unit = training.objective, scenario.privacy.unit
    if (name == "feddyn") != (federation.strategy == "feddyn"):
        errors.append(
            "training.objective: must be feddyn where federation.strategy is, and the other way "
            f"round (rule: they are two halves of one method), got {name!r} and "
            f"{federation.strategy!r}; set both or neither"
        )
    if name == "feddyn" and (federation.server_learning_rate, federation.server_momentum) != (1, 0):
        errors.append(
            "federation.server_learning_rate: must be 1, and federation.server_momentum 0, with "
            "feddyn (rule: its server has a step of its own), got "
            f"{federation.server_learning_rate:g} and {federation.server_momentum:g}; leave both "
            "out"
        )
    if training.optimizer == "adam":
        errors += _adam(scenario)
    if name == "scaffold" and training.momentum:
        errors.append(
            "training.momentum: must be 0 with scaffold (rule: a control variate is the mean "
            f"gradient of a site's plain steps), got {training.momentum:g}; leave it out, or use "
            "federation.server_momentum"
        )
    if name in ("scaffold", "feddyn") and federation.weighting == "records":
        errors.append(
            f"federation.weighting: must be uniform with {name} (rule: its server keeps a mean "
            "over all sites, of which it does not know the sizes), got 'records'; leave it out"
        )
    allowed = {"record": ("plain",), "client": ("plain", "fedprox")}.get(unit)
    if allowed and name not in allowed:
        errors.append(
            f"training.objective: must be {' or '.join(allowed)} when privacy.unit is {unit} "
            + (
                "(rule: private steps are plain SGD)"
                if unit == "record"
                else "(rule: nothing that a site keeps of clear records is proven to be private)"
            )
            + f", got {name!r}; leave it out"
        )
    return errors


def _adam(scenario: Scenario) -> list[str]:
    """What does not go with steps whose length is not the gradient's."""
    training, errors = scenario.training, []
    if training.momentum:
        errors.append(
            "training.momentum: must be 0 with optimizer adam (rule: it has its own), got "
            f"{training.momentum:g}; leave it out"
        )
    if training.objective in ("scaffold", "feddyn"):
        errors.append(
            f"training.optimizer: must be sgd with {training.objective} (rule: what a site keeps "
            "is computed from plain steps), got 'adam'; leave it out"
        )
    if scenario.privacy.unit == "record":
        errors.append(
            "training.optimizer: must be sgd when privacy.unit is record (rule: private steps are "
            "plain SGD), got 'adam'; leave it out"
        )
    return errors
