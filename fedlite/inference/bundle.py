"""A bundle in use: answers easy inputs early and hard ones late, without PyTorch.

It needs onnxruntime and numpy, and of texts tokenizers. Nothing in a bundle is code: the router is
one of the house. One of ExecuTorch's programs needs that, which brings PyTorch.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlite.inference import manifest, routing
from fedlite.inference.portions import portions
from fedlite.inference.preparing import Numbers
from fedlite.inference.programs import EXECUTORCH, PARTS, STEM_PROGRAM, TAIL_PROGRAM, Program
from fedlite.inference.tokenized import KIND, TOKENIZER, Tokenized

Inputs = NDArray[np.float32] | NDArray[np.int64]

DESCRIPTION, STEM, TAIL, WHOLE = "bundle.json", "stem.onnx", "tail.onnx", "model.onnx"
TRIALS, CARD = "trials.npz", "README.md"
_NEEDED = frozenset(
    ("labels", "shape", "router", "threshold", "promise", "preprocessing", "scaling")
)
# How far answers may be from those that were stored: kernels of other processors round otherwise.
TOLERANCE = 1e-3
# What `--target` calls a deep branch of 8-bit integers.
INTEGERS = "onnx-int8"
# What `bundle.json` says under `stem` where that computes with integers, too.
STEM_OF_INTEGERS = "integers"
# Integers: another processor may take the next whole number. A bundle says how much comes of that.
LOOSEST = 0.25
# So near to the threshold a score may fall on either side.
_NEAR = 1e-5


@dataclass(frozen=True)
class Answers:
    """Answers to n inputs.

    names: the classes. shares: float64 [n, classes], of the branch that answered, each row adding
    up to 1. early: bool [n], whether that was the shallow one. scores: float64 [n], the router's.
    """

    names: tuple[str, ...]
    shares: NDArray[np.float64]
    early: NDArray[np.bool_]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        """Return how many inputs were answered."""
        return len(self.shares)

    @property
    def classes(self) -> NDArray[np.int64]:
        """The number of each input's likeliest class, int64 [n]."""
        found: NDArray[np.int64] = self.shares.argmax(axis=1).astype(np.int64)
        return found

    @property
    def labels(self) -> tuple[str, ...]:
        """The likeliest class of each input, by name."""
        return tuple(self.names[at] for at in self.classes)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row an input, in their order, numbered from 1."""
        found = []
        for at, label in enumerate(self.labels):
            row: dict[str, Any] = {"record": at + 1, "label": label}
            row["branch"] = "shallow" if self.early[at] else "deep"
            shares = zip(self.names, self.shares[at].tolist(), strict=True)
            # Further figures of a probability say nothing.
            found.append(row | {f"p({name})": float(f"{share:.6g}") for name, share in shares})
        return found


class Bundle:
    """A loaded bundle.

    told: what `bundle.json` says. signed_by: the public key in hex that signed it. sha256: of the
    manifest that was loaded, in hex; another may lie in its folder by now.
    """

    def __init__(self, directory: Path, files: Mapping[str, bytes]) -> None:
        """Make the graphs ready; see `load`."""
        self.directory = directory
        self.signed_by = files["key"].decode()
        self.sha256 = hashlib.sha256(files[manifest.MANIFEST]).hexdigest()
        self.told: dict[str, Any] = json.loads(files[DESCRIPTION])
        if lacks := _NEEDED - set(self.told):
            raise ValueError(f"{directory / DESCRIPTION}: has no {min(lacks)!r}; export it again")
        self.labels = tuple(map(str, self.told["labels"]))
        self.shape = tuple(map(int, self.told["shape"]))
        self.router = str(self.told["router"])
        if self.router not in routing.HOUSE:
            raise ValueError(
                f"{directory / DESCRIPTION}: router must be one of {', '.join(routing.HOUSE)} "
                f"(rule: nothing in a bundle is run as code), got {self.router!r:.80}"
            )
        threshold = self.told["threshold"]
        self.threshold = None if threshold is None else float(threshold)
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(
                f"{directory / DESCRIPTION}: threshold must be null or from 0 to 1, as scores are, "
                f"got {threshold!r:.80}; export the run again"
            )
        self.tolerance = float(self.told.get("tolerance", TOLERANCE))
        if not 0 < self.tolerance <= LOOSEST:
            raise ValueError(
                f"{directory / DESCRIPTION}: tolerance must be above 0 and at most {LOOSEST:g} "
                f"(rule: beyond that trials find nothing out), got {self.tolerance!r:.80}; export "
                "the run again"
            )
        if self.told.get("graphs") != INTEGERS and self.tolerance > TOLERANCE:
            raise ValueError(
                f"{directory / DESCRIPTION}: tolerance must be at most {TOLERANCE:g} for graphs of "
                f"float32, got {self.tolerance!r:.80}; export the run again"
            )
        self._reader = self._reading(files)
        opened: Any = Program if self.of_programs else session
        stem, tail = (STEM_PROGRAM, TAIL_PROGRAM) if self.of_programs else (STEM, TAIL)
        self._stem, self._tail = opened(files[stem]), opened(files[tail])
        self._whole = session(files[WHOLE]) if WHOLE in files else None

    def _reading(self, files: Mapping[str, bytes]) -> Numbers | Tokenized:
        """Return what prepares inputs; raises ValueError where nothing could."""
        how = self.told["preprocessing"]
        try:
            if isinstance(how, dict) and how.get("kind") == KIND:
                return Tokenized(how, self.shape, files[TOKENIZER])
            return Numbers(how, self.shape)
        except KeyError:
            raise ValueError(
                f"{self.directory / TOKENIZER}: no such file; export the run again"
            ) from None
        except ValueError as error:
            raise ValueError(
                f"{self.directory / DESCRIPTION}: {error}; export the run again"
            ) from None

    @property
    def of_programs(self) -> bool:
        """Whether it is of ExecuTorch's programs, and not of ONNX graphs."""
        return bool(self.told.get("graphs") == EXECUTORCH)

    @property
    def reads_texts(self) -> bool:
        """Whether its inputs are texts, and not numbers."""
        return isinstance(self._reader, Tokenized)

    @property
    def numbers(self) -> int:
        """How many numbers an input has; of a text none."""
        return 0 if self.reads_texts else math.prod(self.shape)

    @property
    def promise(self) -> str:
        """What is promised of the accuracy that early answers cost, for a person."""
        return str(self.told["promise"])

    def predict(self, x: ArrayLike | Sequence[str], *, missing: bool = False) -> Answers:
        """Return the answers to inputs [n, *shape], in the units of the records it learnt from.

        Of a model of texts: to a list of n texts; what lies beyond its longest is cut.
        missing: NaN stands for a missing value, and is filled in as in training; else it is an
        error.

        Raises ValueError for another shape, for what are no numbers, for NaN or infinity, and for
        numbers so large that the model's own overflow; for what is no text, or an empty one.
        """
        return self.answer(self.prepared(x, missing=missing))

    def answer(self, inputs: Inputs, *, deep: bool = False) -> Answers:
        """Return the answers to inputs that `prepared` has returned.

        deep: none leaves early, whatever its score. Raises ValueError where an answer is NaN.
        """
        shares = np.zeros((len(inputs), len(self.labels)))
        early, scores = np.zeros(len(inputs), np.bool_), np.zeros(len(inputs))
        for rows, part in portions(inputs):
            found = self._batch(inputs[rows], part, deep=deep)
            shares[rows], early[rows], scores[rows] = found
        return Answers(self.labels, shares, early, scores)

    def one(self, x: ArrayLike | str, *, missing: bool = False) -> tuple[str, bool]:
        """Return the label of a single input [*shape], or text, and whether it was answered early.

        Through the one graph, which is faster for a single input than `predict` is. Raises as that.
        """
        inputs = self.prepared(self._reader.single(x), missing=missing)  # type: ignore[arg-type]
        ((_, part),) = portions(inputs)
        if self._whole is None:
            found = self._batch(inputs, part)
            return self.labels[int(found[0].argmax())], bool(found[1][0])
        answer, leaves = self._whole.run(None, {"stem/x": part})
        _answered(routing.softmax(answer.astype(np.float64)))
        return self.labels[int(answer.argmax())], bool(leaves)

    def _batch(
        self, inputs: Inputs, part: Inputs, *, deep: bool = False
    ) -> tuple[NDArray[Any], ...]:
        """Return shares, whether early, and scores; only what stays goes through the tail.

        part: what the graphs read of these inputs.
        """
        hidden, shallow = self._stem.run(None, {"x": part})
        shares = routing.softmax(shallow.astype(np.float64))
        scores = routing.HOUSE[self.router](inputs, shares)
        early = scores >= (np.inf if self.threshold is None or deep else self.threshold)
        stays = np.flatnonzero(~early)
        if len(stays):
            (late,) = self._tail.run(None, {"hidden": hidden[stays]})
            shares[stays] = routing.softmax(late.astype(np.float64))
        _answered(shares)
        return shares, early, scores

    def prepared(self, x: Any, *, missing: bool = False) -> Inputs:
        """Return inputs as the model reads them; raises ValueError as `predict` says."""
        return self._reader.prepared(x, missing=missing)

    def try_out(self, trials: Mapping[str, NDArray[Any]]) -> None:
        """Raise ValueError where stored inputs get other answers or ways than where it was made.

        trials: `x` as the model reads it, `shallow` and `deep` answers, and `early`.
        """
        x = trials["x"]
        if x.shape != (len(x), *self.shape):
            raise self._wrong(f"of inputs {list(self.shape)} it has stored {list(x.shape)}")
        if isinstance(self._reader, Tokenized):
            texts = [str(text) for text in trials["texts"]]
            if not np.array_equal(self._reader.prepared(texts), x):
                raise self._wrong("its stored texts become other tokens", "tokenizers")
        hidden, shallow = self._stem.run(None, {"x": x})
        (deep,) = self._tail.run(None, {"hidden": hidden})
        shape = (len(x), *self.shape)
        if not len(x) or x.shape != shape or deep.shape != (len(x), len(self.labels)):
            raise self._wrong(
                f"of {len(self.labels)} labels and inputs {list(self.shape)} it has stored "
                f"{list(x.shape)}, and answers {list(deep.shape)}"
            )
        loose = self.told.get("stem") == STEM_OF_INTEGERS
        allowed = {"shallow": self.tolerance if loose else TOLERANCE, "deep": self.tolerance}
        for name, found in (("shallow", shallow), ("deep", deep)):
            apart = np.abs(found - trials[name]) / (1 + np.abs(trials[name]))
            if found.shape != trials[name].shape or not (apart <= allowed[name]).all():
                raise self._wrong(f"the {name} answers to its stored inputs are others")
        _, early, scores = self._batch(x, x)
        sure = np.ones(len(x), np.bool_)
        if self.threshold is not None:
            near = self.tolerance if loose else _NEAR
            sure = np.abs(scores - self.threshold) > near
        if (early != trials["early"])[sure].any():
            raise self._wrong("its stored inputs go other ways")
        if self._whole is None:
            return
        for at in np.flatnonzero(sure):
            answer, leaves = self._whole.run(None, {"stem/x": x[at : at + 1]})
            branch = "shallow" if early[at] else "deep"
            right = trials[branch][at]
            apart = np.abs(answer[0] - right) / (1 + np.abs(right))
            if bool(leaves) != early[at] or not (apart <= allowed[branch]).all():
                raise self._wrong("its one graph answers otherwise than its two")

    def _wrong(self, what: str, package: str = "") -> ValueError:
        package = package or (EXECUTORCH if self.of_programs else "onnxruntime")
        return ValueError(
            f"{self.directory}: must answer here as where it was made, and {what}; use another "
            f"version of {package}, or export it again"
        )


def load(directory: str | Path, *, signed_by: str | None = None) -> Bundle:
    """Return a bundle that `fedlite export` has written, checked and tried out.

    signed_by: the public key, in hex, that must have signed it; None: any may have. An empty text
    is no key, and refused.

    Raises ValueError where anything in it is not what was signed, where another key signed it,
    where a signed file is not of the form that export writes, and where it answers otherwise than
    where it was made; of one of programs also where no key is named, or ExecuTorch is missing.
    """
    folder = Path(directory)
    files = manifest.read(folder, signed_by)
    programs = PARTS & files.keys()
    if programs and signed_by is None:
        raise ValueError(
            f"{folder / min(programs)}: must have been signed by a key that is named (rule: a "
            f"program is native code's to read, which believes it), and none is; this one is "
            f"signed by {files['key'].decode()}: name that by --signed-by, or signed_by=, where it "
            "is of whom you trust"
        )
    lacks = {DESCRIPTION, *(PARTS if programs else (STEM, TAIL)), TRIALS} - files.keys()
    if lacks:
        raise ValueError(f"{folder / min(lacks)}: no such file; export the run again")
    for name in {STEM, TAIL, WHOLE} & files.keys():
        # How a graph says that values are in another file, which nobody signed: it would be read
        # from the working directory. The word stands there as it is, however the rest is coded.
        if b"location" in files[name]:
            raise ValueError(
                f"{folder / name}: must not speak of a location (rule: all values are in the graph "
                "itself, where they are signed); export it again, no layer being called so"
            )
    try:
        bundle = Bundle(folder, files)
        bundle.try_out(_stored(files[TRIALS]))
    except ValueError:
        raise
    except Exception as error:  # whatever files of any other form make onnxruntime and numpy raise
        told = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{folder}: must hold what fedlite export writes, and does not "
            f"({type(error).__name__}: {told}); get it again from whoever made it"
        ) from error
    return bundle


def is_bundle(directory: Path) -> bool:
    """Return whether a folder holds a bundle, whole or not."""
    return (directory / DESCRIPTION).is_file() or (directory / manifest.MANIFEST).is_file()


def _stored(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the stored trials; they are not packed, so they are no larger than their file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        listed = archive.infolist()
        if any(one.compress_type != zipfile.ZIP_STORED for one in listed):
            raise ValueError(f"{TRIALS}: must not be compressed; export the run again")
        # Entries may lie in each other, and not every Python finds that.
        if sum(one.file_size for one in listed) > len(content):
            raise ValueError(f"{TRIALS}: must not be larger than its file; export the run again")
    with np.load(io.BytesIO(content), allow_pickle=False) as trials:
        return dict(trials)


def _answered(shares: NDArray[np.float64]) -> None:
    """Raise ValueError where a row of shares [n, classes] is NaN: it has no likeliest class."""
    wrong = np.isnan(shares).any(axis=1)
    if wrong.any():
        raise ValueError(
            f"x: must be of numbers as the model has learnt from, and its answer to row "
            f"{int(np.flatnonzero(wrong)[0])} of its batch is NaN; correct that"
        )


def session(graph: bytes, *, plain: bool = False) -> Any:
    """Return a graph ready to run in one thread.

    plain: node by node as it is written, by no kernel that joins several of them.

    Raises ValueError where onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(
            "onnxruntime: must be installed for bundles, and is not; pip install 'fedlite[deploy]'"
        ) from None
    options = onnxruntime.SessionOptions()
    # Several threads wait for each other on graphs so small.
    options.intra_op_num_threads = 1
    # What fails is raised. Its own log would write a stranger's names of nodes to the terminal.
    options.log_severity_level = 4
    # Processors without VNNI add two products of bytes up in 16 bits, which overflow: then they
    # take a slower product, and answer as all others do.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
