"""A released model whose deep branch computes with 8-bit integers: smaller, and less time.

Static quantisation: each layer's inputs and weights are whole numbers from 0 or -128 on, times a
scale. The scales of weights are those of each channel; those of inputs follow from the ranges that
records show, so **records are read**, and a range tells of them. Under privacy, and where records
are at the sites, no coordinator may do so: then a place uses records of its own.

Stem and exit stay as they are: to turn their few channels into integers and back costs more than
it saves (docs/benchmarks.md). So early answers are the same to the bit. What leaves early is
settled anew, against the deep branch of integers, with other records than the ranges come from.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite import plan as plans
from fedlite.data import Dataset
from fedlite.data.keyed import keyed_part
from fedlite.evaluation import Trained
from fedlite.inference import graphs
from fedlite.inference.bundle import INTEGERS, session
from fedlite.inference.integers import in_floats, in_integers
from fedlite.inference.portions import are_texts, portions
from fedlite.models import Branched

# The share of calibration records that ranges come from, how many at least, and at most.
_SHARE, _FEWEST, _MOST = 0.2, 32, 1000
_BATCH = 100
# What is computed in integers: products, and what hands their values on. Norms stay float32.
_LAYERS = (
    *("Conv", "Gemm", "MatMul"),
    *("Relu", "MaxPool", "AveragePool", "Flatten", "Reshape", "Transpose"),
)


@dataclass(frozen=True)
class Quantized(Trained):
    """A trained model that answers through graphs of which the tail is in integers.

    The stem is in float32, but for a model of texts, of which it is in integers, too.

    stem, tail: serialised ONNX models, as `fedlite.inference.graphs.traced` returns them. apart:
    the share of calibration records that it was made with, which choose no threshold.
    """

    stem: bytes = b""
    tail: bytes = b""
    apart: float = _SHARE

    def answers(self, data: Dataset) -> dict[str, NDArray[np.float64]]:
        """Return each branch's answers, float64 [n, width], of records scaled as in training."""
        stem, tail = session(self.stem), session(self.tail)
        shape = len(data), self.model.classes
        found = {branch: np.zeros(shape) for branch in self.branches}
        for rows, inputs in portions(np.asarray(data.x)):
            hidden, early = stem.run(None, {"x": inputs})
            (deep,) = tail.run(None, {"hidden": hidden})
            for kept, answers in zip(found.values(), (early, deep), strict=True):
                kept[rows] = answers
        return found


def choosing(trained: Trained, data: Dataset) -> Dataset:
    """Return which of these calibration records may choose a threshold.

    All of them, but those that a quantised model was made with: it must be settled before they are
    looked at. Copies of a record stay together.
    """
    return (
        data.take(np.flatnonzero(~part(data, trained.apart)))
        if isinstance(trained, Quantized)
        else data
    )


def calibrating(trained: Trained) -> Dataset:
    """Return the calibration records of a run's sites, which a simulation has at hand.

    Raises ValueError where a coordinator may not read them, or there are none.
    """
    scenario = trained.scenario
    if scenario.privacy.unit != "none" or scenario.data.at_sites:
        why = (
            f"privacy.unit is {scenario.privacy.unit!r}, and ranges of private records are a "
            "release that nothing charges"
            if scenario.privacy.unit != "none"
            else "its records are at the sites"
        )
        raise ValueError(
            f"--target {INTEGERS}: must have --calibrate-with for this run (rule: {why}), got "
            "nothing; name a file with records of the place where the bundle is used"
        )
    # A model that a site was sent has no scenario: what stands in its place names no records.
    if not scenario.inference.calibration or not (trained.directory / "scenario.toml").is_file():
        raise ValueError(
            f"--target {INTEGERS}: must have --calibrate-with for a run without "
            "inference.calibration (rule: ranges come from records that neither trained the model "
            "nor judge it), got nothing; name a file with such records"
        )
    _, _, sites = plans.simulated(scenario)
    parts = [site.calibration for site in sites if site.calibration is not None]
    return Dataset(
        np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts])
    )


def readable(trained: Trained) -> bool:
    """Return whether a coordinator may read the records that a run holds out."""
    scenario = trained.scenario
    here = (trained.directory / "scenario.toml").is_file()
    return scenario.privacy.unit == "none" and not scenario.data.at_sites and here


def quantize(trained: Trained, records: Dataset, apart: float = _SHARE) -> Quantized:
    """Return the model with a tail of integers, its ranges from a part of these records.

    records: scaled as in training; their answers are not looked at. apart: the share of them that
    it is made with, from which ranges come, too.

    Raises ValueError where the model is no network of two branches that ONNX can say, has nothing
    that integers could compute, or the records are too few, or not finite.
    """
    model = trained.model
    if not isinstance(model, Branched):
        raise ValueError(f"{trained.directory}: must be a model of two branches")
    if not model.made_up(1).dtype.is_floating_point:
        raise ValueError(f"{trained.directory}: must be a model of numbers for --target {INTEGERS}")
    x: NDArray[Any] = records.x[part(records, _SHARE)]
    if len(x) < _FEWEST:
        raise ValueError(
            f"--target {INTEGERS}: must have {_FEWEST} records at least for the ranges, a fifth of "
            f"those that calibrate, got {len(x)} of {len(records)}; name more"
        )
    if not np.isfinite(x).all():
        raise ValueError(f"--target {INTEGERS}: records must be finite; correct them")
    # Of all sites: they stand one after the other.
    x = x[np.linspace(0, len(x) - 1, min(len(x), _MOST)).astype(np.int64)]
    stem, tail = graphs.traced(model)
    small = _static(tail, session(stem).run(None, {"x": x})[0])
    if b"QuantizeLinear" not in small:
        raise ValueError(
            f"--target {INTEGERS}: must be of a model with convolutions or matrix products in its "
            f"tail, got {trained.scenario.model.name!r}; export it without"
        )
    kept = {one.name: getattr(trained, one.name) for one in fields(Trained)}
    return Quantized(**kept, stem=stem, tail=small, apart=apart)


def quantize_texts(
    trained: Trained, apart: float = 0.0, table: int = 8, matrices: int = 8
) -> Quantized:
    """Return a model of texts in integers, its stem, too: the embedding is half of it.

    apart: the share of calibration records that it was made with. table, matrices: bits of a value
    of the table of words and of all matrices, 8 or 4. No record is looked at here.

    Raises ValueError where the model is no network of two branches that ONNX can say.
    """
    if not isinstance(trained.model, Branched):
        raise ValueError(f"{trained.directory}: must be a model of two branches")
    kept = {one.name: getattr(trained, one.name) for one in fields(Trained)}
    stem, tail = (in_integers(part, table, matrices) for part in graphs.traced(trained.model))
    return Quantized(**kept, stem=stem, tail=tail, apart=apart)


def deviation(one: Quantized, x: NDArray[Any]) -> float:
    """Return how far two ways to compute the same integers are apart, at most.

    Relative to 1 and the answer's own size. Another processor joins and rounds otherwise, and where
    a value is near a half, it takes the next whole number: here kernels for integers are held
    against the same graph node by node in float32.
    """
    stem, tail = session(one.stem), session(one.tail)
    plain_stem, plain_tail = (
        session(in_floats(graph), plain=True) for graph in (one.stem, one.tail)
    )
    most = 0.0
    for _, given in portions(x):
        hidden, early = stem.run(None, {"x": given})
        answers = [early, tail.run(None, {"hidden": hidden})[0]]
        if are_texts(x):
            hidden, early = plain_stem.run(None, {"x": given})
        others = [early, plain_tail.run(None, {"hidden": hidden})[0]]
        for here, there in zip(answers, others, strict=True):
            most = max(most, float((np.abs(here - there) / (1 + np.abs(there))).max()))
    return most


def part(data: Dataset, share: float) -> NDArray[np.bool_]:
    """Return which records, bool [n], are among the first `share` of them, by a hash of each."""
    return keyed_part(data, share, 0, "ranges")


class _Batches:
    """Inputs as onnxruntime's quantisation reads them: a batch at a time, then None."""

    def __init__(self, hidden: NDArray[Any]) -> None:
        self._left: Iterator[dict[str, NDArray[Any]]] = iter(
            [{"hidden": hidden[at : at + _BATCH]} for at in range(0, len(hidden), _BATCH)]
        )

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._left, None)


def _static(graph: bytes, hidden: NDArray[Any]) -> bytes:
    """Return a tail with its layers in integers: unsigned inputs, signed weights by channel."""
    graphs.needs("onnxruntime")
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # It takes files, and says at length what it does.
    logger, disabled = logging.getLogger(), logging.root.manager.disable
    with tempfile.TemporaryDirectory(prefix="fedlite-int8-") as folder:
        whole, ready, small = (Path(folder) / f"{at}.onnx" for at in ("whole", "ready", "small"))
        whole.write_bytes(graph)
        logger.manager.disable = logging.WARNING
        try:
            quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)
            quantize_static(
                str(ready),
                str(small),
                _Batches(hidden),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_LAYERS),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                # The answers stay numbers: a score from 256 of them would be too coarse.
                extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
            )
        finally:
            logger.manager.disable = disabled
        return graphs.bare(small.read_bytes())
