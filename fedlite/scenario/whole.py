"""The whole scenario: its sections, what follows from them together, and its forms as text."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from fedlite.registry import file_of, is_own, label, stamps
from fedlite.scenario.keys import (
    NUMERIC,
    Federation,
    Inference,
    Link,
    Model,
    Privacy,
    Report,
    Selection,
    Simulation,
    Statistics,
    Task,
    Training,
)
from fedlite.scenario.members import members_of
from fedlite.scenario.network import Network
from fedlite.scenario.records import Data
from fedlite.scenario.texts import LANGUAGE, NLL
from fedlite.settings import Value


class ScenarioError(ValueError):
    """One or more keys of a scenario are wrong; the text has one line for each."""


@dataclass(frozen=True)
class Scenario:
    """A whole federation; every field but one is a TOML table.

    notes: what was chosen because the scenario named nothing, a line each.
    open_links: the links that it named no compressor for; see `recommend.for_size`.
    """

    federation: Federation = field(default_factory=Federation)
    data: Data = field(default_factory=Data)
    task: Task = field(default_factory=Task)
    model: Model = field(default_factory=Model)
    training: Training = field(default_factory=Training)
    uplink: Link = field(default_factory=Link)
    downlink: Link = field(default_factory=Link)
    privacy: Privacy = field(default_factory=Privacy)
    statistics: Statistics = field(default_factory=Statistics)
    selection: Selection = field(default_factory=Selection)
    simulation: Simulation = field(default_factory=Simulation)
    network: Network = field(default_factory=Network)
    inference: Inference = field(default_factory=Inference)
    report: Report = field(default_factory=Report)
    notes: tuple[str, ...] = field(default=(), compare=False)
    open_links: tuple[str, ...] = field(default=(), compare=False)

    @property
    def classifies(self) -> bool:
        """Whether what is answered is a class, and what a record holds its number."""
        return self.task.reads not in NUMERIC

    @property
    def answers(self) -> tuple[str, ...]:
        """The names of what is answered: classes, labels or targets; empty where the source says.

        A text that is its own answer (`causal-lm`) has one: the loss of its tokens.
        """
        if self.task.name == LANGUAGE:
            return (NLL,)
        return self.data.class_names if self.classifies else self.data.targets

    @property
    def width(self) -> int:
        """How many classes, labels or targets there are; 0 where the source says it."""
        return len(self.answers)

    @property
    def private(self) -> bool:
        """Whether the sites add noise (claimed or, with `simulate_seed`, only simulated)."""
        return self.privacy.unit != "none"

    @property
    def noised_at_server(self) -> bool:
        """Whether sites send clear updates to a server that adds the noise."""
        return self.privacy.unit == "client" and self.privacy.noise_at == "server"

    @property
    def shared(self) -> bool:
        """Whether the sites share their noise, and the server sees sums alone."""
        return self.private and self.privacy.noise_at == "shared"

    @property
    def honest(self) -> int:
        """How many sites are taken to be honest where noise is shared: two thirds, rounded up."""
        return self.privacy.honest or math.ceil(2 * self.federation.sites / 3)

    @property
    def members(self) -> dict[str, str]:
        """The keys of those who share noise by their names; nobody in a simulation."""
        return members_of(self.privacy.members)

    @property
    def claims_privacy(self) -> bool:
        """Whether epsilons are claimed, budgets kept and ledgers written."""
        return self.private and self.privacy.simulate_seed < 0

    @property
    def repeatable(self) -> bool:
        """Whether the same seed gives the same payloads bit for bit."""
        return not self.private or self.privacy.simulate_seed >= 0

    def to_dict(self) -> dict[str, dict[str, Value]]:
        """Return nested plain values, as in the TOML file."""
        return {name: asdict(getattr(self, name)) for name in SECTIONS}

    def to_run_config(self) -> dict[str, Value]:
        """Return Flower's flat run config with dotted keys."""
        nested = self.to_dict()
        return {f"{s}.{k}": v for s, table in nested.items() for k, v in table.items()}

    def notable(self) -> dict[str, Value]:
        """Return what a reader of the record must know: what decides most, and all that is set.

        The keys are dotted and in order. A path is only said to be set, and a file of one's own
        named without its folder: records are shown to others, and it may name a person or a place.
        """
        defaults = Scenario().to_run_config()
        return {
            key: _shown((key.split(".")[0], key.split(".")[1]), value)
            for key, value in self.to_run_config().items()
            if value != defaults[key] or key in _DECISIVE
        }

    def to_toml(self) -> str:
        """Return the whole scenario, defaults included, as TOML."""
        import tomli_w

        return tomli_w.dumps(self.to_dict())


_DECISIVE = (
    "federation.participation",
    "data.partition",
    "training.batch_size",
    "training.learning_rate",
    "uplink.compressor",
    "downlink.compressor",
)
SECTIONS: dict[str, type[Any]] = {
    "federation": Federation,
    "data": Data,
    "task": Task,
    "model": Model,
    "training": Training,
    "uplink": Link,
    "downlink": Link,
    "privacy": Privacy,
    "statistics": Statistics,
    "selection": Selection,
    "simulation": Simulation,
    "network": Network,
    "inference": Inference,
    "report": Report,
}


def _keys(mark: str) -> tuple[tuple[str, str], ...]:
    keys = ((name, f) for name, kind in SECTIONS.items() for f in fields(kind))
    return tuple((name, f.name) for name, f in keys if mark in f.metadata)


# Section and key of every setting that names a file or folder.
PATHS = _keys("path")
# Of those the ones that may name something else, without a slash.
_OR_NAMES = _keys("or name")
# Of every setting that may name code of one's own: code that is run.
CODE = _keys("code")
# Of every table of options.
OPTIONS = _keys("options")


def is_path(key: tuple[str, str], text: str) -> bool:
    """Return whether what section and key of a setting hold names a file or folder."""
    return key in PATHS and bool(text) and ("/" in text or key not in _OR_NAMES)


def own_code(scenario: Scenario) -> dict[str, str]:
    """Return the settings that name code of one's own, as `section.key`, and what they name."""
    named = {f"{s}.{k}": str(getattr(getattr(scenario, s), k)) for s, k in CODE}
    return {key: name for key, name in named.items() if is_own(name)}


def options_of(scenario: Scenario, key: str) -> str:
    """Return the JSON text of the options of what `key`, `section.key`, names; "" for none."""
    section, _, name = key.partition(".")
    table = getattr(scenario, section)
    found = (f.name for f in fields(table) if f.metadata.get("options") == name)
    return str(getattr(table, next(found)))


def own_stamps(scenario: Scenario, *keys: str) -> tuple[object, ...]:
    """Return what tells whether the files of these settings, `section.key`, are what they were."""
    named = own_code(scenario)
    files = (file_of(named[key]) for key in keys if key in named)
    return tuple(stamps(file) for file in files if file is not None)


def _shown(key: tuple[str, str], value: Value) -> Value:
    if is_path(key, str(value)):
        return "set"
    return label(str(value)) if key in CODE else value
