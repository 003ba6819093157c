"""Which model and which compressors a scenario gets where it names none, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedlite.scenario.keys import Link
from fedlite.scenario.records import OWN_TABLES
from fedlite.scenario.texts import LANGUAGE, PRETRAINED
from fedlite.scenario.whole import Scenario
from fedlite.settings import read_options, write_options

# Density and squared error of one unbiased update, in units of its squared norm (measured on real
# updates; docs/benchmarks.md). The error of a mean over m sites is an m-th of it, and up to about
# this much of that, training did not notice it.
_ERRORS = ((0.01, 9.0), (0.03, 3.5), (0.1, 1.1))
_UNNOTICED = 0.7
_FEW_BITS = {"compressor": "eden", "error_feedback": False}
_COMMON = {"compressor": "randk", "density": 0.1, "error_feedback": False}
_SIGNS = {"compressor": "topk", "density": 0.1, "values": "sign-per-tensor"}
# As measured: fewer bytes than signs at 8 %. With one magnitude a tensor, the small head of a
# network of a million parameters fell behind; on a small one neither was better
# (docs/benchmarks.md).
DOWN: dict[str, Any] = {"compressor": "topk", "density": 0.07, "values": "levels-2"}
# A dense vector of fewer parameters takes 16 kB at most: a sparse one saves a few kB in a whole
# run, and a table's few coefficients are missed where they are left out.
SMALL = 4096

# Strategies that look at one coordinate at a time: of sparse updates with supports of their own
# they make little (measured; docs/robust.md).
_BY_COORDINATE = ("median", "trimmed-mean")

_UNBIASED = ("eden", "randk", "rotated-topk")
_LINK_KEYS = {"compressor", "density", "values"}

# The sources whose records are rows of columns, unless `data.shape` makes something else of them;
# the catalogue's entries say so too.
TABLES = (*OWN_TABLES, "heart-disease")


def is_table(scenario: Scenario) -> bool:
    """Return whether the scenario's records are rows of columns; such data gets `linear`."""
    return scenario.data.name in TABLES and len(scenario.data.sizes) <= 1


def recommend(scenario: Scenario, direction: str) -> tuple[dict[str, Any], str]:
    """Return keys for the link `direction` ("uplink" or "downlink"), and the reason in one line.

    Nothing but public settings is looked at, so sites and server come to the same choice.

    >>> from fedlite.scenario import from_dict
    >>> recommend(from_dict({"federation": {"sites": 20}}), "uplink")[0]
    {'compressor': 'rotated-topk', 'density': 0.01, 'error_feedback': False}
    """
    asked = scenario.federation.participants
    if direction == "downlink" and scenario.network.buffer:
        return {"compressor": "dense"}, "with network.buffer sites come when they are free"
    if direction == "downlink":
        return DOWN, "one sender: what is left out must go out later"
    if scenario.shared:
        return _COMMON, "sums under masks need a support that is common to all sites"
    if scenario.privacy.unit == "client" and scenario.privacy.noise_at == "server":
        return _FEW_BITS, "the server clips every update by itself"
    bounded = scenario.private or bool(scenario.federation.update_norm)
    if bounded and scenario.federation.strategy in _BY_COORDINATE:
        return _FEW_BITS, f"{scenario.federation.strategy} needs every site's every coordinate"
    if scenario.private:
        return _SIGNS | {"values": "sign"}, "noised updates: error feedback adds no further noise"
    if scenario.federation.update_norm:
        return _SIGNS, "the server bounds updates, and unbiased ones are longer than they were"
    if density := unnoticed_density(asked):
        link = {"compressor": "rotated-topk", "density": density, "error_feedback": False}
        return link, f"{asked} sites a round: their independent errors average out"
    return _SIGNS, "one site a round: no errors to average"


def unnoticed_density(asked: int) -> float:
    """Return the least density of rotated updates that a mean over `asked` of them bears, or 0.

    >>> unnoticed_density(20), unnoticed_density(5), unnoticed_density(1)
    (0.01, 0.03, 0.0)
    """
    fitting = [density for density, error in _ERRORS if error <= _UNNOTICED * asked]
    return min(fitting, default=0.0)


def for_size(scenario: Scenario, parameters: int) -> Scenario:
    """Return the scenario with the links that it left open settled for a model of that size.

    A small model's are dense. Its size is known once the data are, and those a scenario's reader
    does not look at; what it has chosen without holds for all others.

    parameters: how many coordinates a dense update has, at least 1.
    """
    opened = scenario.open_links
    if parameters >= SMALL or not opened:
        return scenario
    links = {
        name: replace(getattr(scenario, name), compressor="dense", density=0.0, values="")
        for name in opened
    }
    why = f"all {parameters:,} parameters are {4 * parameters:,} bytes"
    notes = [note for note in scenario.notes if note.split(":")[0] not in opened]
    notes += [f"{name}: dense, as the scenario names none ({why})" for name in opened]
    return replace(scenario, **links, notes=tuple(notes))


def with_model(scenario: Scenario, tables: Mapping[str, Any]) -> Scenario:
    """Return the scenario with its model settled where its tables name none.

    A pretrained one that names no base is the one whose tokens the data are.
    """
    model, notes = scenario.model, []
    if "name" not in tables.get("model", {}):
        if scenario.data.tokenizer:
            model = replace(model, name=PRETRAINED[scenario.task.name == LANGUAGE])
            notes = [f"model: {model.name}, as the scenario names none (the data are texts)"]
        elif is_table(scenario):
            model = replace(model, name="linear")
            notes = ["model: linear, as the scenario names none (the data is a table)"]
    options = read_options(model.options)
    if model.name in PRETRAINED and "base" not in options and scenario.data.tokenizer:
        options["base"] = scenario.data.tokenizer
        model = replace(model, options=write_options(options))
    return replace(scenario, model=model, notes=tuple(notes))


def with_step(scenario: Scenario, tables: Mapping[str, Any]) -> Scenario:
    """Return the scenario with its optimizer and rate settled where its tables name none.

    Adapters begin at zero, where plain gradients are too short by far; private steps are plain.
    """
    training, given = scenario.training, tables.get("training", {})
    pretrained = scenario.model.name in PRETRAINED and scenario.privacy.unit != "record"
    notes = list(scenario.notes)
    if pretrained and "optimizer" not in given and not training.momentum:
        training = replace(training, optimizer="adam")
        notes.append("training: optimizer adam, as the scenario names none (the model is adapted)")
    if training.optimizer == "adam" and "learning_rate" not in given:
        rate = 0.003 if pretrained else 0.001
        training = replace(training, learning_rate=rate)
        notes.append(f"training: learning_rate {rate:g}, as the scenario names none (adam)")
    return replace(scenario, training=training, notes=tuple(notes))


def with_links(scenario: Scenario, tables: Mapping[str, Any]) -> Scenario:
    """Return the scenario with the links that its tables leave open settled."""
    notes, opened = list(scenario.notes), []
    links = {"uplink": scenario.uplink, "downlink": scenario.downlink}
    for name, link in links.items():
        given = tables.get(name, {})
        if not _LINK_KEYS & set(given):
            opened.append(name)
            chosen, why = recommend(scenario, name)
            link = Link(**(chosen | {key: getattr(link, key) for key in given}))
            density = f" {100 * link.density:g} %" if link.density else ""
            notes.append(f"{name}: {link.compressor}{density}, as the scenario names none ({why})")
        elif "error_feedback" not in given and name == "uplink":
            clipped = scenario.privacy.unit == "client" and scenario.privacy.noise_at == "server"
            memory = not clipped and not scenario.shared
            link = replace(link, error_feedback=memory and link.compressor not in _UNBIASED)
        links[name] = link
    scenario = replace(scenario, uplink=links["uplink"], downlink=links["downlink"])
    return replace(scenario, notes=tuple(notes), open_links=tuple(opened))
