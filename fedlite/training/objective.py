"""What a site minimises in a round: a loss of each record, and terms that no record is in.

One object for every way to train. Plain training takes the mean loss of a batch; record-level
privacy takes each record's gradient by itself, and adds the terms after the noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedlite.objectives import State, Term
from fedlite.scenario import Training
from fedlite.tasks import Loss, Task, loss_of


@dataclass(frozen=True)
class Decay(Term):
    """`strength / 2 |w|^2`: L2 decay."""

    strength: float
    from_records = False

    def add_to(self, gradients: Tensor, values: Tensor, state: State) -> None:
        """Add `strength * w`."""
        gradients.add_(values, alpha=self.strength)


@dataclass(frozen=True)
class Objective:
    """The mean of `loss` over records, and `terms`.

    loss: (outputs of all branches, targets) -> [n], one of each record. per_record: it depends on
    that record alone.

    >>> from fedlite.tasks import make
    >>> plain = Objective.of(make("classification"), Training(exit_weight=0.5, weight_decay=0.1))
    >>> even = torch.zeros(1, 2)
    >>> round(float(plain.loss((even, even), torch.tensor([0]))), 4), len(plain.terms)
    (0.6931, 1)
    """

    loss: Loss
    terms: tuple[Term, ...] = ()
    per_record: bool = True

    @classmethod
    def of(cls, task: Task, training: Training, offsets: Tensor | None = None) -> Objective:
        """Return what a scenario asks for; `offsets` as of `class_offsets`, or None."""
        terms: list[Term] = []
        if training.weight_decay:
            terms.append(Decay(training.weight_decay))
        return cls(loss_of(task, training, offsets), tuple(terms), per_record=offsets is None)

    def begin(self, values: Tensor, kept: tuple[State, ...] = ()) -> tuple[State, ...]:
        """Return the terms' states for a round from `values`, float32 [n]; see `Term.begin`."""
        before = kept or ({},) * len(self.terms)
        return tuple(t.begin(values, s) for t, s in zip(self.terms, before, strict=True))

    def add_terms(self, gradients: Tensor, values: Tensor, states: tuple[State, ...]) -> None:
        """Add all terms' gradients at `values` to `gradients`, both float32 [n], in place."""
        for term, state in zip(self.terms, states, strict=True):
            term.add_to(gradients, values, state)

    def end(
        self, values: Tensor, states: tuple[State, ...], *, steps: int, learning_rate: float
    ) -> tuple[State, ...]:
        """Return what is kept for the next round; see `Term.end`."""
        return tuple(
            term.end(values, state, steps=steps, learning_rate=learning_rate)
            for term, state in zip(self.terms, states, strict=True)
        )

    def check_private(self) -> None:
        """Raise ValueError when it may not be trained under record-level privacy."""
        if not self.per_record:
            raise ValueError(
                "objective.loss: must depend on one record alone under record-level privacy (rule: "
                "a record's gradient must not depend on other records), got one that does not; "
                "leave training.logit_adjustment out"
            )
        for term in self.terms:
            if term.from_records:
                raise ValueError(
                    "objective.terms: must not be made from records in the clear under "
                    "record-level privacy (rule: what is added after the noise may depend on "
                    "public and on noised values only), got "
                    f"{type(term).__name__}; make it from what was released, and say so by "
                    "`from_records = False`"
                )


def class_offsets(labels: Tensor, classes: int) -> Tensor:
    """Return the log of each class's smoothed share of `labels`, float32 [classes].

    Added to the logits in the local loss (Menon et al. 2021, equation 10; for federated label skew
    Zhang et al. 2022, "FedLC"), it leaves the model free of the site's own class frequencies.
    """
    counts = torch.bincount(labels, minlength=classes).float()
    return torch.log((counts + 1.0) / (counts.sum() + classes))
