"""What an audit can find: the issue, and for every rule what it means and what to do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from fedlite.privacy.ledger import rules


@dataclass(frozen=True)
class Issue:
    """One thing that an auditor should know.

    rule: a key of `AUDIT_RULES`, or a rule of ledgers (`fedlite.privacy.ledger.rules`, `Account`).
    text: what was found. path: in which file. site: whose, "" where nobody's. row: the ledger's
    row or the line of another file, from 0. severity: a "finding" makes the audit fail; so does
    what is "unchecked", without saying that anything is wrong; a "note" is something to look at, or
    something that by nature could not be checked.
    """

    rule: str
    text: str
    path: str
    site: str = ""
    row: int | None = None
    severity: Literal["finding", "unchecked", "note"] = "finding"

    def as_note(self) -> Issue:
        """Return the same as a note."""
        return replace(self, severity="note")


_ASK_SITE = "Ask the site for the ledger as its own machine holds it, and for an explanation."
_ASK_BOTH = "Keep both files as they are, and ask the site and the server for an explanation."
_CHAIN = (
    "Ask the site for the ledger as its own machine holds it. If that is damaged too, what it "
    "spent after the last good row is unknown: take its ceiling as spent."
)
_GIVE = "Give the audit the right path, or make the file readable, and audit again."

AUDIT_RULES: dict[str, tuple[str, str]] = {
    "unreadable": (
        "Something that was named could not be read, so nothing is known about it.",
        _GIVE,
    ),
    "no-ledger": (
        "There is no ledger here, so nothing was recorded that could be recomputed.",
        "Give a ledger, a run directory or a site directory. If this is one, ask whether it has "
        "taken part in a private run, and where its ledger went.",
    ),
    "ledger-missing": (
        "The site took part in a private run, and its ledger is not among what was given.",
        "Ask the site for its ledger. Without it, take the run's whole plan as spent.",
    ),
    "ledger-replaced": (
        "The server saw another ledger than this one: the site began a new one, or gave a false "
        "one. What the old one had recorded as spent is missing here.",
        _ASK_SITE + " The spending of both ledgers adds up.",
    ),
    "truncated": (
        "The server has seen later rows of this ledger than it has now: its end was cut off, or "
        "an old copy was restored.",
        _ASK_SITE + " Until then, take its ceiling as spent.",
    ),
    "fork": (
        "One ledger has two different histories: it was rewritten, or the site's machine was "
        "cloned or restored and both copies went on. Both may have spent.",
        _ASK_BOTH + " The spending of both histories adds up.",
    ),
    "wrong-site": (
        "The ledger is by its own first row that of another site or data set than the place where "
        "it lies says.",
        "Look for exchanged or renamed files, and ask the site.",
    ),
    "unrecorded-release": (
        "The server received something of which the ledger holds no release row before it: "
        "something left the site that was not accounted for.",
        _ASK_BOTH + " What was sent is out; take the run's whole plan as spent.",
    ),
    "other-round": (
        "A payload is recorded at the site for another run or round than the server received it "
        "in.",
        _ASK_BOTH,
    ),
    "witness-missing": (
        "A run whose sites keep ledgers has no witness.jsonl, so nothing shows that these ledgers "
        "are whole.",
        "Ask the server's operator for the file.",
    ),
    "witness-missing-line": (
        "The server's own signature shows that it saw something of which its witness.jsonl holds "
        "no line: lines were removed, or the file was written anew.",
        "Ask the server's operator for the whole file. Do not rely on this one.",
    ),
    "witness-broken": (
        "A line of witness.jsonl does not follow the one before it: lines were removed, added or "
        "put in another order.",
        "Ask the server's operator for the whole file. Do not rely on this one.",
    ),
    "other-witness": (
        "It was signed with another key than those that you gave, or that the site's own policy "
        "lists: it is of another server, or was made anew by somebody who has not the server's "
        "key.",
        "Compare the key with the one that the server's operator has published, or that the sites "
        "list. If it is not his, rely on nothing in this run directory.",
    ),
    "not-closed": (
        "No closing line of the server vouches for this run: it is running, has crashed, was made "
        "by an older fedlite, or its files were cut short. What is missing could not be seen.",
        "Let the run end, or resume it. If it has ended, ask the server's operator for its "
        "original files, and take every site's whole plan as spent.",
    ),
    "closed-otherwise": (
        "What lies here is not what the server signed when it closed the run: a file was changed, "
        "replaced or removed, or a site was taken out.",
        "Ask the server's operator for the original files. Do not rely on this copy.",
    ),
    "scenario-missing": (
        "The run's scenario.toml is not here, and with it what the summary has to agree with.",
        "Ask the server's operator for the file.",
    ),
    "rounds-mismatch": (
        "The record of the rounds does not hold the rounds that the summary, the server's lines or "
        "a ledger speak of.",
        "Ask the server's operator for the original files.",
    ),
    "not-arrived": (
        "A site released updates that the server never saw. That happens when a connection breaks "
        "or a deadline passes; they count as spent.",
        "Nothing, unless it happens often: then ask who else may have received them.",
    ),
    "witness-forged": (
        "A line was not signed by the server it names, or holds a head that the site's key has "
        "not signed.",
        "Do not rely on this file. Ask the server's operator for the original.",
    ),
    "witness-damaged": (
        "A line cannot be read as one that the server wrote.",
        "Ask the server's operator for the original file.",
    ),
    "refused-regress": (
        "The server was shown an older head than it had seen before, and refused it: the site's "
        "ledger was cut short or restored from an old copy at that time.",
        _ASK_SITE,
    ),
    "refused-fork": (
        "The server was shown another row under a number that it had already seen, and refused "
        "it: the site's ledger was rewritten, or its machine was cloned.",
        _ASK_BOTH + " If the site's key signed both rows, that is proof.",
    ),
    "refused-new-ledger": (
        "The server was shown another ledger, or none, by a site whose ledger it knew, and "
        "refused it: the site forgot what it had spent.",
        _ASK_SITE,
    ),
    "refused-forged": (
        "The server was shown a head that the site's key had not signed, and refused it.",
        "Ask the server's operator who else could speak in the site's name, and the site whether "
        "it has lost or changed its key.",
    ),
    "refused-other": (
        "The server refused an update because it came without a ledger head that it could check.",
        "Ask the site whether it ran the same fedlite as the server.",
    ),
    "plan-above-ceiling": (
        "A plan costs more than the ceiling that was in force when it was admitted; whoever holds "
        "the site's key has written it past the rules.",
        "Ask the site's data owner. The ceiling printed here does not hold for this ledger.",
    ),
    "plan-above-run-ceiling": (
        "A plan costs more than the site allows a single run.",
        "Ask the site's data owner.",
    ),
    "plan-honest": (
        "A plan takes more others for honest than the policy in force trusts, or steps were "
        "reserved after that trust was taken back.",
        "Ask the site's data owner. Take the figure if all others collude.",
    ),
    "plan-above-alone": (
        "A plan costs more than the site allows if all others collude with the server, or its row "
        "says so.",
        "Ask the site's data owner. The ceiling for collusion does not hold for this ledger.",
    ),
    "members-differ": (
        "Two sites committed to different members, honest ones or noise for one run: they were "
        "shown different lists, or one of the ledgers was written past the rules.",
        "Ask both sites for the bundle that they approved. No epsilon of this run that counts on "
        "others may be cited: take the figure if all others collude.",
    ),
    "member-key": (
        "A run names another key for a member than those that sign the member's own ledger: "
        "somebody else may have been that member.",
        "Compare the key with the member's operator. If it is not his, take the figure if all "
        "others collude.",
    ),
    "reserve-above-ceiling": (
        "After the ceiling was lowered, more steps were reserved than fit under it.",
        "Ask the site's data owner.",
    ),
    "person-above-ceiling": (
        "Over all data sets of the site together, a person may have lost more than the site's "
        "ceiling for a person.",
        "Ask the site's data owner.",
    ),
    "charge-understated": (
        "The ledger says that a plan costs less than it does.",
        "Use the recomputed figure, and ask what wrote that row.",
    ),
    "summary-understates": (
        "The run's summary claims less privacy loss, or fewer releases, than the ledger records.",
        "Do not cite the summary. The figures of the ledger are in the table.",
    ),
    "summary-mismatch": (
        "The run's summary names another mechanism than the site's ledger committed to before the "
        "first step.",
        "Do not cite the summary. Ask the server's operator which scenario was run.",
    ),
    "summary-damaged": (
        "The run's summary cannot be read, so its claims could not be checked.",
        "Ask the server's operator for the original file.",
    ),
    "rounds-damaged": (
        "The run's rounds cannot be read, so they could not be compared.",
        "Ask the server's operator for the original file.",
    ),
    "accountants-disagree": (
        "Independent libraries contradict each other about what this costs, beyond their stated "
        "errors: at least one of them is wrong.",
        "Take the largest figure. Report the parameters to the makers of the libraries.",
    ),
    "not-computed": (
        "An accountant could not be run, so its column is empty.",
        "Install the library that the text names, and audit again.",
    ),
    "clock-jump": (
        "The clock of the site ran back by minutes or more between two rows, as it does when a "
        "machine is restored from a snapshot.",
        "Ask the site. The order of the rows does not depend on the clock.",
    ),
    "poisoned": (
        "A write or flush failed at the site, and nobody has yet verified what its disk holds.",
        "Ask the site to recover the ledger; until then its last rows may be missing.",
    ),
    "not-audited": ("It lies there, and was not looked at.", "Nothing, if you know what it is."),
    "not-witnessed": (
        "No server's record of this ledger's head was given. A ledger alone cannot show that its "
        "end was not cut off, or that it was not written anew with its own key.",
        "Give the audit the run directory as well.",
    ),
    "not-claimed": ("The run claims no privacy.", "Nothing: no epsilon of it may be cited."),
    "nothing-to-audit": ("The run has no privacy unit.", "Nothing."),
    "not-compared": ("Something could not be compared with what was given.", _GIVE),
    "ceiling-lowered": (
        "The ceiling was lowered after more than that had been charged; that is allowed, and "
        "nothing more will be admitted.",
        "Nothing.",
    ),
    "server-key": (
        "Whose witness key this is cannot be seen from the files.",
        "Compare it with the key that the server's operator has published.",
    ),
}

# What the account says of a row that contradicts those before it.
_ACCOUNT = {
    "plan-bound": "The first plan is charged by PLD, every later one by the Renyi filter; PLD is "
    "not valid for plans that may have been chosen with earlier releases in view.",
    "plan-terms": "A plan's terms are those of its unit: a client's has neither sampling nor "
    "batches, a record's has its public batch.",
    "plan-above-asked": "A plan has at most the steps that were asked for.",
    "plan-unit": "A plan protects a unit that the policy in force allows.",
    "plan-not-a-member": "A site that shares noise is among the members that its plan names.",
    "plan-run-twice": "A run has one plan, committed before its first step.",
    "reserve-unknown-plan": "Steps are reserved under a plan that was committed before.",
    "reserve-other-run": "Steps are reserved under the plan of their own run.",
    "plan-overspent": "No more steps are reserved than the plan has.",
    "settle-without-reserve": "What was run had been reserved before.",
    "settle-twice": "A reservation is settled once.",
    "settle-above-reserve": "No more steps are run than were reserved.",
    "release-without-reserve": "What is released had been reserved before.",
    "release-unsettled": "What is released was settled before.",
    "release-mismatch": "What is released is what was settled.",
    "release-twice": "A reservation releases once.",
    "refuse-twice": "A refusal of a run is recorded once for each reason.",
    "witness-not-listed": "Only servers that the policy in force names, if it names any, have "
    "signed the ledger's head.",
}

_LEDGER_MENDS = {
    "not-a-ledger": _GIVE,
    "empty": "Ask the site for the ledger; an empty file is what a failed copy leaves.",
    "newer-version": "Update fedlite, and audit again.",
    "grant": "Ask the data owner whether this change was allowed.",
    "torn-line": "Nothing: the site mends it when it next opens the ledger.",
    "clock": "Nothing, unless it happens often.",
    "too-many": "Mend or replace the file first.",
}


def means(rule: str) -> str:
    """Return what a rule says, in one or two sentences."""
    if rule in AUDIT_RULES:
        return AUDIT_RULES[rule][0]
    return _ACCOUNT.get(rule) or rules.RULES.get(rule, "A rule of the ledger is broken.")


def mend(rule: str) -> str:
    """Return what an auditor should do about it."""
    if rule in AUDIT_RULES:
        return AUDIT_RULES[rule][1]
    return _LEDGER_MENDS.get(rule, _CHAIN if rule in rules.RULES else _ASK_SITE)
