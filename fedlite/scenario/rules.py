"""Rules that tie several keys of a scenario together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedlite.registry import is_own
from fedlite.scenario import (
    figure_rules,
    inference_rules,
    network_rules,
    shared_rules,
    text_rules,
    training_rules,
)
from fedlite.scenario.records import ALONE, OWN, Data
from fedlite.scenario.texts import LANGUAGE

if TYPE_CHECKING:
    from fedlite.scenario.whole import Scenario


_EXACT = ("fp16", "fp32")


def broken(scenario: Scenario) -> list[str]:
    """Return a line for each rule that the scenario breaks: key, rule, value and mend."""
    errors = []
    federation, data = scenario.federation, scenario.data
    asked = federation.participants
    if federation.quorum > asked:
        errors.append(
            f"federation.quorum: must be at most the {asked} sites asked in a round "
            f"(sites x participation), got {federation.quorum}; lower it or add sites"
        )
    named = federation.named
    if named and len(named) != federation.sites:
        errors.append(
            f"federation.sites: must be the number of federation.members, of which {len(named)} "
            f"are named, got {federation.sites}; set federation.sites to {len(named)}"
        )
    if any(name.startswith("@") for name in named) or (
        federation.group and "," in federation.group
    ):
        errors.append(
            "federation.members: must be one group or names of sites, got "
            f"{federation.members!r}; a site whose name begins with @ is reached by a group"
        )
    if data.at_sites and not (data.sizes and scenario.width):
        answers = "data.labels" if scenario.classifies else "data.target"
        width = "data.columns (or data.shape)" if data.own_table else "data.shape"
        width = "data.tokenizer" if data.text else width
        errors.append(
            f'data.path: needed when data.name is "{data.name}", got nothing; set it'
            f"{' and data.target' * data.own_table}, or {answers} and {width} where the sites "
            "alone hold the records"
        )
    if data.own_table and data.path and not data.target and scenario.task.name != LANGUAGE:
        errors.append(f'data.target: needed when data.name is "{data.name}", got nothing; set it')
    errors += _weak(scenario)
    errors += _columns(data)
    errors += _division(scenario)
    errors += _task(scenario)
    errors += text_rules.broken(scenario)
    if data.test_fraction and data.fold >= round(1 / data.test_fraction):
        errors.append(
            f"data.fold: must be less than {round(1 / data.test_fraction)} "
            f"(1 / data.test_fraction), got {data.fold}; lower it"
        )
    if scenario.simulation.witness and not scenario.simulation.sites:
        errors.append(
            "simulation.sites: must be set when simulation.witness is (rule: a server that "
            "remembers ledgers refuses sites that begin new ones), got nothing; name the folder "
            "where the sites keep theirs from run to run"
        )
    errors += training_rules.broken(scenario)
    errors += inference_rules.broken(scenario)
    errors += shared_rules.broken(scenario)
    errors += figure_rules.broken(scenario)
    errors += network_rules.broken(scenario)
    if scenario.selection.active:
        errors += _selection(scenario)
    if scenario.private:
        errors += _private_checks(scenario)
    if scenario.downlink.compressor != "dense" and not scenario.downlink.error_feedback:
        errors.append(
            f"downlink.error_feedback: must be true with {scenario.downlink.compressor}, got "
            "false; without it the sites' model drifts away from the server's for ever"
        )
    up = scenario.uplink
    if up.compressor == "randk" and not up.error_feedback and up.values not in ("", *_EXACT):
        errors.append(
            "uplink.values: must be fp16 or fp32 for randk without error_feedback (rule: what "
            "nobody remembers may not be biased, and a magnitude for many values is), got "
            f"{up.values!r}; set uplink.values to fp16"
        )
    if scenario.downlink.aggregate_feedback:
        errors.append(
            "downlink.aggregate_feedback: must be 0 (rule: it is what sites subtract on the way "
            f"up), got {scenario.downlink.aggregate_feedback}; uplink.aggregate_feedback is meant"
        )
    return errors


def _weak(scenario: Scenario) -> list[str]:
    """Who trains the shallow branch alone: drawn or named, never everybody."""
    errors, federation = [], scenario.federation
    named, members = federation.weak_named, federation.named
    if federation.weak and named:
        errors.append(
            "federation.weak: must be 0 where federation.weak_sites is set (rule: sites are drawn "
            f"or named), got {federation.weak:g}; leave one of the two out"
        )
    if named and len(named) >= federation.sites:
        errors.append(
            "federation.weak_sites: must be fewer than federation.sites (rule: a tail that no site "
            f"trains never moves), got {len(named)} of {federation.sites}; leave one out"
        )
    if members and (strangers := sorted({*named} - {*members})):
        errors.append(
            f"federation.weak_sites: must be among federation.members, got {strangers[0]!r}; mend "
            "its name, or add it there"
        )
    return errors


def _division(scenario: Scenario) -> list[str]:
    """Keys that say whose a record is, and lots that would tell of private records."""
    errors, data = [], scenario.data
    for kind in ("column", "file"):
        key, given = f"data.partition_{kind}", getattr(data, f"partition_{kind}")
        if bool(given) != (data.partition == kind):
            mend = "leave it out" if given else "name it"
            errors.append(
                f"{key}: must be set when data.partition is {kind}, and only then, got {given!r} "
                f"with {data.partition!r}; {mend}"
            )
    if data.partition == "column" and data.own and not data.own_table and data.name != "npz":
        errors.append(
            f"data.partition: must not be column for {data.name}, which has no columns; arrange "
            "the folders as FOLDER/SITE/CLASS, and use natural"
        )
    if not scenario.private:
        return errors
    if data.least > 1:
        errors.append(
            "data.least: must be 1 when privacy.unit is not none (rule: how many records a private "
            f"site holds decides nothing), got {data.least}; leave it out"
        )
    return errors


def _task(scenario: Scenario) -> list[str]:
    """Keys that only make sense where classes are told apart, or where numbers are answered."""
    data, name = scenario.data, scenario.task.reads
    errors = []
    if scenario.task.like not in ("", name):
        errors.append(
            f"task.like: must be empty for {name}, which is a task of the house, got "
            f"{scenario.task.like!r}; leave it out"
        )
    if name == "regression":
        if data.own and not data.target_ranges and (scenario.private or data.at_sites):
            errors.append(
                "data.target_ranges: must be set when task.name is regression and records are "
                "private or at the sites alone (rule: no record decides how others are read, and "
                "sites must read alike), got nothing; give the range that the target is known to "
                "have, as in data.target_ranges = 'price 0:500000'"
            )
    elif data.target_ranges:
        errors.append(
            "data.target_ranges: must be empty unless task.name is regression, got "
            f"{data.target_ranges!r}; leave it out"
        )
    if scenario.classifies:
        return errors
    for key, value, off in (
        ("data.labels", data.labels, "leave it out: data.target names what is answered"),
        ("training.logit_adjustment", scenario.training.logit_adjustment, "leave it out"),
        ("inference.home_head", scenario.inference.home_head, "leave it out"),
        ("report.baseline_repeats", scenario.report.baseline_repeats, "leave it out"),
    ):
        if value:
            errors.append(f"{key}: is for classification, and task.name is {name}; {off}")
    return errors


def _selection(scenario: Scenario) -> list[str]:
    """What a choice among rounds needs; what it may not see, `server.selection` refuses."""
    errors, selection = [], scenario.selection
    key = f"selection.{'keep' if selection.keep == 'best' else 'patience'}"
    given = repr(selection.keep) if selection.keep == "best" else selection.patience
    if scenario.data.at_sites:
        errors.append(
            f"{key}: must be left out where the coordinator holds no records (rule: nobody there "
            f"can score a round, and no site sends a score), got {given}; leave it out"
        )
    if not scenario.federation.evaluate_every:
        errors.append(
            f"federation.evaluate_every: must be at least 1 with {key}, got 0; set it to 1"
        )
    return errors


def _columns(data: Data) -> list[str]:
    """Keys about a table's columns that contradict each other."""
    errors, reading = [], data.reading
    if reading.names and reading.drop:
        errors.append(
            f"data.drop: must be empty when data.columns is set, got {data.drop!r}; data.columns "
            "lists all features, so take away what is not to be one"
        )
    listed, dated = dict(reading.categories), dict(reading.dates)
    ranged = [name for name, _, _ in reading.ranges if name]
    for key, named in (("categories", listed), ("dates", dated), ("ranges", ranged)):
        for name in named:
            if name in reading.drop or (reading.names and name not in reading.names):
                errors.append(
                    f"data.{key}: must name columns that are features, got {name!r}; take it away, "
                    "or see data.columns and data.drop"
                )
            if key != "categories" and name in listed:
                errors.append(
                    f"data.{key}: must name no column of data.categories, got {name!r}; a "
                    "column of text has neither dates nor a range"
                )
    return errors


def advice(scenario: Scenario) -> list[str]:
    """Return a line for what is allowed and likely to go wrong, with the mend."""
    data = scenario.data
    if scenario.private and is_own(data.name):
        return [
            "data: what your function does to the records is not seen here; scale them by ranges "
            "known without looking (rule: one record may not change how others are read)"
        ]
    if data.tokenizer:
        return text_rules.advice(data, private=scenario.private)
    numbers = data.own and data.name != "images"
    if scenario.private and numbers and data.scaling == "none" and not data.ranges:
        return [
            "data: its columns go into privacy.clip as they are; where one does not lie between "
            "about -1 and 1, give all their public ranges, as in data.ranges = 'age 0:120'"
        ]
    return []


def _private_checks(scenario: Scenario) -> list[str]:
    """Combinations for which no privacy can be proven; each is refused with its rule."""
    errors = []
    federation, data, privacy = scenario.federation, scenario.data, scenario.privacy
    if federation.weighting == "records":
        errors.append(
            "federation.weighting: must be uniform when privacy.unit is not none (rule: no "
            "record count leaves a private site), got 'records'; privacy.expected_batch gives "
            "larger sites their weight without telling their size"
        )
    if data.partition not in ALONE:
        errors.append(
            f"data.partition: must be one of {', '.join(ALONE)} when privacy.unit is not none "
            "(rule: a record is placed by itself alone, and one more or less moves no other), got "
            f"{data.partition!r}; use one of these"
        )
    if bool(privacy.max_batch) != bool(privacy.max_records):
        errors.append(
            "privacy.max_batch: needs privacy.max_records and the other way round (rule: how "
            "often a sample is cut depends on the size of the site), got "
            f"{privacy.max_batch} and {privacy.max_records}; set both or neither"
        )
    if data.own and scenario.classifies and not data.labels:
        errors.append(
            "data.labels: must be set when privacy.unit is not none and data.name is "
            f'"{data.name}" (rule: one record may not decide which classes there are, nor number '
            "the others), got "
            'nothing; list all classes, for example "no,yes"'
        )
    errors += _own_columns(data)
    if privacy.unit == "client":
        return errors + _client_checks(scenario)
    if privacy.noise_at == "server":
        errors.append(
            "privacy.noise_at: must be site or shared when privacy.unit is record (rule: noise "
            "that protects a record is added before anything leaves the site), got 'server'"
        )
    if scenario.training.steps == 0:
        errors.append(
            "training.steps: must be at least 1 when privacy.unit is record, got 0; the "
            "number of private steps is part of the plan, so epochs cannot stand for it"
        )
    for key in ("momentum", "weight_decay"):
        if getattr(scenario.training, key):
            errors.append(
                f"training.{key}: must be 0 under record-level privacy (rule: private steps are "
                f"plain SGD), got {getattr(scenario.training, key)}; leave it out"
                + ("; federation.server_momentum sees noised updates only" * (key == "momentum"))
            )
    if data.own and not privacy.expected_batch:
        errors.append(
            "privacy.expected_batch: must be set when privacy.unit is record and data.name "
            f'is "{data.name}" (rule: a public constant may not be computed from private '
            "records), got 0; use about sampling_rate x records per site, the same number for "
            "every site"
        )
    if scenario.training.logit_adjustment:
        errors.append(
            "training.logit_adjustment: must be false when privacy.unit is record (rule: a "
            "record's gradient must depend on that record only), got true; leave it out"
        )
    # The range of a picture's numbers is public.
    numbers = data.name in OWN and data.name != "images" and not data.tokenizer
    if numbers and data.scaling == "site" and not data.ranges:
        errors.append(
            "data.scaling: must be none, or give way to data.ranges, when privacy.unit is record "
            "(rule: a record may not change how other records are scaled), got 'site'; set "
            "data.ranges to each column's range as it is known without looking at the data, for "
            "example 'age 0:120, dose 0:5'"
        )
    return errors


def _own_columns(data: Data) -> list[str]:
    """What the records of one's own would otherwise say of how they are read."""
    if data.name == "jsonl" and not data.columns and not data.text:
        return [
            "data.columns: must be set when privacy.unit is not none and data.name is "
            '"jsonl" (rule: no record decides what the columns are, and the file has no header), '
            "got nothing; list the features"
        ]
    if data.name == "images" and not data.shape:
        return [
            "data.shape: must be set when privacy.unit is not none and data.name is "
            '"images" (rule: no record decides how others are read), got nothing; 1x28x28 makes '
            "all pictures grey and of 28 x 28 pixels"
        ]
    return []


def _client_checks(scenario: Scenario) -> list[str]:
    """Rules of the unit `client`: all that one site ever sends."""
    errors = []
    privacy = scenario.privacy
    if privacy.sampling_rate != 1.0:
        errors.append(
            "privacy.sampling_rate: must be 1 when privacy.unit is client (rule: no amplification "
            "is claimed against the server that chooses the sites), got "
            f"{privacy.sampling_rate}; leave it out"
        )
    for key in ("max_batch", "expected_batch"):
        if getattr(privacy, key):
            errors.append(
                f"privacy.{key}: must be 0 when privacy.unit is client, got "
                f"{getattr(privacy, key)}; it belongs to the unit record"
            )
    if privacy.noise_at == "server":
        if scenario.uplink.error_feedback:
            errors.append(
                "uplink.error_feedback: must be false when privacy.noise_at is server (rule: what "
                "the server clips may not carry earlier rounds), got true"
            )
        if scenario.federation.update_norm:
            errors.append(
                "federation.update_norm: must be 0 when privacy.noise_at is server (rule: "
                "sensitivity, clip and noise come from one object), got "
                f"{scenario.federation.update_norm}; privacy.clip bounds the updates"
            )
    if privacy.delta >= 1 / scenario.federation.sites:
        errors.append(
            f"privacy.delta: must be less than 1 / sites when privacy.unit is client, which is "
            f"1 / {scenario.federation.sites}, got {privacy.delta}; use 1e-5 or less"
        )
    return errors
