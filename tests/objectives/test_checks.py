"""What is wrong with an objective of one's own is named before a run, with file and line.

Covers fedlite/objectives/base.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from fedlite import plan as plans
from fedlite.objectives import OBJECTIVES, Term, check, make
from fedlite.scenario import from_dict

STATE = Mapping[str, Tensor]


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_the_objectives_of_the_house_can_be_used(name: str) -> None:
    term = make(name)
    assert (term is None) == (name == "plain")
    if term is not None:
        check(term, name, 5)
        assert repr(term) == repr(make(name))


@pytest.mark.parametrize(
    ("make_one", "why"),
    [
        ("fedprox", "mu: must be greater than 0 and finite"),
        ("feddyn", "alpha: must be greater than 0 and finite"),
    ],
)
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_a_strength_that_is_none_is_refused(make_one: str, why: str, value: float) -> None:
    option = why.split(":")[0]
    with pytest.raises(ValueError, match=why):
        OBJECTIVES[make_one](**{option: value})


class Fine(Term):
    def add_to(self, gradients: Tensor, values: Tensor, state: STATE) -> None:
        gradients.add_(values)


class Nan(Fine):
    def add_to(self, gradients: Tensor, values: Tensor, state: STATE) -> None:
        gradients.div_(0)


class Half(Fine):
    def end(self, values: Tensor, state: STATE, *, steps: int, learning_rate: float) -> STATE:
        return {"half": values.half()}


class Number(Fine):
    def end(self, values: Tensor, state: STATE, *, steps: int, learning_rate: float) -> STATE:
        return {"norm": float(values.norm())}  # type: ignore[dict-item]


class Nothing(Fine):
    def end(self, values: Tensor, state: STATE, *, steps: int, learning_rate: float) -> STATE:
        return None  # type: ignore[return-value]


class Owner(Fine):
    def end(self, values: Tensor, state: STATE, *, steps: int, learning_rate: float) -> STATE:
        return {"own.x": values}


class Silent(Fine):
    extras = ("x",)


class Short(Silent):
    def end(self, values: Tensor, state: STATE, *, steps: int, learning_rate: float) -> STATE:
        return {"x": values[1:]}


class Later(Fine):
    def begin(self, values: Tensor, kept: STATE) -> STATE:
        return {"sum": kept["first"]} if kept else {}

    def end(self, values: Tensor, state: STATE, *, steps: int, learning_rate: float) -> STATE:
        return {"second": values}


@pytest.mark.parametrize(
    ("term", "why"),
    [
        (Nan(), r"must add finite values .*float32 \[5\], in place, got float32 \[5\]"),
        (Half(), "by names that do not begin with 'own.' from `end`, got 'half': float16"),
        (Number(), "must return tensors .*, got 'norm': 3|1"),
        (Nothing(), "must return tensors .*, got '': None"),
        (Owner(), "got 'own.x': float32"),
        (Silent(), "must return the change of its extra 'x'"),
        (Short(), r"must return the change of its extra 'x', float32 \[5\], .*got float32 \[4\]"),
        (
            Later(),
            r"fails in its second round \(KeyError: 'first'\); mend .*test_checks.py, line",
        ),
    ],
)
def test_a_term_that_cannot_be_used_is_named(term: Term, why: str) -> None:
    with pytest.raises(ValueError, match=rf"training\.objective: 'mine' .*{why}"):
        check(term, "mine", 5)


BROKEN = """from fedlite.objectives import Term


class Mine(Term):
    def add_to(self, gradients, values, state):
        gradients.add_(values[1:])


def term():
    return Mine()


def number():
    return 7


def raises():
    raise RuntimeError("no luck")
"""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("term", r"fails in its first round \(RuntimeError: .*\); mend .*mine.py, line 6"),
        ("number", r"must make a fedlite.objectives.Term, got 7"),
        ("raises", r"fails \(RuntimeError: no luck\); mend .*mine.py, line 18"),
        ("nobody", r"has no 'nobody'"),
    ],
)
def test_a_file_of_ones_own_is_held_to_the_line(tmp_path: Path, name: str, why: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(BROKEN)
    scenario = from_dict({"model": {"name": "mlp"}, "training": {"objective": f"{file}:{name}"}})
    with pytest.raises(ValueError, match=why):
        plans.of(scenario, (1, 8, 8), 10).check_model()


def test_an_objective_that_sends_more_is_refused_where_an_update_is_private() -> None:
    scenario = from_dict({"privacy": {"unit": "client"}, "training": {"objective": "plain"}})
    private = replace(scenario, training=replace(scenario.training, objective="scaffold"))
    with pytest.raises(ValueError, match=r"the mechanism covers one vector.*sends control"):
        plans.of(private, (1, 8, 8), 10)


def test_a_name_that_is_nearly_right_is_told() -> None:
    with pytest.raises(ValueError, match=r"training\.objective: .*did you mean fedprox\?"):
        make("fedprx")
