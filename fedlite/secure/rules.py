"""The rules of a secure sum by name, and the error that names the one that was broken."""

from __future__ import annotations

RULES = {
    "members": "A group has 3 to 100 members with names and keys of their own, each signed.",
    "thresholds": "Twice the least taking part exceeds twice the members less the honest ones.",
    "not-a-member": "Who takes part is in the group, under the keys that it has there.",
    "keys-changed": "A group and its keys stay as they are for a whole run.",
    "split": "Who sums with whom in a round follows from the approved seed, which nobody changes.",
    "unapproved": "A member's key is the one that people approved.",
    "form": "A message has the length and form that are known before it is read.",
    "other-round": "A message belongs to this group, round and model.",
    "one-sum": "A member masks one vector a round, of one model, and never goes back.",
    "order": "Steps of a round come in their order.",
    "shrinking": "A later list of a round is a part of the earlier ones, and holds its reader.",
    "too-few": "With fewer members than planned nothing is opened.",
    "member-list": "Enough members have signed the same list of the same group.",
    "both-masks": "Nobody tells a member's own mask and its pairwise masks of one round.",
    "false-share": "A share that does not fit the others is left out, and its sender named.",
    "range": "Values are whole numbers modulo the group's power of two.",
}


class Refused(ValueError):
    """A message, or what it asks for, breaks a rule; nothing was told.

    rule: one of `RULES`. text: what was found.
    """

    def __init__(self, rule: str, text: str) -> None:
        """Keep the parts."""
        super().__init__(rule, text)
        self.rule, self.text = rule, text

    def __str__(self) -> str:
        """Return one line: rule, text."""
        return f"{self.rule}: {self.text}"
