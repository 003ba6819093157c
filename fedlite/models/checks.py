"""Whether a model can be trained by a federation: what cannot is named, with the mend.

Asked before a run starts, and by a site before it reserves anything: torch's and Opacus's own
errors come in the first round, at every site, and speak of their insides.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlite.data.dataset import Dataset
from fedlite.models.registry import Model
from fedlite.parameters import Layout
from fedlite.registry import line_of, place_of
from fedlite.tasks import Loss, Outputs, Task, joint

# Records that are prepared in another order, too, and the first ones of them without the others.
_PREPARED, _FEWER = 40, 17
# One record too: it is what is left of a site's records for the last batch of a pass.
_BATCHES = (2, 1)


def check(
    model: Model,
    task: Task,
    *,
    private: bool = False,
    batch: int = 0,
    loss: Loss | None = None,
) -> None:
    """Raise ValueError naming the tensor or the layer of `model` that cannot be trained, and why.

    Steps are tried on a copy and on made-up records, so that nothing depends on a site's data.

    Args:
        model: as `build` returns it, before its parameters are flattened.
        task: what it learns to answer.
        private: whether noise is added, by whomever: then nothing may travel beside the parameters.
        batch: about how many records a step of record-level privacy has, public; 0 where records
            are not protected one by one.
        loss: what such steps take; None for all branches alike.

    Example:
        >>> parts = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), nn.Linear(3, 2)
        >>> from fedlite.models import Branched
        >>> from fedlite.tasks import make
        >>> model = Branched(*parts, nn.Linear(3, 2), shape=(4,), classes=2)
        >>> check(model, make("classification"), private=True)
        Traceback (most recent call last):
        ...
        ValueError: model: 'stem.1' is BatchNorm1d, which is not allowed under privacy (rule: it \
mixes the records of a batch, and its statistics of them would travel without noise); take \
nn.GroupNorm(1, 3)
    """
    loss = loss or joint(task)
    private = private or batch > 0
    if private:
        _check_layers(model)
    _check_parameters(model)
    # A batch of one has no variance; where that matters, training makes none.
    for size in _BATCHES[:1] if mixes_records(model) else _BATCHES:
        _try_step(copy.deepcopy(model), task, loss, size, private=private)
    if batch:
        # Opacus takes seconds to import, and most runs have no use for it.
        from fedlite.privacy.gradients import check_model
        from fedlite.privacy.trial import block_of

        check_model(model)
        _try_preparing(model, task)
        with torch.no_grad():
            inputs = model.prepare(model.made_up(1).to(next(model.parameters()).device))
        block_of(model, inputs, task.made_up(1, model.classes).to(inputs.device), loss, batch)


def mixes_records(model: nn.Module) -> bool:
    """Whether a layer normalises by the records of a batch, which must then be two at least."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())


def _check_layers(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"model: '{name}' is {type(module).__name__}, which is not allowed under privacy "
                "(rule: it mixes the records of a batch, and its statistics of them would travel "
                f"without noise); take nn.GroupNorm(1, {module.num_features})"
            )


def _check_parameters(model: nn.Module) -> None:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError("model: must have a parameter that requires a gradient, got none")
    for name, parameter in trained.items():
        if not parameter.is_floating_point():
            raise ValueError(
                f"model: '{name}' must hold real numbers, got {parameter.dtype}; split it into "
                "two, or set its requires_grad to False"
            )
    spans = sorted((*_span(parameter), name) for name, parameter in trained.items())
    for (memory, _, last, one), (same, first, _, other) in pairwise(spans):
        if memory == same and first <= last:
            raise ValueError(
                f"model: '{one}' and '{other}' are two parameters on the same memory, which would "
                "be sent twice and come apart in training; assign one nn.Parameter to both places, "
                "or clone the values"
            )


def _span(tensor: Tensor) -> tuple[int, int, int]:
    """Return where a tensor lies: its memory, and the places of its first and last value there."""
    first = tensor.storage_offset()
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    last = first + sum((size - 1) * stride for size, stride in pairs)
    return tensor.untyped_storage().data_ptr(), int(first), int(last)


def _try_step(model: Model, task: Task, loss: Loss, count: int, *, private: bool) -> None:
    """Take the gradient of `model`, which is changed, on `count` records."""
    model.train()
    model.zero_grad(set_to_none=True)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    records = model.made_up(count).to(next(model.parameters()).device)
    targets = task.made_up(count, model.classes).to(records.device)
    with torch.random.fork_rng(devices=[]):
        try:
            found: object = model(model.prepare(records))
        except Exception as error:  # whatever code of one's own raises
            raise ValueError(
                f"model: must take records of shape {list(model.shape)}, {count} at a time, and "
                f"cannot: {_first_line(error)}{_at(error)}"
            ) from error
        outputs = _outputs(model, found, count)
        losses = _losses(task, loss, outputs, targets)
        try:
            torch.autograd.backward(losses.sum())
        except RuntimeError as error:
            raise ValueError(
                f"model: must have gradients, and has none: {_first_line(error)}; write y = f(x) "
                "for operations in place (x += y, relu_, inplace=True)"
            ) from error
    for name, parameter in model.named_parameters():
        if private and parameter.requires_grad and parameter.grad is None:
            raise ValueError(
                f"model: '{name}' gets no gradient, but would be sent and noised like the others; "
                "use it, remove it, or set its requires_grad to False"
            )
    running = Layout.running(model).names
    for name, buffer in model.named_buffers():
        if name not in running and (name not in before or not torch.equal(buffer, before[name])):
            raise ValueError(
                f"model: the buffer '{name}' ({buffer.dtype}) changes in training, and no site "
                "sends it: the released model would never have it; keep buffers as they are built"
            )


def _try_preparing(model: Model, task: Task) -> None:
    """Raise ValueError where what becomes of a record depends on others: it is not clipped alone.

    To the bit, as of gradients (`fedlite.privacy.trial`).
    """
    device = next(model.parameters()).device
    made = model.made_up(_PREPARED), task.made_up(_PREPARED, model.classes)
    # As data sets hold them.
    x, y = ((one.float() if one.is_floating_point() else one.long()).numpy() for one in made)

    def prepared(rows: NDArray[np.int64]) -> tuple[Tensor, ...]:
        raw, targets = task.tensors(Dataset(x[rows], y[rows]), device)
        return model.prepare(raw), targets

    rows = np.arange(_PREPARED)
    try:
        with torch.no_grad():
            halves = [prepared(part) for part in np.split(rows, [_FEWER])]
            found = zip(
                prepared(rows), prepared(rows[::-1]), *halves, ("prepare", "tensors"), strict=True
            )
    except Exception as error:  # whatever code of one's own raises
        raise ValueError(
            "model: tensors and prepare must take made-up records, without further columns, so "
            "that it can be tried that they look at each alone (rule: one record may change no "
            f"other's gradient), and cannot: {_first_line(error)}{_at(error)}"
        ) from error
    for whole, turned, first, rest, name in found:
        if torch.equal(turned.flip(0), whole) and torch.equal(torch.cat([first, rest]), whole):
            continue
        raise ValueError(
            f"model: {name} must make the same of a record, to the bit, whatever records stand "
            "beside it (rule: one record may change no other's gradient), and does not; look at "
            "each record alone, and where only the last bits differ, in blocks of one size that "
            "are filled up"
        )


def _outputs(model: Model, found: object, count: int) -> Outputs:
    """Return what `model` made of `count` records if it is one tensor [count, classes] a branch."""
    parts = ("exit", "tail") if len(model.branches) == 2 else ("the network",)
    if not isinstance(found, tuple) or len(found) != len(parts):
        raise ValueError(
            f"model: must return {len(parts)} tensors, the early and the deep outputs, got "
            f"{type(found).__name__}"
        )
    for part, answers in zip(parts, found, strict=True):
        if not isinstance(answers, Tensor) or answers.shape != (count, model.classes):
            got = list(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
            raise ValueError(
                f"model: '{part}' must return outputs [records, classes], "
                f"{[count, model.classes]} for {count} records, got {got}"
                + ("; two branches are a fedlite.models.Branched" if len(parts) == 1 else "")
            )
    return found


def _losses(task: Task, loss: Loss, outputs: Outputs, targets: Tensor) -> Tensor:
    """Return the loss of each record; ValueError where it is none, or a score is none."""
    count, kind = len(outputs[0]), type(task)
    if not all(bool(torch.isfinite(one).all()) for one in outputs):
        raise ValueError(
            "model: must return finite outputs for records between 0 and 1, got NaN or infinity; "
            "mend its forward"
        )
    try:
        losses: object = loss(outputs, targets)
        nobody = np.zeros(count, np.int64)
        answers = outputs[-1].detach().double().cpu().numpy()
        scores: object = task.scores(answers, targets.cpu().numpy(), nobody, 1)
    except Exception as error:  # whatever code of one's own raises
        raise ValueError(
            f"task.name: {kind.__name__} must take answers {list(outputs[-1].shape)} and targets "
            f"{list(targets.shape)}, and cannot: {_first_line(error)}{_at(error)}"
        ) from error
    if not isinstance(losses, Tensor) or losses.shape != (count,):
        got = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(
            f"task.name: {kind.__name__}.loss must return the loss of each record, [{count}] for "
            f"{count} records, got {got}; see {line_of(kind.loss)}"
        )
    if not bool(torch.isfinite(losses).all()):
        raise ValueError(
            f"task.name: {kind.__name__}.loss must be finite for finite answers, got NaN or "
            f"infinity; see {line_of(kind.loss)}"
        )
    figures = scores if isinstance(scores, dict) else {}
    if kind.main not in figures or any(np.shape(one) != (1,) for one in figures.values()):
        raise ValueError(
            f"task.name: {kind.__name__}.scores must return a figure for each owner, [1] for one, "
            f"by name, and {kind.main!r} (its `main`) among them, got {scores!r:.80}; see "
            f"{line_of(kind.scores)}"
        )
    return losses


def _at(error: Exception) -> str:
    """Return where an error arose in code of one's own, as a mend; "" where in none."""
    at = place_of(error)
    return f" ({type(error).__name__}); mend {at}" if at else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
