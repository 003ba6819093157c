"""The model card of a bundle: what it answers, what its early answers cost, how it is used."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from fedlite.evaluation import Trained
from fedlite.inference.card import run_rows
from fedlite.inference.programs import EXECUTORCH, STEM_PROGRAM
from fedlite.inference.spent import row
from fedlite.reporting import wording

_USE = """```python
import fedlite

bundle = fedlite.load_bundle({folder})
answers = bundle.predict(x)  # {x}
print(answers.labels, answers.early, answers.shares)
```"""
_PROGRAMS = (
    "`stem.pte` and `tail.pte` are ExecuTorch programs of one record, method `forward`: the stem "
    "maps it to hidden values and the early answer, and the tail, where the score of that is below "
    "the threshold, hidden values to the deep one. KEY is that of whoever made the bundle, as he "
    "has told it; without it no program is opened."
)
_INPUTS = {
    "standardize": "raw values; each is centred and divided by a mean and a spread in bundle.json, "
    "those of the records that it was exported with",
    "ranges": "raw values; a column's lowest becomes -1 and its highest 1, and what lies beyond is "
    "cut",
    "none": "values as the model's own records were",
    "text": "texts, of which so many tokens are read, the first ones; tokens are those of "
    "tokenizer.json and no other",
}


def bundle_card(trained: Trained, told: Mapping[str, Any], files: Collection[str]) -> str:
    """Return the card as Markdown, with the fields that the Hub reads.

    told: what `bundle.json` says. files: the names of its graphs, or programs.
    """
    path = trained.directory / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    name = wording.plain(summary.get("scenario", trained.scenario.federation.name))
    shape = ", ".join(map(str, told["shape"]))
    threshold = told["threshold"]
    how = told["preprocessing"]
    texts = how["kind"] == "text"
    inputs = f"[n, {shape}], {_INPUTS[how['kind']]}"
    if texts:
        inputs = f"{_INPUTS['text']}: {how['length']} at most"
        if how["redact"]:
            inputs += f"; redacted first: {', '.join(how['redact'])}"
    rows = [
        ("labels", ", ".join(map(wording.plain, told["labels"]))),
        ("inputs", inputs),
        (
            "router",
            f"{told['router']}, early from {threshold} on" if threshold is not None else "none",
        ),
        *_base(told),
        *_integers(told),
        *_measured(told["calibrated"]),
        *([row(told["energy"])] if "energy" in told else []),
        *run_rows(summary),
    ]
    programs = STEM_PROGRAM in files
    graphs = "`stem.onnx` and `tail.onnx` are for batches"
    if "model.onnx" in files:
        graphs += ", `model.onnx` for single inputs: an `If` in it skips the tail"
    if programs:
        graphs = _PROGRAMS
    # Native code reads programs and believes them, so their signer is named.
    folder = '".", signed_by=KEY' if programs else '"."'
    x = "a list of texts" if texts else f"numbers, [n, {shape}]"
    return "\n".join(
        [
            *(
                "---",
                f"library_name: {EXECUTORCH if programs else 'onnx'}",
                "tags:",
                "- fedlite",
                "- early-exit",
                "---",
            ),
            *("", f"# {name}", "", "A model that answers easy inputs early and hard ones late,"),
            *("trained at several sites that keep their records.", "", "| | |", "|---|---|"),
            *(f"| {key} | {value} |" for key, value in rows),
            *("", "## What early answers cost", "", wording.plain(told["promise"])),
            *(
                "",
                "## Use",
                "",
                _USE.format(x=x, folder=folder),
                "",
            ),
            f"{graphs}. `bundle.json` says how inputs are prepared, `manifest.json` holds the",
            "SHA-256 of every file and an Ed25519 signature over them.",
            *("", *(wording.verdict(summary) if summary else ["No record of the run is here."])),
            "",
        ]
    )


def _base(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a bundle of a pretrained transformer says of it."""
    return [("base", wording.plain(told["base"]))] if "base" in told else []


def _integers(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "quantized" not in told:
        return []
    name = "stem and tail" if "stem" in told else "tail"
    of = told["quantized"]
    if of is None:
        return [(name, "8-bit integers, for which no record was looked at")]
    shares = f"{wording.share(of['deep'])} in integers, {wording.share(of['float32'])} in float32"
    where = f"{of['records']:,} records: {wording.plain(of['on'])}"
    return [(name, f"8-bit integers; the deep branch has {shares}, on {where}")]


def _measured(calibrated: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if calibrated is None:
        return []
    if "accuracy" not in calibrated and "counted" in calibrated:
        early = wording.share(calibrated["counted"]["share_shallow"])
        told = f"{calibrated['records']:,} records that the sites alone hold, told as counts"
        return [("calibrated with", told), ("of these left early", early)]
    if "accuracy" not in calibrated:
        told = f"{calibrated['records']:,} records of the place where it is used, of which the "
        return [("calibrated with", f"{told}threshold tells: it is for that place")]
    accuracy, work = calibrated["accuracy"], calibrated["macs"]
    told = ", ".join(f"{name} {wording.share(accuracy[name])}" for name in sorted(accuracy))
    least = wording.share(work["adaptive"] / work["deep"])
    return [
        (
            "accuracy",
            f"{told}, on {calibrated['tested']:,} records of {wording.plain(calibrated['on'])}",
        ),
        ("left early", wording.share(calibrated["share_shallow"])),
        ("harmed", f"{100 * calibrated['harm']:.2f} % of answers"),
        ("work", f"{least} of the multiply-adds of the deep branch; time falls by less"),
    ]
