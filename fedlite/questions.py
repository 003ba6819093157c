"""Figures of a federation's tables: what is asked, what a site answers, and what a sum tells.

A question is a run of one sum in which nothing is trained: a site answers with counts and sums of
its own training records, which `fedlite.privacy.shared.tables` bounds, noises as any shared sum,
and charges to its ledger as such. All that is asked is in the run's public settings: columns,
ranges, bins and the price, which people approve.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data import Source, find
from fedlite.data.header import limits
from fedlite.data.spread import load_source
from fedlite.privacy import SharedMechanism, accounting
from fedlite.privacy.noise import Integers
from fedlite.privacy.shared.lattice import OWN_ROUNDED
from fedlite.privacy.shared.tables import Question, Summary, summarize
from fedlite.scenario import Data, Scenario, ScenarioError, from_dict
from fedlite.scenario.keys import (
    Federation,
    Link,
    Model,
    Privacy,
    Statistics as Keys,
    Task,
    Training,
)
from fedlite.scenario.question import columns_of, text_of

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """What is asked, and at what price.

    epsilon, delta: of this release by itself. bins: of each histogram. most_records: of a site, a
    public bound: of a larger one every count is cut to it.
    """

    epsilon: float = 1.0
    delta: float = 1e-5
    bins: int = 10
    most_records: int = 100_000


@dataclass(frozen=True)
class Statistics:
    """What was found, for whoever asks. error: standard deviation of the noise on every count.

    lasting: whether the sites' ledgers outlive this, so that the next question adds to it. there:
    sites in the sum.
    """

    scenario: str
    asked: Asked
    mechanism: SharedMechanism
    epsilon: float
    alone: float
    error: float
    columns: tuple[Summary, ...]
    claimed: bool
    lasting: bool
    there: int

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of the command: NaN where the noise leaves no figure is null."""
        found: dict[str, Any] = {
            "format": 1,
            "scenario": self.scenario,
            "claimed": self.claimed,
            "lasting": self.lasting,
            "epsilon": self.epsilon if self.claimed else None,
            "alone": self.alone if self.claimed else None,
            "delta": self.asked.delta,
            "asked": asdict(self.asked),
            "unit": self.mechanism.unit,
            "adjacency": self.mechanism.adjacency,
            "sites": self.mechanism.sites,
            "summed": self.there,
            "honest": self.mechanism.honest,
            "noise_multiplier": self.mechanism.noise_multiplier,
            "error_of_counts": self.error,
            "columns": {},
        }
        for one in self.columns:
            row: dict[str, Any] = {
                "range": [float(one.edges[0]), float(one.edges[-1])],
                "edges": one.edges.tolist(),
                "histogram": one.histogram.tolist(),
                "quantiles": {
                    f"{q:g}": {
                        "value": value if math.isfinite(value) else None,
                        "interval": [low, high],
                    }
                    for q, (value, low, high) in one.quantiles.items()
                },
            }
            for name in ("records", "present", "missing", "share", "mean"):
                figure = getattr(one, name)
                known = math.isfinite(figure.value)
                row[name] = {
                    "value": figure.value if known else None,
                    "error": figure.error if known else None,
                    "interval": list(figure.interval) if known else None,
                }
            found["columns"][one.name] = row
        return found


@contextmanager
def quietly() -> Iterator[None]:
    """Say nothing of rows that do not fit: who asks may see neither a value nor how many."""
    log = logging.getLogger("fedlite.site")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def check_table(data: Data) -> None:
    """Raise ScenarioError unless it has named columns."""
    entry = find(data.name)
    if data.tokenizer or data.text or (entry.own and not data.own_table):
        raise ScenarioError(
            f"data.name: must be a table with named columns, got {data.name!r}; texts, pictures "
            "and arrays have none, so export what you want to count as csv, parquet or jsonl"
        )


def table_of(scenario: Scenario) -> Source:
    """Return the records of a scenario that are on this machine, as they were read.

    Raises ScenarioError where they are no table.
    """
    check_table(scenario.data)
    if scenario.data.own_table and not scenario.data.reading.ranges:
        # Before a record is looked at: without the keys hardly a row may fit, which says nothing.
        raise _no_ranges()
    with quietly():
        return load_source(scenario.data, scenario.task.reads, settled=True, skip_wrong=True)


def columns_in(source: Source, name: str) -> dict[str, tuple[float, float]]:
    """Return the columns of a table and their public ranges, in their order.

    name: of the data, for errors. Raises ScenarioError where it has no names or no ranges.
    """
    if not source.features or len(source.shape) != 1:
        raise ScenarioError(
            f"data.name: must be a table with named columns, got {name!r} with records of "
            f"shape {source.shape}; take csv, parquet, jsonl or heart-disease"
        )
    if source.ranges is None:
        raise _no_ranges()
    # A feature of a column of text is 0 or 1.
    listed = {name for name, _ in (source.reading.categories if source.reading else ())}
    low, high = source.ranges
    return {
        feature: (0.0, 1.0)
        if feature.rpartition("=")[0] in listed
        else (float(low[at]), float(high[at]))
        for at, feature in enumerate(source.features)
    }


def columns_said(data: Data) -> dict[str, tuple[float, float]]:
    """Return the same from settings alone, where only the sites hold the records."""
    check_table(data)
    reading = data.reading
    if not reading.features:
        raise ScenarioError(
            "data.columns: must name the columns where only the sites hold the records, got ''"
        )
    # A table that is read by no public ranges has none for columns of text, either.
    if not reading.ranges:
        raise _no_ranges()
    listed = dict(reading.categories)
    plain = [name for name in reading.names if name not in listed]
    given = dict(zip(plain, limits(plain, reading), strict=True))
    found: dict[str, tuple[float, float]] = {}
    for name in reading.names:
        if name in listed:
            found |= {f"{name}={value}": (0.0, 1.0) for value in listed[name]}
            continue
        ends = given[name]
        if ends is None:
            raise _no_ranges()
        found[name] = float(ends[0]), float(ends[1])
    return found


def _no_ranges() -> ScenarioError:
    return ScenarioError(
        "data.ranges: must be set, got nothing (rule: bins are public, and no private record "
        "decides where they lie); give each column's range as it is known without looking at "
        "the data, for example data.ranges = 'age 0:120, dose 0:5'"
    )


def as_run(scenario: Scenario, asked: Asked, columns: dict[str, tuple[float, float]]) -> Scenario:
    """Return the run that asks for these figures: one sum, of nothing but a scenario's records.

    Of the scenario it keeps whose the records are, how they are read, and how many sites are
    honest. Raises ScenarioError for numbers that make no secret sum; whether any noise keeps the
    epsilon, its plan says.
    """
    question = question_about(columns, asked.bins)
    federation, privacy = scenario.federation, scenario.privacy
    quorum = federation.quorum if scenario.shared else federation.sites
    link = Link(compressor="dense", error_feedback=False)
    found = Scenario(
        federation=Federation(
            name=f"{federation.name[:58]}-stats",
            rounds=1,
            sites=federation.sites,
            members=federation.members,
            seed=federation.seed,
            quorum=quorum,
            deadline_seconds=federation.deadline_seconds,
        ),
        data=scenario.data,
        task=Task(name=scenario.task.reads),
        model=Model(name="linear"),
        training=Training(steps=1, device="cpu"),
        uplink=link,
        downlink=Link(compressor="dense"),
        privacy=Privacy(
            unit="record",
            noise_at="shared",
            honest=scenario.honest,
            coordinates=question.coordinates,
            epsilon=asked.epsilon,
            delta=asked.delta,
            clip=question.length,
            expected_batch=1,
            simulate_seed=privacy.simulate_seed,
        ),
        simulation=scenario.simulation,
        statistics=Keys(text_of(columns), asked.bins, asked.most_records),
    )
    return from_dict(found.to_dict())


def question_of(scenario: Scenario) -> Question:
    """Return what the run of a question asks; raises ScenarioError."""
    return question_about(columns_of(scenario.statistics.columns), scenario.statistics.bins)


def question_about(columns: dict[str, tuple[float, float]], bins: int) -> Question:
    """Return what is asked about columns, in `bins` bins each; raises ScenarioError."""
    low, high = (np.array([ends[at] for ends in columns.values()]) for at in (0, 1))
    try:
        return Question(tuple(columns), low, high, bins)
    except ValueError as error:
        raise ScenarioError(str(error)) from error


def check_columns(scenario: Scenario, source: Source) -> None:
    """Raise ScenarioError unless a site's own table has the columns that are asked for, in order.

    Their ranges are those that the table is read by, so that no other grid is laid over it.
    """
    asked, here = columns_of(scenario.statistics.columns), columns_in(source, scenario.data.name)
    if [*asked.items()] != [*here.items()]:
        odd = next((n for n in [*asked, *here] if asked.get(n) != here.get(n)), "their order")
        raise ScenarioError(
            "statistics.columns: must be those of the table, with the ranges that it is read by "
            f"(data.columns, data.ranges), got another {odd!r:.80}; ask for figures anew"
        )


def answer(
    scenario: Scenario, table: Values, mechanism: SharedMechanism, site: int, round_: int
) -> Integers:
    """Return a site's part of the sum, int64 [coordinates]: its answer with its own noise.

    table: float64 [n, d] as it was read, NaN where a value is missing. site: its number.
    """
    from fedlite.privacy import dpsgd
    from fedlite.privacy.shared import summed

    question = question_of(scenario)
    _, noise = dpsgd.entropy(scenario.privacy.simulate_seed, round_, site)
    clear = question.answer(table) * question.scale(mechanism)
    return summed.rounded(clear, mechanism, noise)


def told(
    scenario: Scenario,
    mechanism: SharedMechanism,
    total: NDArray[np.uint32],
    there: int,
    *,
    lasting: bool,
) -> Statistics:
    """Return what a question's sum tells.

    mechanism: of its plan. total: modulo 2^bits, as it comes out from under the masks. there: of
    how many sites. All are taken to have added their noise; where some have not, intervals are
    wider than need be.
    """
    from fedlite.privacy.shared import summed

    question = question_of(scenario)
    scale, privacy, keys = question.scale(mechanism), scenario.privacy, scenario.statistics
    error = mechanism.unit_width * OWN_ROUNDED * math.sqrt(there) / scale
    found = summarize(question, summed.values(total, mechanism) / scale, error, QUANTILES)
    claimed = scenario.claims_privacy
    return Statistics(
        scenario.federation.name,
        Asked(privacy.epsilon, privacy.delta, keys.bins, keys.most_records),
        mechanism,
        accounting.running(mechanism, 1, privacy.delta) if claimed else math.inf,
        accounting.seen_with(mechanism, 1, privacy.delta),
        error,
        tuple(found),
        claimed,
        lasting,
        there,
    )
