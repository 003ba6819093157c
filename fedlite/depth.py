"""Sites that train the shallow branch alone: their plan, and the portions of the whole model.

A weak site's plan is that of a smaller model, its stem and exit. So its gradients are clipped and
noised, its update is laid out, compressed and framed, and the broadcast comes to it, as if there
were nothing else. A portion of the model is averaged over the sites that hold it, and stepped by
itself.

Source: Kim et al. 2023, "DepthFL: Depthwise Federated Learning for Heterogeneous Clients".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from fedlite.compression import Decoded
from fedlite.parameters import Layout, Portion, portion_of, to_vector, turns_of
from fedlite.plan import Plan

# Relative; the early model may leave out columns that count nowhere.
_ALIKE = 1e-4


def plan_of(plan: Plan, site: str) -> Plan:
    """Return the plan by which the site called so trains: the whole one, or that of `early`."""
    return early(plan) if site in plan.weak else plan


def kinds(plan: Plan) -> tuple[Plan, ...]:
    """Return the plans by which a federation's sites train: the whole one, and `early` if any."""
    return (plan, early(plan)) if plan.weak else (plan,)


def layouts(plan: Plan) -> dict[str, bytes]:
    """Return the digest of the layout of each weak site, by its name; none without any."""
    return {name: early(plan).travelling.digest for name in plan.weak}


@lru_cache(maxsize=8)
def early(plan: Plan) -> Plan:
    """Return the plan of the shallow branch alone.

    Raises ValueError where the model has none, or it does not fit the whole model.
    """
    model = plan.model().early()
    layout = Layout.of(model)
    known = [name for name in plan.layout.names if name in {*layout.names}]
    if not known or known != [*layout.names] or len(known) == len(plan.layout.names):
        raise ValueError(
            "model: the trained tensors of its `early` must be some of its own, not all, by the "
            f"same names and in the same order, got {', '.join(layout.names) or 'none'}; leave "
            "federation.weak and federation.weak_sites out"
        )
    initial = to_vector(model)
    initial.setflags(write=False)
    standing = [[n for n in turn.standing if n in {*layout.names}] for turn in plan.turns]
    for number, names in enumerate(standing, start=1):
        if len(names) == len(layout.names):
            raise ValueError(
                f"federation.weak: must leave weak sites something to train in every round, and in "
                f"turn {number} nothing of the shallow branch moves; take another model.options"
            )
    return replace(
        plan,
        layout=layout,
        initial=initial,
        turns=turns_of(layout, standing),
        products=tuple(pair for pair in plan.products if {*pair} <= {*layout.names}),
        weak=frozenset(),
        whole=plan,
    )


@lru_cache(maxsize=32)
def _portions(plan: Plan, turn: Portion | None) -> tuple[Portion, ...]:
    mine = {*early(plan).layout.names}
    still = turn.standing if turn else frozenset()
    prefix = f"{turn.name}, " if turn else ""
    shallow = still | ({*plan.layout.names} - mine)
    portions = [portion_of(plan.layout, f"{prefix}shallow", shallow)]
    if {*plan.layout.names} - still - mine:
        portions.append(portion_of(plan.layout, f"{prefix}tail", still | mine))
    return tuple(portions)


def portions(plan: Plan, round_number: int) -> tuple[Portion, ...]:
    """Return what is averaged and stepped by itself in a round; none where all moves together.

    With weak sites the first is theirs, too, and the second, if it moves, that of the others.
    """
    turn = plan.turn(round_number)
    if plan.weak:
        return _portions(plan, turn)
    return (turn,) if turn else ()


def places(plan: Plan) -> np.ndarray:
    """Return where the values of the shallow branch are in the model's vector, int64 [m]."""
    return _portions(plan, None)[0].moving


def in_whole(plan: Plan, update: Decoded) -> Decoded:
    """Return a weak site's update, [m], as one of the whole model, [n], of which it says no more.

    plan: the whole one.
    """
    return placed(update, _portions(plan, None)[0], plan.layout.size)


def within(update: Decoded, portion: Portion) -> Decoded:
    """Return what of an update is in a portion, as an update of that alone.

    >>> layout = Layout(("a", "b"), ((2,), (3,)))
    >>> update = Decoded(5, np.array([1, 3]), np.array([2.0, -2.0], dtype=np.float32))
    >>> part = within(update, portion_of(layout, "b", {"a"}))
    >>> part.size, part.indices.tolist(), part.values.tolist()
    (3, [1], [-2.0])
    """
    moving = portion.moving
    if update.indices is None:
        return Decoded(moving.size, None, update.values[moving])
    at = np.searchsorted(moving, update.indices)
    inside = moving[np.minimum(at, moving.size - 1)] == update.indices
    found = at[inside]
    values = update.values[inside]
    return Decoded(moving.size, None if found.size == moving.size else found, values)


def placed(part: Decoded, portion: Portion, size: int) -> Decoded:
    """Return a portion's update as one of the whole model, [size], of which it says no more."""
    where = portion.moving if part.indices is None else portion.moving[part.indices]
    return Decoded(size, where, part.values)


def together(parts: Sequence[Decoded], portions: Sequence[Portion | None], size: int) -> Decoded:
    """Return the update, [size], of which these are the first portions; None is all of it."""
    placings = [
        part if portion is None else placed(part, portion, size)
        for part, portion in zip(parts, portions, strict=False)
    ]
    if len(placings) == 1:
        return placings[0]
    whole = np.zeros(size, np.float32)
    for one in placings:
        one.add_to(whole, 1.0)
    return Decoded(size, None, whole)


def check(plan: Plan) -> None:
    """Raise ValueError where weak sites could not train, or would train another model."""
    if not plan.weak:
        return
    small = early(plan)
    small.check_model()
    whole, alone = plan.model().eval(), small.model().eval()
    whole.one_by_one()
    alone.one_by_one()
    with torch.no_grad():
        records = whole.made_up(2)
        wanted, found = whole(whole.prepare(records))[0], alone(alone.prepare(records))[0]
    gap = float((wanted - found).abs().max())
    if not gap <= _ALIKE * (1.0 + float(wanted.abs().max())):
        raise ValueError(
            "model: its `early` must answer as its shallow branch does (rule: weak sites train "
            f"that model and no other), got answers that are {gap:.2g} apart; mend `early`"
        )
