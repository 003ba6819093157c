"""Work that asks for parts of it to be made, so that whoever runs several may make them at once."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


class Step(Protocol):
    """Something that a site asks for in a round: its share of training, or its bytes."""

    def alone(self) -> Any:
        """Return it, made for this site by itself."""
        ...


def alone(steps: Generator[Step, Any, Answer]) -> Answer:
    """Return what `steps` comes to, each thing that it asks for made by itself."""
    try:
        asked = next(steps)
        while True:
            try:
                made = asked.alone()
            except Exception as error:  # raised where it was asked for
                asked = steps.throw(error)
            else:
                asked = steps.send(made)
    except StopIteration as ended:
        answer: Answer = ended.value
        return answer


def by_itself(steps: Callable[Given, Generator[Any, Any, Answer]]) -> Callable[Given, Answer]:
    """Return what does the work of `steps` at once, with `alone`."""

    @wraps(steps)
    def done(*given: Given.args, **more: Given.kwargs) -> Answer:
        return alone(steps(*given, **more))

    return done
