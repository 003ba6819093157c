"""A model with a shallow and a deep branch as ExecuTorch programs, for phones and small devices.

Experimental. Two programs of one record each, whose method is `forward`: `stem` (a record to hidden
values and the early answer) and `tail` (hidden values to the deep answer). What XNNPACK computes is
handed to it, the rest is ExecuTorch's portable operators; values are float32. Shapes are fixed, so
that a device knows its memory beforehand: a text is filled up to the longest, behind its mask.

A program is read by native code that takes it for well-formed. One that was damaged, or made up by
somebody, can end the process or worse, so none is opened before its signer is known.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fedlite.models import Branched

# What `--target` calls it, and `bundle.json` under `graphs`.
EXECUTORCH = "executorch"
STEM_PROGRAM, TAIL_PROGRAM = "stem.pte", "tail.pte"
PARTS = frozenset((STEM_PROGRAM, TAIL_PROGRAM))
_MISSING = "executorch: must be installed for bundles of programs, and {}; {}"
_MEND = "pip install 'fedlite[executorch]'"


def unreleased(names: Iterable[str]) -> str:
    """Return why a bundle of files with these names is not sent to sites; "" where it may be."""
    if not PARTS & {*names}:
        return ""
    return (
        "must be of ONNX graphs to be released (rule: a program is native code's to read, which "
        "believes it), and is of ExecuTorch's; hand it over yourself, or export it without "
        f"--target {EXECUTORCH}"
    )


def needs() -> None:
    """Raise ValueError where ExecuTorch is not installed."""
    if importlib.util.find_spec("executorch") is None:
        raise ValueError(_MISSING.format("is not", _MEND))


class Program:
    """A program ready to run, one record after the other; as an ONNX session is asked."""

    def __init__(self, content: bytes) -> None:
        """Load it. Raises ValueError where ExecuTorch is not installed, and RuntimeError otherwise.

        content: of the file, by somebody who is trusted.
        """
        needs()
        try:
            with _quiet():
                import torch
                from executorch.runtime import Runtime, Verification
        except ImportError as error:
            told = f"cannot be imported ({error!s:.200})"
            raise ValueError(_MISSING.format(told, _MEND)) from None
        self._torch = torch
        # The runtime reads from these bytes as it computes.
        self._content = content
        program = Runtime.get().load_program(content, verification=Verification.InternalConsistency)
        self._method = program.load_method("forward")
        self._shape = tuple(self._method.metadata.input_tensor_meta(0).sizes())

    def run(self, _: object, given: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs, each [n, ...], for the one input [n, *shape].

        Texts may be shorter than the program's: what they lack is filled up, and counts nowhere.
        """
        (whole,) = given.values()
        if whole.ndim == 3 and whole.dtype == np.int64:
            whole = np.pad(whole, ((0, 0), (0, 0), (0, max(0, self._shape[2] - whole.shape[2]))))
        found = []
        for row in range(len(whole)):
            one = self._torch.from_numpy(np.ascontiguousarray(whole[row : row + 1]))
            # The runtime's own memory, which the next record is written over.
            found.append([out.numpy().copy() for out in self._method.execute([one])])
        return [np.concatenate(outs) for outs in zip(*found, strict=True)]


def lowered(model: Branched, name: str) -> tuple[bytes, bytes]:
    """Return stem and tail of a model, in evaluation mode, as programs that load here.

    name: of the model, for errors. Raises ValueError where ExecuTorch is not installed, or has no
    way to say a layer.
    """
    needs()
    import torch

    from fedlite.inference.graphs import StemAndExit

    deployed = model.deployed().eval()
    record = model.made_up(1)
    with torch.no_grad():
        hidden = deployed.stem(record)
    parts = (StemAndExit(deployed.stem, deployed.exit), record), (deployed.tail, hidden)
    stem, tail = (_lowered(part, given, name) for part, given in parts)
    return stem, tail


def _lowered(part: nn.Module, given: Tensor, name: str) -> bytes:
    import torch

    try:
        with _quiet():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            said = torch.export.export(part.eval(), (given,))
            edge = to_edge_transform_and_lower(said, partitioner=[XnnpackPartitioner()])
            content = bytes(edge.to_executorch().buffer)
            # What it has no kernel for is found as it is loaded.
            Program(content)
    except ImportError as error:
        told = f"cannot be imported ({error!s:.200})"
        raise ValueError(_MISSING.format(told, _MEND)) from None
    except Exception as error:  # whatever the lowering of somebody's layers raises
        first = str(error).strip().splitlines()[:1]
        raise ValueError(
            f"model.name: must be a network that ExecuTorch can lower, and {name!r} is not "
            f"({type(error).__name__}: {''.join(first)[:200]}); use layers that it knows, or "
            "--target onnx"
        ) from error
    return content


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let its libraries say nothing of what they have not found, and do not need here."""
    import warnings

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
