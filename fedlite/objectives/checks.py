"""Whether an objective can be used: what is wrong with it is named before a run, with the line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedlite.objectives.base import OWN, State, Term
from fedlite.registry import line_of, place_of
from fedlite.scenario import Scenario

# What a site's state can be written as, beside its residual.
_KEPT = (torch.float32, torch.float64, torch.int64)


def check(term: Term, name: str, size: int) -> None:
    """Raise ValueError where two rounds of `term` on a made-up model fail or lead to nonsense.

    name: what the scenario calls it, for the message. size: of the model.

    >>> from fedlite.objectives.fedprox import FedProx
    >>> check(FedProx(0.1), "fedprox", 3)
    """
    values = torch.linspace(-1.0, 1.0, size)
    extras = {at: torch.zeros(size) for one in term.extras for at in (one, OWN + one)}
    kept: State = {}
    for number in ("first", "second"):
        try:
            gradients = torch.full((size,), 0.5)
            state = term.begin(values.clone(), {**kept, **extras})
            term.add_to(gradients, values + 0.5, state)
            kept = term.end(values + 0.25, state, steps=2, learning_rate=0.1)
        except Exception as error:  # whatever foreign code raises
            where = place_of(error, line_of(type(term)).rpartition(", line")[0]) or "it"
            raise ValueError(
                f"training.objective: {name!r} fails in its {number} round "
                f"({type(error).__name__}: {error}); mend {where}"
            ) from error
        if gradients.shape != (size,) or not bool(torch.isfinite(gradients).all()):
            raise ValueError(
                f"training.objective: {name!r} must add finite values to the gradients, float32 "
                f"[{size}], in place, got {_told(gradients)}; see its `add_to`"
            )
        kept = _split(term, name, size, kept)


def check_portions(term: Term | None, scenario: Scenario, *, turns: bool, alone: bool) -> None:
    """Raise ValueError for what would tell of other values than those that move.

    turns: whether that is by rounds, and not only by sites. alone: whether nothing travels behind
    the model.
    """
    share, name = scenario.uplink.aggregate_feedback, scenario.training.objective
    if share and turns:
        raise ValueError(
            "uplink.aggregate_feedback: must be 0 where values take turns (rule: what the last "
            f"broadcast changed is of the turn before), got {share}; leave it out"
        )
    if not alone or (term is not None and type(term).end is not Term.end):
        where = (
            "where values take turns (rule: it would be of the turn before)"
            if turns
            else "with federation.weak or federation.weak_sites (rule: it is of the whole model)"
        )
        raise ValueError(
            "training.objective: must keep nothing from round to round, and nothing may travel "
            f"behind the model (as the statistics of BatchNorm do), {where}, got {name!r}; use "
            "plain or fedprox, and nn.GroupNorm"
        )


def _split(term: Term, name: str, size: int, ended: object) -> State:
    """Return what is kept of what `end` returned; ValueError unless all of it can be."""
    kept: dict[Any, Any] = dict(ended) if isinstance(ended, Mapping) else {"": ended}
    for extra in term.extras:
        change = kept.pop(extra, None)
        if not isinstance(change, Tensor) or change.shape != (size,):
            raise ValueError(
                f"training.objective: {name!r} must return the change of its extra {extra!r}, "
                f"float32 [{size}], from `end`, got {_told(change)}; return it there"
            )
    for key, value in kept.items():
        bad = not isinstance(value, Tensor) or value.dtype not in _KEPT
        if bad or not isinstance(key, str) or not key or key.startswith(OWN):
            raise ValueError(
                f"training.objective: {name!r} must return tensors of float32, float64 or int64 "
                f"by names that do not begin with {OWN!r} from `end`, got {key!r}: "
                f"{_told(value)}; keep no other"
            )
    return kept


def _told(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"{value!r}"
