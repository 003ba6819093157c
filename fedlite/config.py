"""The scenario: everything that defines a federation, typed and checked before anything runs.

A scenario is a TOML file with one table per section below. Under `flwr run` the same keys are the
dotted run-config keys (`federation.rounds`). Unknown keys, wrong types and values outside their
rule are all reported at once, one line each, with the mend.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlite.privacy import ranges
from fedlite.recommend import is_table, recommend
from fedlite.rules import broken

if TYPE_CHECKING:
    from fedlite.compression import Compressor

Value = str | int | float | bool


class ScenarioError(ValueError):
    """One or more keys of a scenario are wrong; the text has one line for each."""


def setting(default: Any, rule: str, check: Callable[[Any], bool]) -> Any:
    """Return a dataclass field with its default, its rule in words, and the check of a value."""
    return field(default=default, metadata={"rule": rule, "check": check})


def _choice(default: str, *options: str) -> Any:
    return setting(default, "one of " + ", ".join(options), lambda v: v in options)


def _positive(default: float) -> Any:
    return setting(default, "greater than 0", lambda v: v > 0)


def _at_least(default: float, low: float) -> Any:
    return setting(default, f"at least {low}", lambda v: v >= low)


def _between(default: float, low: float, high: float) -> Any:
    return setting(default, f"from {low} to {high}", lambda v: low <= v <= high)


def _fraction(default: float) -> Any:
    return setting(default, "greater than 0 and at most 1", lambda v: 0 < v <= 1)


def _in(default: float, range: ranges.Range) -> Any:
    return setting(default, range.rule, range.__contains__)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _distinct(text: str) -> bool:
    names = _names(text)
    return len(names) != 1 and all(names) and len(set(names)) == len(names)


def _anything(default: Any) -> Any:
    return setting(default, "", lambda v: True)


@dataclass(frozen=True)
class Federation:
    """Who takes part, for how long, and how the server turns updates into the next model.

    `update_norm` > 0 bounds the L2 norm of every update after decoding, whatever a site sends.
    `average_last` is the share of the rounds, counted from the end, whose models are averaged into
    the released one; 0 releases the last model.
    """

    name: str = setting("custom", "a non-empty name without '/'", lambda v: v and "/" not in v)
    rounds: int = _at_least(30, 1)
    sites: int = _at_least(5, 1)
    participation: float = _fraction(1.0)
    seed: int = _at_least(1, 0)
    quorum: int = _at_least(1, 1)
    deadline_seconds: float = _positive(600.0)
    strategy: str = setting("fedavg", "a non-empty name", bool)
    weighting: str = _choice("uniform", "uniform", "records")
    update_norm: float = _at_least(0.0, 0.0)
    server_learning_rate: float = _positive(1.0)
    server_momentum: float = setting(0.0, "at least 0 and less than 1", lambda v: 0 <= v < 1)
    average_last: float = _between(0.0, 0.0, 1.0)
    evaluate_every: int = _at_least(1, 0)

    @property
    def participants(self) -> int:
        """Number of sites asked in one round: `ceil(participation * sites)`, at least 1."""
        return max(1, math.ceil(self.participation * self.sites - 1e-9))


@dataclass(frozen=True)
class Data:
    """Which records, and how they are spread over the sites.

    `labels` fixes the class numbers of a CSV, so that sites with a file each agree on them. A `csv`
    without a `path` is at the sites only: `shape` and `labels` are then all that is known of it.
    """

    name: str = setting("digits", "a non-empty name", bool)
    partition: str = _choice("iid", "iid", "dirichlet", "natural")
    alpha: float = _positive(0.3)
    test_fraction: float = setting(0.2, "at least 0 and at most 0.5", lambda v: 0 <= v <= 0.5)
    fold: int = _at_least(0, 0)
    path: str = _anything("")
    target: str = _anything("")
    scaling: str = _choice("site", "site", "none")
    shape: str = setting(
        "",
        "empty, or sizes such as 6x100",
        lambda v: re.fullmatch(r"([1-9][0-9]*(x[1-9][0-9]*)*)?", v) is not None,
    )
    labels: str = setting("", "empty, or two or more names, each once, split by commas", _distinct)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of one record; empty where the source says it."""
        return tuple(int(size) for size in self.shape.split("x") if size)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes by their numbers; empty where the source says them."""
        return _names(self.labels)

    @property
    def at_sites(self) -> bool:
        """Whether the records are at the sites only, so that no coordinator can evaluate."""
        return self.name == "csv" and not self.path


@dataclass(frozen=True)
class Model:
    """Which branched model is trained.

    Where the scenario names none, tables get `linear`: `cosine` centres each record over its own
    columns, so that it cannot see their sum.
    """

    name: str = setting("cosine", "a non-empty name", bool)


@dataclass(frozen=True)
class Training:
    """What a site does in a round. `steps` > 0 replaces `epochs`.

    With schedule `linear` the learning rate holds for the share `hold` of the rounds and then falls
    in a straight line to `final` times itself. `logit_adjustment` tells the local loss how often
    each class occurs at the site, which keeps skewed sites from unlearning what they do not have.
    """

    epochs: int = _at_least(1, 1)
    steps: int = _at_least(0, 0)
    batch_size: int = _at_least(32, 1)
    learning_rate: float = _positive(0.1)
    schedule: str = _choice("constant", "constant", "linear")
    hold: float = _between(0.5, 0.0, 1.0)
    final: float = _fraction(0.1)
    momentum: float = setting(0.0, "at least 0 and less than 1", lambda v: 0 <= v < 1)
    clip_norm: float = _at_least(0.0, 0.0)
    weight_decay: float = _at_least(0.0, 0.0)
    exit_weight: float = _between(0.5, 0.0, 1.0)
    distill: float = _at_least(0.0, 0.0)
    temperature: float = _positive(3.0)
    logit_adjustment: bool = _anything(False)
    device: str = setting("auto", "auto, cpu or cuda", lambda v: v in ("auto", "cpu", "cuda"))


@dataclass(frozen=True)
class Link:
    """How vectors are compressed in one direction.

    A link that names no compressor, density or values gets what `fedlite.recommend` picks.
    `density` 0 and `values` "" leave the choice to the compressor. `bits` is for rotated
    coordinates (eden).
    `error_feedback` keeps what was not sent for the next update; where the key is missing, topk and
    dense have it, and the compressors that can be unbiased (eden, randk,
    rotated-topk) are that instead.
    `aggregate_feedback` > 0 is the share of the last broadcast that sites subtract from an update,
    and the server adds again (up only).
    """

    compressor: str = setting("topk", "a non-empty name", bool)
    density: float = _between(0.0, 0.0, 1.0)
    values: str = _anything("")
    bits: int = _between(1, 1, 8)
    error_feedback: bool = _anything(True)
    aggregate_feedback: float = _between(0.0, 0.0, 1.0)

    def make(self, sections: tuple[int, ...] = ()) -> Compressor:
        """Return the compressor for a model whose tensors have the sizes `sections`.

        Raises ValueError when the compressor refuses its settings.
        """
        from fedlite import compression

        return compression.make(
            self.compressor,
            density=self.density or None,
            values=self.values or None,
            bits=self.bits,
            unbiased=not self.error_feedback,
            sections=sections,
        )


@dataclass(frozen=True)
class Privacy:
    """The privacy unit and what may be spent on it.

    With unit `record`, each site's whole participation is (epsilon, delta)-differentially private
    for one record of that site. With unit `client` it is so for all that the site holds: `noise_at`
    says whether the site adds the noise itself, or the server that it must then trust.
    `expected_batch` is the public constant that the noised sum of clipped gradients is divided by;
    0 derives it from the public size of the data source. `max_batch` > 0 cuts a larger Poisson
    sample to that size, at sites of at most `max_records` records.
    `simulate_seed` >= 0 makes the noise repeatable, and then no privacy is claimed.
    """

    unit: str = _choice("none", "none", "record", "client")
    noise_at: str = _choice("site", "site", "server")
    epsilon: float = _in(3.0, ranges.EPSILON)
    delta: float = _in(1e-5, ranges.DELTA)
    clip: float = _in(0.1, ranges.CLIP)
    sampling_rate: float = _in(1.0, ranges.RATE)
    expected_batch: int = _at_least(0, 0)
    max_batch: int = _at_least(0, 0)
    max_records: int = _at_least(0, 0)
    simulate_seed: int = _at_least(-1, -1)


@dataclass(frozen=True)
class Simulation:
    """What only a simulation has to be told; nothing here changes the federation.

    `sites` is a folder where the simulated sites keep keys, ledgers and `site.toml` from run to run
    (empty: in the run directory). `ceiling` is the epsilon of the `site.toml` that is written for a
    new site (0: the plan's). `witness` is a file to which the server appends every ledger head that
    it has seen, and which it reads at the start of the next run (empty: the run directory only).
    """

    sites: str = _anything("")
    ceiling: float = _in(0.0, ranges.CEILING)
    witness: str = _anything("")


@dataclass(frozen=True)
class Inference:
    """What is done with the trained model. `home_head` fits heads at each site, never sent."""

    home_head: bool = _anything(False)


@dataclass(frozen=True)
class Report:
    """What is set beside the federation in the report. 0 repeats: nothing."""

    baseline_repeats: int = _at_least(0, 0)


@dataclass(frozen=True)
class Scenario:
    """A whole federation; every field but one is a TOML table.

    notes: what was chosen because the scenario named nothing, a line each.
    open_links: the links that it named no compressor for; see `recommend.for_size`.
    """

    federation: Federation = field(default_factory=Federation)
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    training: Training = field(default_factory=Training)
    uplink: Link = field(default_factory=Link)
    downlink: Link = field(default_factory=Link)
    privacy: Privacy = field(default_factory=Privacy)
    simulation: Simulation = field(default_factory=Simulation)
    inference: Inference = field(default_factory=Inference)
    report: Report = field(default_factory=Report)
    notes: tuple[str, ...] = field(default=(), compare=False)
    open_links: tuple[str, ...] = field(default=(), compare=False)

    @property
    def private(self) -> bool:
        """Whether the sites add noise (claimed or, with `simulate_seed`, only simulated)."""
        return self.privacy.unit != "none"

    @property
    def noised_at_server(self) -> bool:
        """Whether sites send clear updates to a server that adds the noise."""
        return self.privacy.unit == "client" and self.privacy.noise_at == "server"

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
        return {name: asdict(getattr(self, name)) for name in _SECTIONS}

    def to_run_config(self) -> dict[str, Value]:
        """Return Flower's flat run config with dotted keys."""
        nested = self.to_dict()
        return {f"{s}.{k}": v for s, table in nested.items() for k, v in table.items()}

    def to_toml(self) -> str:
        """Return the whole scenario, defaults included, as TOML."""
        import tomli_w

        return tomli_w.dumps(self.to_dict())


_SECTIONS: dict[str, type[Any]] = {
    "federation": Federation,
    "data": Data,
    "model": Model,
    "training": Training,
    "uplink": Link,
    "downlink": Link,
    "privacy": Privacy,
    "simulation": Simulation,
    "inference": Inference,
    "report": Report,
}


def from_dict(tables: Mapping[str, Any]) -> Scenario:
    """Check nested values and return the scenario.

    Raises ScenarioError with one line per wrong key: the key, the rule, the value and the mend.
    """
    errors: list[str] = []
    sections: dict[str, Any] = {}
    for name in tables:
        if name not in _SECTIONS:
            errors.append(f"[{name}]: no such section{did_you_mean(name, _SECTIONS)}")
    for name, kind in _SECTIONS.items():
        table = tables.get(name, {})
        if not isinstance(table, Mapping):
            errors.append(f"{name}: must be a table, got {table!r}; write [{name}] above its keys")
            continue
        sections[name] = section(name, kind, table, errors)
    if not errors:
        scenario = _with_links(_with_model(Scenario(**sections), tables), tables)
        errors = broken(scenario)
        if not errors:
            return scenario
    raise ScenarioError("\n".join(errors))


_UNBIASED = ("eden", "randk", "rotated-topk")
_LINK_KEYS = {"compressor", "density", "values"}


def _with_model(scenario: Scenario, tables: Mapping[str, Any]) -> Scenario:
    """Return the scenario with its model settled where its tables name none."""
    if "name" in tables.get("model", {}) or not is_table(scenario):
        return scenario
    note = "model: linear, as the scenario names none (the data is a table)"
    return replace(scenario, model=Model("linear"), notes=(note,))


def _with_links(scenario: Scenario, tables: Mapping[str, Any]) -> Scenario:
    """Return the scenario with the links that its tables leave open settled."""
    notes, opened = list(scenario.notes), []
    links = {"uplink": scenario.uplink, "downlink": scenario.downlink}
    for name, link in links.items():
        given = tables.get(name, {})
        if not _LINK_KEYS & set(given):
            opened.append(name)
            chosen, why = recommend(scenario, name)
            link = Link(**(chosen | given))
            density = f" {100 * link.density:g} %" if link.density else ""
            notes.append(f"{name}: {link.compressor}{density}, as the scenario names none ({why})")
        elif "error_feedback" not in given and name == "uplink":
            clipped = scenario.privacy.unit == "client" and scenario.privacy.noise_at == "server"
            link = replace(link, error_feedback=not clipped and link.compressor not in _UNBIASED)
        links[name] = link
    scenario = replace(scenario, uplink=links["uplink"], downlink=links["downlink"])
    return replace(scenario, notes=tuple(notes), open_links=tuple(opened))


def section(name: str, kind: type[Any], table: Mapping[str, Any], errors: list[str]) -> Any:
    """Return a `kind` from a TOML table; whatever is wrong is added to `errors`, a line each."""
    known = {f.name: f for f in fields(kind)}
    values: dict[str, Value] = {}
    for key, value in table.items():
        if key not in known:
            errors.append(f"{name}.{key}: no such key{did_you_mean(key, known)}")
            continue
        spec, default = known[key], _default(kind, key)
        expected = type(default)
        # TOML writes 1 for 1.0; a bool is an int to Python, but never to a person.
        if expected is float and type(value) is int:
            value = float(value)
        if type(value) is not expected:
            errors.append(
                f"{name}.{key}: must be {_type_name(expected)}, got {value!r}; "
                f"for example {key} = {_toml(default)}"
            )
        elif isinstance(value, float) and not math.isfinite(value):
            errors.append(f"{name}.{key}: must be finite, got {value!r}; use {_toml(default)}")
        elif not spec.metadata["check"](value):
            errors.append(
                f"{name}.{key}: must be {spec.metadata['rule']}, got {value!r}; "
                f"the default is {_toml(default)}"
            )
        else:
            values[key] = value
    return kind(**values)


def _default(kind: type[Any], key: str) -> Value:
    default: Value = getattr(kind(), key)
    return default


def from_run_config(flat: Mapping[str, Any]) -> Scenario:
    """Build a scenario from Flower's run config; keys of section `run` are not its business."""
    return from_dict(nest({k: v for k, v in flat.items() if not k.startswith("run.")}))


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn `{"a.b": 1}` into `{"a": {"b": 1}}`."""
    tables: dict[str, Any] = {}
    for dotted, value in flat.items():
        section, dot, key = dotted.partition(".")
        if dot:
            tables.setdefault(section, {})[key] = value
        else:
            tables[dotted] = value
    return tables


def load(path: Path, overrides: Iterable[str] = ()) -> Scenario:
    """Read a TOML file, apply `section.key=value` overrides, and check the result.

    Raises ScenarioError when the file is missing or no TOML, or when any key is wrong.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ScenarioError(f"{path}: no such scenario file; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ScenarioError(f"{path}: cannot be read as TOML ({error}); mend that line") from None
    for override in overrides:
        dotted, equals, text = override.partition("=")
        section, dot, key = dotted.strip().partition(".")
        if not equals or not dot:
            raise ScenarioError(
                f"--set {override}: must be section.key=value; for example federation.rounds=5"
            )
        table = tables.setdefault(section, {})
        if not isinstance(table, dict):
            raise ScenarioError(f"{section}: must be a table, got {table!r}; write [{section}]")
        table[key] = _override(section, key, text.strip())
    tables.setdefault("federation", {})
    if isinstance(tables["federation"], dict):
        tables["federation"].setdefault("name", path.stem)
    return from_dict(tables)


def _override(section: str, key: str, text: str) -> Any:
    """Return an override's value: a key that holds text takes it as it stands, numbers too."""
    value, kind = parse_value(text), _SECTIONS.get(section)
    textual = kind is not None and isinstance(getattr(kind(), key, None), str)
    return text if textual and not isinstance(value, str) else value


def parse_value(text: str) -> Any:
    """Read one TOML value; what is no TOML value is a string, so quotes may be left out.

    So is a number that is not decimal: nobody means 2 by it.

    >>> parse_value("3"), parse_value("0.5"), parse_value("true"), parse_value("digits")
    (3, 0.5, True, 'digits')
    >>> parse_value("0x2")
    '0x2'
    """
    if text[:2] in ("0x", "0o", "0b"):
        return text
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def with_values(scenario: Scenario, section: str, **values: Value) -> Scenario:
    """Return a copy with some keys of one section replaced, checked again."""
    table = replace(getattr(scenario, section), **values)
    changed = from_dict(replace(scenario, **{section: table}).to_dict())
    opened = tuple(name for name in scenario.open_links if name != section)
    notes = tuple(note for note in scenario.notes if note.split(":")[0] != section)
    return replace(changed, notes=notes, open_links=opened)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: the nearest one, or all there are."""
    close = difflib.get_close_matches(name, list(known), n=1)
    options = ", ".join(sorted(known))
    return f"; did you mean {close[0]}?" if close else f"; the known ones are {options}"


def _type_name(kind: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}[kind]


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
