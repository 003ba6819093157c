"""What a site adds to the loss of its records: a term, with what it remembers between rounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

State = Mapping[str, Tensor]

OWN = "own."
"""Before the name of an extra: what the server has of this site."""


class Term(ABC):
    """A penalty, by its gradient, or a correction: added to every step of a round.

    It sees the model only, so that it depends on records through the steps taken before, and
    through what it was made with. `from_records` says that this was computed from records in the
    clear, which is assumed of a term that says nothing; record-level privacy refuses it. State in,
    state out: a term is never changed. What it keeps counts from the moment when the server is
    known to have used the round's update; else the next round begins with what was kept before.

    `extras` names vectors, each float32 [n] and 0 at first, that travel beside the model. Of each
    every site has a value of its own, and the server the mean over all `federation.sites`. So for
    an extra called `x`, `begin` finds that mean in `kept["x"]`, as far as compression has brought
    it here, and in `kept["own.x"]` this site's own as the server has it; `end` returns in `"x"` by
    how much the own is to change. What compression leaves out of that, neither has, so that the
    next change makes it good (Richtarik, Sokolov, Fatkhullin 2021, "EF21").
    """

    from_records = True
    extras: tuple[str, ...] = ()

    def begin(self, values: Tensor, kept: State) -> State:
        """Return the state of a round that begins at the model `values`, float32 [n].

        kept: what `end` returned in this site's round before, or nothing, and the extras.
        """
        return kept

    @abstractmethod
    def add_to(self, gradients: Tensor, values: Tensor, state: State) -> None:
        """Add this term's gradient at `values` to `gradients`, both float32 [n], in place."""

    def end(self, values: Tensor, state: State, *, steps: int, learning_rate: float) -> State:
        """Return what the site keeps for its next round, after `steps` steps led to `values`.

        steps: 0 at a site without records.
        """
        return {}
