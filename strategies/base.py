"""What every strategy shares: the streamed mean of a round, and a state that anybody can save."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.compression import Decoded
from fedlite.parameters import Portion, Vector
from fedlite.registry import line_of
from fedlite.scenario import Federation, Link

# A site's claim of its size is a lever on the average; no honest site here has more.
MOST_RECORDS = 100_000_000

Mean = Callable[[NDArray[np.float64], float], Vector]


def weighted_mean(total: NDArray[np.float64], weight: float) -> Vector:
    """Return `total / weight`, float32 [n]: the mean without privacy."""
    return (total / weight).astype(np.float32)


@dataclass(frozen=True)
class ServerState:
    """What the server must keep between rounds: arrays and plain numbers, by name.

    arrays: `model`, float32 [n], and whatever else a strategy keeps, of any shape and any dtype
    that safetensors knows. scalars: ints and floats. A checkpoint saves all of it without knowing
    what it is; nothing in it is ever changed in place.

    >>> state = ServerState.initial(np.zeros(2, np.float32))
    >>> after = state.having(momentum=np.ones(2, np.float32), steps=1)
    >>> after.array("momentum").tolist(), after.scalars["steps"], state.array("momentum").tolist()
    ([1.0, 1.0], 1, [0.0, 0.0])
    """

    arrays: Mapping[str, NDArray[Any]]
    scalars: Mapping[str, int | float] = field(default_factory=dict)

    @classmethod
    def initial(cls, vector: Vector, extras: Vector | None = None) -> ServerState:
        """Return the state before the first round: the model, and what travels behind it."""
        state = cls({"model": vector.copy()})
        return state if extras is None or not extras.size else state.having(extras=extras.copy())

    @property
    def model(self) -> Vector:
        """The current model, float32 [n]."""
        return self.arrays["model"]

    @property
    def travelling(self) -> Vector:
        """The vector that sites are sent, float32: the model, and behind it the extras, if any."""
        extras = self.arrays.get("extras")
        return self.model if extras is None else np.concatenate([self.model, extras])

    @property
    def released(self) -> Vector:
        """The model to evaluate and deploy: the average so far, or else the current model."""
        averaged = self.scalars.get("averaged", 0)
        if not averaged:
            return self.model
        return (self.arrays["total"] / averaged).astype(np.float32)

    @property
    def deployed(self) -> Vector:
        """The model to evaluate and deploy, and behind it the extras, if any, float32."""
        extras = self.arrays.get("extras")
        return self.released if extras is None else np.concatenate([self.released, extras])

    def array(self, name: str, start: float = 0.0) -> Vector:
        """Return an array as long as the model; before it was first kept, `start` everywhere."""
        found = self.arrays.get(name)
        return np.full_like(self.model, start) if found is None else found

    def having(self, **changed: NDArray[Any] | int | float) -> ServerState:
        """Return the state with these arrays and numbers in place of those of the same names."""
        arrays = {k: v for k, v in changed.items() if isinstance(v, np.ndarray)}
        scalars = {k: v for k, v in changed.items() if not isinstance(v, np.ndarray)}
        return ServerState({**self.arrays, **arrays}, {**self.scalars, **scalars})

    def part(self, portion: Portion) -> ServerState:
        """Return the state of a portion, as a model of its own.

        Beside its values it has what was kept of them when it was stepped, and nothing else.
        """
        mine = f"{portion.name} "
        kept = {**self.arrays, **self.scalars}
        part = ServerState({"model": self.model[portion.moving]})
        return part.having(
            **{name.removeprefix(mine): kept[name] for name in kept if name.startswith(mine)}
        )

    def with_part(self, portion: Portion, part: ServerState) -> ServerState:
        """Return the state with that of a portion in it; all the rest stays."""
        model = self.model.copy()
        model[portion.moving] = part.model
        kept = {**part.arrays, **part.scalars}
        del kept["model"]
        return self.having(model=model, **{f"{portion.name} {k}": v for k, v in kept.items()})

    def with_model_counted(self) -> ServerState:
        """Return the state with the current model in the average that is released."""
        total = self.arrays.get("total", np.zeros(self.model.shape, np.float64))
        averaged = int(self.scalars.get("averaged", 0))
        return self.having(total=total + self.model, averaged=averaged + 1)


class Strategy(ABC):
    """A rule by which the server turns a round's mean update into the next model.

    `start`, then `add` once an update, then `finish`. The sum is the only vector it holds, so
    memory does not grow with the number of sites. With `weighting = "uniform"` every site counts
    the same; with `"records"` as many times as it has training records.

    With `average_last = f` the released model is the mean over the last fraction f of the rounds
    (Polyak and Juditsky 1992): it averages out noise, of privacy or of compression.

    Of a model whose portions move by themselves (`fedlite.parameters.Portion`) each has a rule of
    its own, which sees that portion as a model; `by_portion` says whether that has a meaning.

    A rule is one method, `step`: state in, state out. What it returns is all that it remembers, and
    a resumed run goes on with it. Beside it, one line in `STRATEGIES` makes it a scenario's choice.

    >>> class Signs(Strategy):
    ...     "SignSGD on the mean."
    ...     def step(self, state, mean):
    ...         rate = np.float32(self.settings.server_learning_rate)
    ...         return state.having(model=state.model + rate * np.sign(mean))
    >>> rule = Signs(Federation(server_learning_rate=0.5))
    >>> rule.start(2)
    >>> rule.add(Decoded(2, None, np.array([3, -7], np.float32)), 0)
    >>> rule.finish(ServerState.initial(np.zeros(2, np.float32)), 1).model.tolist()
    [0.5, -0.5]
    """

    by_portion = True

    def __init__(self, federation: Federation, mean: Mean = weighted_mean) -> None:
        """Keep the settings, and how a sum and its weight become a mean (with noise or without)."""
        self.settings = federation
        self._mean = mean
        self._sum: NDArray[np.float64] = np.zeros(0)
        self._weight = 0.0

    def start(self, size: int) -> None:
        """Begin a round for vectors of `size` values, with an empty sum."""
        self._sum = np.zeros(size, np.float64)
        self._weight = 0.0

    def add(self, update: Decoded, records: int) -> None:
        """Add one site's update to the sum; `records` is 0 when the site does not disclose it.

        Raises ValueError when the weights need the record count and it is missing or absurd; the
        sum is then unchanged.
        """
        weight = self.weight_of(records)
        update.add_to(self._sum, weight)
        self._weight += weight

    def weight_of(self, records: int) -> float:
        """Return how much an update counts; raises ValueError as `add` does."""
        if self.settings.weighting != "records":
            return 1.0
        if not 1 <= records <= MOST_RECORDS:
            raise ValueError(f"records: must be from 1 to {MOST_RECORDS}, got {records}")
        return float(records)

    def combined(self) -> Vector:
        """Return what stands for the round's updates, float32 [n]: their mean, with its noise."""
        return self._mean(self._sum, self._weight)

    def check_updates(self, link: Link, extras: Sequence[str]) -> None:  # noqa: B027
        """Raise ValueError where the rule cannot use updates as they come.

        link: the uplink. extras: names of what travels behind the model's values.
        """

    def check_weak(self) -> None:
        """Raise ValueError where the rule has no meaning if sites train different portions."""
        if not self.by_portion:
            raise ValueError(
                "federation.strategy: must average each tensor over the sites that train it where "
                "federation.weak or federation.weak_sites is set (rule: what is proven of it is "
                "of updates of one model, and of those that hold the tail most may be hostile), "
                f"got {self.settings.strategy!r}; use fedavg, fedadam, fedyogi or fedadagrad"
            )

    def notes(self, size: int) -> tuple[str, ...]:
        """Return what a person must know before a run of `size` parameters, a line each."""
        return ()

    def moved(self, state: ServerState, portion: Portion | None = None) -> ServerState:
        """Return the state after the round's step; without any update all stays as it is.

        portion: what the updates were of, where not of everything. Nothing else is stepped: no
        momentum of other rounds moves what stood still.
        """
        if not self._weight:
            return state
        part = state if portion is None else state.part(portion)
        stepped = self.step(part, self.combined())
        self._check(stepped, part)
        return stepped if portion is None else state.with_part(portion, stepped)

    def counted(self, state: ServerState, round_number: int) -> ServerState:
        """Return the state with the round's model in the average, if it is one of the last."""
        if round_number > self.settings.rounds * (1 - self.settings.average_last):
            return state.with_model_counted()
        return state

    def finish(
        self, state: ServerState, round_number: int, portion: Portion | None = None
    ) -> ServerState:
        """Return the state after a round in which one portion moved, or everything."""
        return self.counted(self.moved(state, portion), round_number)

    def _check(self, after: Any, before: ServerState) -> None:
        """Raise ValueError, naming the rule, unless a step led to a state of the same model."""
        wanted = f"must return a ServerState whose model is float32 [{before.model.size}]"
        model = after.model if isinstance(after, ServerState) else None
        if isinstance(after, ServerState):
            self._check_kept(after)
        if model is None or model.shape != before.model.shape or model.dtype != np.float32:
            found = type(after).__name__ if model is None else f"{model.dtype} {model.shape}"
        elif type(self).__module__.startswith("strategies.") or np.isfinite(model).all():
            # Of the house's own rules a step that is too long is not taken, and the run goes on.
            return
        else:
            found = f"{np.count_nonzero(~np.isfinite(model))} values that are NaN or infinite"
        at = line_of(type(self).step)
        raise ValueError(
            f"federation.strategy: {type(self).__name__}.step {wanted}, all finite, got "
            f"{found}; return state.having(model=...){f'; see {at}' if at else ''}"
        )

    def _check_kept(self, after: ServerState) -> None:
        """Raise ValueError for what no checkpoint could keep."""
        odd = [name for name, kept in after.arrays.items() if kept.dtype.kind not in "biuf"]
        odd += [name for name, kept in after.scalars.items() if not isinstance(kept, int | float)]
        if odd:
            at = line_of(type(self).step)
            raise ValueError(
                f"federation.strategy: {type(self).__name__}.step must keep arrays of numbers, "
                f"ints and floats (rule: a run that is resumed goes on with them), got another "
                f"kind for {odd[0]!r}{f'; see {at}' if at else ''}"
            )

    @abstractmethod
    def step(self, state: ServerState, mean: Vector) -> ServerState:
        """Return the state after a step along `mean`, float32 [n]: the round's mean update.

        The server's noise, if it adds any, is in `mean` already, so that no rule can forget it and
        whatever a rule does with it costs no more privacy.
        """
