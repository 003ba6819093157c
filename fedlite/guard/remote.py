"""The guardian as approved code sees it: a pipe to the site's own process, and one question.

It may ask that the steps of the round be written down, once a message. Everything else it leaves to
that process, which takes nothing from here at its word.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from fedlite.flower import wire
from fedlite.guard import egress
from fedlite.guard.guardian import Decline
from fedlite.guard.pipe import Pipe
from fedlite.messages import Code, Hello, Instruction, LedgerHead, Reply
from fedlite.secure.messages import Note

# First byte of a frame. To the worker: a message, or the answer to its question. From it: the
# question, or its answer: bytes, or that it declines, and the code.
MESSAGE, GRANTED, DECLINED = b"m", b"g", b"d"
RESERVE, ANSWER = b"r", b"a"


# The pipe of this process, where it is one of approved code.
_pipe: Pipe | None = None


@dataclass(frozen=True)
class Remote:
    """Asks through `pipe`."""

    pipe: Pipe

    def for_counts(self) -> Remote:
        """Return itself: by the message's kind the site's own process knows what is asked for."""
        return self

    def held(self) -> AbstractContextManager[None]:
        """Return what holds nothing: the ledger is not here."""
        return nullcontext()

    def admit(self, instruction: Instruction) -> None:
        """Do nothing: what came here was admitted."""

    def reserve(self, instruction: Instruction, group: object = None) -> None:
        """Ask that the steps of this round be written down; raises Decline when they are not."""
        self.pipe.send(RESERVE)
        said = self.pipe.receive()
        if said != GRANTED:
            code = Code(said[1:].decode("ascii"))
            raise Decline(code, "the site's own process did not reserve this round")

    def release(self, instruction: Instruction, frame: bytes) -> LedgerHead | None:
        """Return nothing: the site's own process writes down what leaves, and adds the head."""
        return None

    def head(self) -> tuple[LedgerHead | None, tuple[str, ...]]:
        """Return nothing: the site's own process adds it."""
        return None, ()

    def send(self, outgoing: Hello | Reply | Note, message: wire.Message) -> wire.Message:
        """Return what the site's own process is to send; no step of a sum, which it makes itself.

        Raises Decline.
        """
        if isinstance(outgoing, Note):
            raise Decline(Code.POLICY, "steps of a secure sum are not for approved code to make")
        return egress.hand_over(outgoing, message)


def connect(pipe: Pipe) -> None:
    """Say by which pipe this process, of approved code from here on, asks its site's own."""
    global _pipe
    _pipe = pipe


def of_this_process() -> Remote:
    """Return who is asked here; raises ValueError in a process that is not one of approved code."""
    if _pipe is None:
        raise ValueError("guardian: is asked in a process that `fedlite site start` began, only")
    return Remote(_pipe)
