"""A model card: what a model is, what it was trained on and by whom, and how to use it."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any

from fedlite.data.bases import Base
from fedlite.evaluation import Trained
from fedlite.models.pretrained import Classifier
from fedlite.reporting import wording

_USE = """```python
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

base = "{base}"  # the base's folder
network = {load}
tokens = AutoTokenizer.from_pretrained(base)(["a text"], return_tensors="pt", padding=True)
with torch.no_grad():
    states = network(**tokens, output_hidden_states=True).hidden_states
mask = tokens["attention_mask"].unsqueeze(2)
layers = {layers}  # those that the deep head reads
means = [(states[at] * mask).sum(1) / mask.sum(1) for at in layers]
features = torch.cat([functional.layer_norm(mean, mean.shape[1:]) for mean in means], 1)
heads = load_file("heads.safetensors")
answer = features @ heads["deep.weight"].T + heads["deep.bias"]
{reading}
```"""


def card(trained: Trained, model: Classifier, base: Base) -> str:
    """Return the card of a run's model as Markdown, with the fields that the Hub reads.

    What it says of the run is what the run's `summary.json` says. Of a model that a site was sent
    there is none, and the card says so.
    """
    path = trained.directory / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    adapted = model.frozen is None
    # A folder of somebody's machine may name a person: its last part says enough.
    called = PurePath(base.name).name
    head = ["---", f"base_model: {called}", "library_name: peft", "tags:", "- fedlite", "---"]
    what = (
        "Adapters and two linear heads," if adapted else "Two linear heads on frozen layers,"
    ) + " trained at several sites that keep their texts."
    name = wording.plain(summary.get("scenario", trained.scenario.federation.name))
    rows = [
        ("base", f"{base.what}, sha256 of its weights {base.digest}"),
        ("licence of the base", base.licence),
        ("labels", ", ".join(map(wording.plain, trained.labels))),
        ("longest text", f"{trained.model.shape[1]} tokens"),
        ("trained values", f"{summary.get('parameters', '?'):,}" if summary else "see the files"),
        *run_rows(summary),
    ]
    table = ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)]
    said = ["", *(wording.verdict(summary) if summary else ["No record of the run is here."])]
    use = _USE.format(
        base=called,
        load='PeftModel.from_pretrained(AutoModel.from_pretrained(base), ".").eval()'
        if adapted
        else "AutoModel.from_pretrained(base).eval()",
        layers=list(model.features.read[1]),
        reading=f"# above 0: {trained.labels[1]}, below: {trained.labels[0]}"
        if model.classes == 2
        else f"# the largest of {', '.join(trained.labels)}",
    )
    return "\n".join(
        [*head, "", f"# {name}", "", what, "", *table, *said, "", "## Use", "", use, ""]
    )


def run_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what a summary says of a run, in rows of a card's table; nothing without one."""
    if not summary:
        return []
    sent, privacy = summary["bytes"], summary["privacy"]
    found = [
        ("sites", ", ".join(map(wording.plain, summary["sites"]))),
        ("rounds", str(summary["rounds"])),
        (
            "sent",
            f"{wording.megabytes(sent['up'])} up, {wording.megabytes(sent['down'])} down, "
            f"all sites and rounds; {wording.times(sent['up_ratio'])} than dense float32 up",
        ),
    ]
    if privacy["unit"] == "none":
        return [*found, ("privacy", "none is claimed")]
    spent = (
        f"{wording.plain(site)}: {wording.epsilon(told['epsilon']['pld'])}"
        for site, told in privacy["sites"].items()
    )
    unit = f"{wording.unit(privacy)}, delta {privacy['delta']:g}"
    return [*found, ("epsilon by site", f"{', '.join(spent)} ({unit})")]
