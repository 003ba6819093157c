"""Which inputs of a bundle leave early: as its run has calibrated, or by records of the place."""

from __future__ import annotations

import filecmp
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlite.data import Dataset
from fedlite.evaluation import Trained, read
from fedlite.inference import calibration, routing
from fedlite.inference.measured import inference_of
from fedlite.inference.quantized import Quantized, choosing
from fedlite.inference.work import Costs, answered, copies
from fedlite.reporting import routes

_PLACE = "holds for inputs like the records that it was calibrated with"
_OF_SITE = ("loss", "harm", "share_shallow", "accuracy", "tested")
_LABEL = "label"
_NONE = "No threshold was calibrated, so all inputs go deep and no accuracy is lost."


@dataclass(frozen=True)
class Rule:
    """Which inputs leave early.

    router: one of the house. threshold: None: none leaves early. promise: what that costs, for a
    person. calibrated: what the summary says of its calibration; None where there was none.
    """

    router: str
    threshold: float | None
    promise: str
    calibrated: dict[str, Any] | None


@dataclass(frozen=True)
class Own:
    """Records of the place where a bundle is used, and what is asked for.

    file: with what the model should answer; the model has not seen them. router: one of the house.
    alpha, confidence: as in a scenario's `[inference]`.
    """

    file: Path
    router: str = "confidence"
    alpha: float = 0.01
    confidence: float = 0.95


def rule_of(trained: Trained, site: str = "") -> Rule:
    """Return which inputs of a run's model leave early; see `write_bundle` for `site`.

    Of a quantised model it is calibrated and measured anew, by the run's own records.

    Raises ValueError where a site must be named and is not, or is and need not be, and where the
    router is one of one's own.
    """
    path = trained.directory / "summary.json"
    summary = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    told: dict[str, Any] | None = summary.get("inference")
    if told is not None and isinstance(trained, Quantized):
        told = inference_of(trained.scenario, trained)
    own = told is not None and told["kind"] != "pooled"
    sites = told["by_site"] if told is not None and own else {}
    if (site or own) and site not in sites:
        known = ", ".join(sorted(sites))
        rule, mend = f"be one of {known}, whose thresholds differ", "name one of them"
        if not own:
            rule = "be left out where all sites have one threshold"
            mend = "leave it out, or train with inference.threshold = 'site'"
        raise ValueError(f"--site: must {rule}, got {site!r}; {mend}")
    if told is None:
        return Rule("confidence", None, _NONE, None)
    if told["router"] not in routing.HOUSE:
        raise ValueError(
            f"inference.router: must be one of {', '.join(routing.HOUSE)} in a bundle (rule: a "
            f"bundle runs no code), got {told['router']!r}; calibrate with one of these"
        )
    choice = sites[site] if own else told
    names = ("alpha", "confidence", "labels", "kind", "loss", "harm", "share_shallow", "accuracy")
    kept = {name: told[name] for name in (*names, "macs", "tested", "on") if name in told}
    kept["risk"] = told.get("risk", "harm")
    more = ("records", "harmed", "gained", "missing", "counted", "harm_at_most", "records_at_least")
    kept |= {name: choice[name] for name in more if name in choice}
    if own and "tested" in choice:
        # What all sites come to, each under its own threshold, says little of this one.
        kept |= {name: choice[name] for name in _OF_SITE} | {"on": f"{site}, which it held out"}
        costs, share = Costs.of(trained.model.costs()), choice["share_shallow"]
        work = costs.deep if choice["threshold"] is None else costs.adaptive(share)
        kept["macs"] = told["macs"] | {"adaptive": work}
    elif own and "tested" in told:
        kept["on"] = "other sites, each under a threshold of its own"
    promise = routes.promise(told, choice)
    return Rule(told["router"], choice["threshold"], promise, kept | {"site": site})


def rule_by(trained: Trained, own: Own, scale_by: Path | None) -> Rule:
    """Return which inputs leave early by records of the place; nothing of them is sent.

    scale_by: see `fedlite.inference.release.write_bundle`. Raises as `records_of`.
    """
    data = records_of(trained, own, scale_by)
    chosen_by = choosing(trained, data)
    of = answered(trained, chosen_by)
    scores = of.scores(own.router, {})
    counts = calibration.count(scores, of.shallow, of.deep, len(trained.labels), of.truth)
    choice = calibration.choose(counts, own.alpha, own.confidence)
    told: dict[str, Any] = {"alpha": own.alpha, "confidence": own.confidence, "risk": "harm"}
    told |= {
        "labels": True,
        "kind": "site",
        "promise": _PLACE,
        "site": "",
        "copies": copies([chosen_by]),
    }
    told |= {"threshold": choice.threshold, "missing": choice.missing}
    promise = routes.promise(told, told)
    del told["promise"], told["threshold"]
    told |= {"records": choice.records, "harmed": choice.harm}
    return Rule(own.router, choice.threshold, promise, told)


def records_of(trained: Trained, own: Own, scale_by: Path | None) -> Dataset:
    """Return the records of the place, scaled as in training.

    Of texts whose run names no column for the label it is called `label`.

    Raises ValueError where the records cannot be read, are those of the run itself, or of several
    places that are scaled apart, and for a router, alpha or confidence that cannot be.
    """
    for name in ("alpha", "confidence"):
        if not 0 < (value := getattr(own, name)) < 1:
            raise ValueError(f"--{name}: must be above 0 and below 1, got {value}; 0.01 is 1 point")
    if own.router not in routing.HOUSE:
        raise ValueError(
            f"--router: must be one of {', '.join(routing.HOUSE)} (rule: a bundle runs no code), "
            f"got {own.router!r}; take one of these"
        )
    if _trained_on(trained, own.file):
        raise ValueError(
            f"--calibrate-with: must be records that the model has not seen, got {own.file}, which "
            "it was trained on (rule: it is surer there than elsewhere); name others"
        )
    # The catalog's texts say of no column that it has the label.
    target = _LABEL if trained.texts is not None and not trained.target else ""
    records = read(trained, own.file, target=target, scale_by=scale_by)
    if trained.scaling == "site" and len(records.site_names) > 1:
        raise ValueError(
            f"--calibrate-with: must be of one place, got {own.file} with "
            f"{', '.join(records.site_names)} (rule: the bundle scales by one mean and spread); "
            "name a file for each, and export a bundle for each"
        )
    if scale_by is not None:
        # Else each of its places scales the records of that name, and the bundle by all of them.
        places = read(trained, scale_by, answered=False, scale_by=scale_by).site_names
        if len(places) > 1:
            raise ValueError(
                f"--scale-by: must be of one place with --calibrate-with, got {scale_by} with "
                f"{', '.join(places)} (rule: the threshold is chosen with inputs scaled as the "
                "bundle scales them); name a file with the records of one"
            )
    return records.data


def _trained_on(trained: Trained, file: Path) -> bool:
    """Return whether a file is the run's own, or a copy of it under another name."""
    used = Path(trained.scenario.data.path).expanduser()
    if not trained.scenario.data.path or not used.exists() or not file.exists():
        return False
    if used.is_file() and file.is_file():
        return filecmp.cmp(used, file, shallow=False)
    return used.samefile(file)
