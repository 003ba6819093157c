"""A run's model as a bundle: what a device needs to answer early or late, signed."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import fedlite
from fedlite.data import Dataset
from fedlite.data.bases import find
from fedlite.data.standardization import statistics
from fedlite.data.text.tokens import content_of, open_tokenizer
from fedlite.data.usage import ranges_of
from fedlite.evaluation import Trained, held_out
from fedlite.identity import keys
from fedlite.inference import graphs, manifest, programs, routing
from fedlite.inference.bundle import (
    CARD,
    DESCRIPTION,
    INTEGERS,
    LOOSEST,
    STEM,
    STEM_OF_INTEGERS,
    TAIL,
    TOLERANCE,
    TRIALS,
    WHOLE,
    load,
)
from fedlite.inference.bundle_card import bundle_card
from fedlite.inference.inputs import read_inputs
from fedlite.inference.programs import EXECUTORCH
from fedlite.inference.quantized import (
    Quantized,
    calibrating,
    choosing,
    deviation,
    quantize,
    quantize_texts,
    readable,
)
from fedlite.inference.rule import Own, Rule, records_of, rule_by, rule_of
from fedlite.inference.small.encoder_search import smallest as smallest_encoder
from fedlite.inference.small.search import APART, smallest
from fedlite.inference.spent import spent
from fedlite.inference.tokenized import TOKENIZER, Tokenized, preprocessing
from fedlite.inference.work import BRANCHES
from fedlite.models import Branched
from fedlite.models.pretrained import Classifier

TARGETS = ("onnx", INTEGERS, EXECUTORCH)
# Where a run keeps what is secret.
KEY = Path("checkpoint") / "release.pem"
# Candidates among which stored inputs are looked for, at each brightness, and how many are stored.
_CANDIDATES, _SCALES, _STORED = 128, (0.3, 1.0, 3.0), 16
# How far from the threshold a score is that other processors' rounding cannot carry over it.
_CLEAR = 1e-3
_OTHERWISE = (
    "It was tested with inputs that each site had scaled by its own records; here they are scaled "
    "by others, and it is only as good as these are alike."
)
# What of model.json says how records are read and answered.
_READING = (
    *("labels", "shape", "source", "target", "columns", "features", "range", "missing"),
    *("scaling", "how", "costs", "name", "options", "task"),
)


def write_bundle(
    trained: Trained,
    folder: Path,
    *,
    site: str = "",
    scale_by: Path | None = None,
    key: Path | None = None,
    own: Own | None = None,
    target: str = TARGETS[0],
    max_loss: float | None = None,
    energy: Mapping[str, float] | None = None,
) -> tuple[Path, ...]:
    """Write a run's model to `folder` as a bundle, try it out there, and return its files.

    site: whose threshold it gets, where sites have their own. scale_by: records of the place where
    it is used, by whose mean and spread inputs are scaled, where sites scaled by their own. key:
    the file of the Ed25519 key that signs it, made where there is none (default: the run's own).
    own: records of the place by which its threshold is chosen, in the place of the run's. target:
    one of `TARGETS`; with `onnx-int8` the tail is of 8-bit integers, whose ranges come from a part
    of the records that calibrate, and the threshold from the rest, against that tail; of a model of
    texts the stem, too, and no record is looked at for it; with `executorch` it is of programs
    (`fedlite.inference.programs`). max_loss: with `onnx-int8`, how much of its accuracy the deep
    branch may lose for a smaller tail, from 0; held against a part of these records, and measured
    on others. energy: `watts` and `grid`, to say what answers take here
    (`fedlite.inference.spent`), of graphs; None: it is not looked at.

    Raises ValueError where the model does not answer twice or is no network that the target can
    say, a package is missing, an argument is missing or does nothing, `folder` holds something
    already, or ranges are wanted of records that may not be read here.
    """
    if target not in TARGETS:
        raise ValueError(f"--target: must be one of {', '.join(TARGETS)}, got {target!r}")
    if max_loss is not None and target != INTEGERS:
        raise ValueError(
            f"--max-loss: must be left out without --target {INTEGERS}, got {max_loss}; leave it "
            "out"
        )
    if energy is not None and target == EXECUTORCH:
        raise ValueError(
            f"--energy: must be left out with --target {EXECUTORCH} (rule: what programs take here "
            "is not what they take on a device); leave it out"
        )
    if target == EXECUTORCH:
        programs.needs()
    model = trained.model
    if not isinstance(model, Branched) or not trained.scenario.classifies:
        raise ValueError(
            f"{trained.directory}: must be a run that tells classes apart with a model of two "
            f"branches, got {trained.scenario.model.name!r} for {trained.scenario.task.name}; its "
            "model.safetensors holds all that was trained"
        )
    if isinstance(model, Classifier) != (trained.texts is not None):
        raise ValueError(
            f"{trained.directory}: must be a run of the model lora on texts, or of neither, to "
            f"become a bundle, got {trained.scenario.model.name!r} on "
            f"{'texts' if trained.texts else 'other records'}; its model.safetensors holds all "
            "that was trained"
        )
    if own is not None and site:
        raise ValueError(
            f"--site: must be left out with --calibrate-with, got {site!r}; leave it out"
        )
    told = json.loads((trained.directory / "model.json").read_text("utf-8"))
    description = {name: told[name] for name in _READING if name in told}
    # `target` there is a column.
    description |= {"graphs": target}
    description["preprocessing"] = _preprocessing(trained, description, scale_by)
    how = description["preprocessing"]
    tokenizer = content_of(trained.texts.tokenizer) if trained.texts else b""
    if isinstance(model, Classifier):
        base = find(str(description["options"].get("base", "minilm")))
        description["base"] = f"{base.what}, {base.licence}, sha256 of its weights {base.digest}"
        # A folder of somebody's machine may name a person: its last part says enough.
        description["options"] |= {"base": Path(base.name).name}
    reader = Tokenized(how, tuple(model.shape), tokenizer) if trained.texts else None
    whole, small = trained, None
    if target == INTEGERS:
        records = _records(trained, own, scale_by, read=reader is None or max_loss is not None)
        trained = small = _in_integers(trained, model, records, max_loss, description)
        inputs = _candidates(small, reader)[1]
        description["tolerance"] = _tolerance(small, inputs)
        beside = _beside(whole, small, records if own else None)
        description["quantized"] = beside
    rule = rule_of(trained, site) if own is None else rule_by(trained, own, scale_by)
    if own is None and scale_by is not None and rule.threshold is not None:
        rule = replace(rule, promise=f"{rule.promise} {_OTHERWISE}")
    if target == INTEGERS:
        rule = replace(rule, promise=f"{rule.promise} {_against(beside, max_loss)}")
    description |= {
        "scenario": trained.scenario.federation.name,
        "labels": list(trained.labels),
        "router": rule.router,
        "threshold": rule.threshold,
        "promise": rule.promise,
        "calibrated": rule.calibrated,
        "versions": {"fedlite": fedlite.__version__, "torch": torch.__version__},
    }
    if target == EXECUTORCH:
        stem, tail = programs.lowered(model, trained.scenario.model.name)
        description["versions"] |= {EXECUTORCH: version(EXECUTORCH)}
        said = {programs.STEM_PROGRAM: stem, programs.TAIL_PROGRAM: tail}
    else:
        stem, tail = (small.stem, small.tail) if small else graphs.traced(model)
        one = graphs.joined(stem, tail, rule.router, rule.threshold)
        said = {STEM: stem, TAIL: tail} | ({} if one is None else {WHOLE: one})
    if energy is not None:
        inputs = _candidates(trained, reader)[1]
        description["energy"] = spent(stem, tail, inputs, _leaving(rule), **energy)
    files = {
        DESCRIPTION: json.dumps(description, indent=2, sort_keys=True).encode() + b"\n",
        **said,
        TRIALS: _trials(trained, rule, reader),
        **({TOKENIZER: tokenizer} if tokenizer else {}),
        CARD: bundle_card(trained, description, tuple(said)).encode(),
    }
    signer = keys.load_or_generate(key or trained.directory / KEY)
    written = manifest.write(folder, files, signer)
    try:
        load(folder, signed_by=keys.public_hex(signer))
    except ValueError:
        # What its maker's own machine refuses must not stand there signed.
        (folder / manifest.MANIFEST).unlink()
        raise
    return written


def _leaving(rule: Rule) -> float | None:
    """Return the share that leaves early by a rule; None where nobody here knows."""
    if rule.threshold is None:
        return 0.0
    told = rule.calibrated or {}
    found = told.get("share_shallow", told.get("counted", {}).get("share_shallow"))
    return None if found is None else float(found)


def _preprocessing(
    trained: Trained, told: Mapping[str, Any], scale_by: Path | None
) -> dict[str, Any]:
    """Return what is done to raw inputs before the model reads them, ready for JSON."""
    if trained.scaling == "site" and scale_by is None:
        raise ValueError(
            "--scale-by: must be given for a model whose sites scaled by their own records (rule: "
            "their mean and spread are in no model), got nothing; name a file with records of the "
            "place where the bundle is used"
        )
    if trained.scaling != "site" and scale_by is not None:
        raise ValueError(
            "--scale-by: must be left out for a model whose sites did not scale by their own "
            f"records, got {scale_by}; leave it out"
        )
    shape = tuple(trained.model.shape)
    if trained.texts is not None:
        if trained.texts.redactor:
            raise ValueError(
                "data.redactor: must be left out of what becomes a bundle (rule: a bundle runs no "
                "code, and texts must be redacted as in training), and the run has one; redact by "
                "data.redact alone"
            )
        return preprocessing(
            open_tokenizer(trained.texts.tokenizer),
            content_of(trained.texts.tokenizer),
            column=trained.texts.column,
            length=trained.texts.length,
            redacted=trained.texts.redact,
        )
    if scale_by is not None:
        x = np.asarray(read_inputs(told, scale_by)).astype(np.float64)
        mean, spread = statistics(Dataset(x, np.zeros(len(x), np.int64), raw=True))
        # JSON has no NaN.
        means = np.where(np.isnan(mean), np.array(None), mean).tolist()
        return {"kind": "standardize", "fills": True, "mean": means, "spread": spread.tolist()}
    if trained.scaling == "ranges":
        if trained.reading is None or not trained.reading.ranges:
            raise ValueError(
                f"{trained.directory}/model.json: must say the range of the numbers that the model "
                "reads, and is of an earlier release; run the scenario again"
            )
        low, high = ranges_of(trained.reading, shape)
        return {"kind": "ranges", "fills": True, "low": low.tolist(), "high": high.tolist()}
    return {"kind": "none", "fills": trained.scaling != "source"}


def _records(
    trained: Trained, own: Own | None, scale_by: Path | None, *, read: bool
) -> Dataset | None:
    """Return the records that integers are made or judged with; read: whether it takes any."""
    if own is not None:
        return records_of(trained, own, scale_by)
    return calibrating(trained) if read else None


def _in_integers(
    trained: Trained,
    model: Branched,
    records: Dataset | None,
    max_loss: float | None,
    description: dict[str, Any],
) -> Quantized:
    """Return the model in integers, made smaller where that is asked, and say so."""
    if trained.texts:
        description["stem"] = STEM_OF_INTEGERS
    if records is None or (trained.texts and max_loss is None):
        return quantize_texts(trained)
    if max_loss is None:
        return quantize(trained, records)
    if trained.texts:
        small = smallest_encoder(model.deployed(), records, max_loss)
        description |= {"costs": small.model.costs(), "smaller": small.told()}
        return quantize_texts(replace(trained, model=small.model), APART, *small.bits)
    found = smallest(model, records, max_loss)
    description |= {"costs": found.model.costs(), "smaller": found.told()}
    return quantize(replace(trained, model=found.model), records, apart=APART)


def _tolerance(small: Quantized, inputs: NDArray[Any]) -> float:
    """Return how far other processors' answers may be, from two ways to compute them here.

    Raises ValueError where these are so far apart that trials would find nothing out.
    """
    apart = deviation(small, inputs)
    if 4 * apart > LOOSEST:
        raise ValueError(
            f"--target {INTEGERS}: answers must be much the same by two ways to compute them, and "
            f"are up to {apart:.2g} apart (rule: at most {LOOSEST / 4:g}); export it without"
        )
    return max(TOLERANCE, 4 * apart)


def _beside(whole: Trained, small: Quantized, records: Dataset | None) -> dict[str, Any] | None:
    """Return what the deep branch of integers has right, beside that of float32.

    records: those of the place; None: the records that the run holds out. None where nobody here
    may read these.
    """
    if records is None and not readable(whole):
        return None
    if records is None:
        held = held_out(whole)
        data, on = held.data, held.where
    else:
        data, on = choosing(small, records), "the records that it was calibrated with"
    rights = [
        float((of.answers(data)[BRANCHES[1]].argmax(1) == data.y).mean()) for of in (small, whole)
    ]
    return {"deep": rights[0], "float32": rights[1], "records": len(data), "on": on}


def _against(told: Mapping[str, Any] | None, max_loss: float | None) -> str:
    if told is None:
        return (
            "That deep branch is of 8-bit integers, for which no record was looked at: what they "
            "lose against float32 is not known."
        )
    points = 100 * (told["float32"] - told["deep"])
    less = "less" if points >= 0 else "more"
    small = "" if max_loss is None else "a smaller one "
    return (
        f"That deep branch is {small}of 8-bit integers, and had {abs(points):.2f} points {less} "
        f"than that of float32 on {told['records']:,} records: {told['on']}; no promise covers "
        "these."
    )


def _candidates(trained: Trained, reader: Tokenized | None) -> tuple[list[str], NDArray[Any]]:
    """Return inputs that nobody holds, [n, *shape], and the texts that they are, if any."""
    if reader is not None:
        texts = reader.made_up(_CANDIDATES)
        return texts, reader.prepared(texts)
    made: NDArray[np.float32] = trained.model.made_up(_CANDIDATES).numpy()
    return [], np.concatenate([np.float32(scale) * made for scale in _SCALES])


def _trials(trained: Trained, rule: Rule, reader: Tokenized | None) -> bytes:
    """Return inputs that nobody holds with their answers and ways, some early and some late."""
    texts, inputs = _candidates(trained, reader)
    found = trained.answers(Dataset(inputs, np.zeros(len(inputs), np.int64)))
    shallow, deep = (found[branch].astype(np.float32) for branch in BRANCHES)
    scores = routing.scores(rule.router, inputs, routing.softmax(shallow.astype(np.float64)))
    order = np.argsort(scores, kind="stable")
    at = np.r_[order[: _STORED // 4], order[-_STORED // 4 :]]
    limit = np.inf if rule.threshold is None else rule.threshold
    if rule.threshold is not None:
        # What another router, or another threshold, would let go the other way.
        gaps = np.abs(scores - limit)
        order = np.argsort(np.where(gaps > _CLEAR, gaps, np.inf), kind="stable")
    at = np.unique(np.r_[at, order[: _STORED // 2]])
    early = scores[at] >= limit
    content = io.BytesIO()
    kept: dict[str, Any] = {"x": inputs[at], "shallow": shallow[at], "deep": deep[at]}
    if texts:
        kept["texts"] = np.array([texts[one] for one in at])
    np.savez(content, early=early, **kept)
    return content.getvalue()
