"""Checks of a shared sum: canaries in all sums of a plan, collusion, grid, masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedlite.attacks.canaries import Dense, Values
from fedlite.attacks.conformance import LEVEL, Test, finding, square_test
from fedlite.attacks.payload import run_bounds
from fedlite.attacks.steps import step_audit
from fedlite.attacks.subject import Subject
from fedlite.attacks.sums import mechanism_of, noise_of, read, sum_release
from fedlite.attacks.verdict import Finding, judge
from fedlite.privacy.shared import summed
from fedlite.privacy.shared.lattice import OWN_ROUNDED, OWN_UNITS
from fedlite.secure import masks
from fedlite.secure.party import Party

SUMS, ALONE = "all sums of the plan", "step, all others collude"
_RUN, _MODEL = bytes(8), bytes(8)


def canary_sums(
    subject: Subject, *, canaries: int, confidence: float, tick: Callable[[str], None]
) -> Finding:
    """Return the finding of canaries that are in every sum of the whole plan, or in none.

    Each is a record, or a site, that its owner moves along with the support, so that no round
    misses it; a record is sampled as all are.
    """
    mechanism, rng = mechanism_of(subject), np.random.default_rng()
    release = sum_release(subject, mechanism.carried)
    planted = Dense.drawn(subject.size, canaries, rng)
    coins, scores = rng.random(planted.count) < 0.5, np.zeros(planted.count)
    for step in range(mechanism.steps):
        taken = coins & (rng.random(planted.count) < mechanism.sampling_rate)
        scores += release(planted, taken) / math.sqrt(mechanism.steps)
        tick(f"{SUMS}: {step + 1} of {mechanism.steps}")
    event, delta = mechanism.event, subject.delta
    figures = run_bounds(
        scores,
        coins,
        event.sampling_rate * math.sqrt(mechanism.steps) / event.noise_multiplier,
        rate=event.sampling_rate,
        steps=mechanism.steps,
        delta=delta,
        significance=1.0 - confidence,
    )
    return Finding(
        SUMS,
        judge(max(figures["f-dp"], figures["steinke"]), subject.proven),
        f"Steinke {figures['steinke']:.2f}, f-DP {figures['f-dp']:.2f}; Gaussian pair "
        f"{figures['gaussian']:.2f}, an estimate; {len(scores):,} canaries in all "
        f"{mechanism.steps} sums",
        "bound",
        figures["f-dp"],
        confidence,
        assumes=f"{mechanism.honest} of {mechanism.sites} sites are honest",
        blind="less than a step audit: faults below a factor of 2 in the noise",
        figures=figures,
    )


def collusion(subject: Subject, **effort: Any) -> Finding:
    """Return the step audit of a sum from which all others have taken their noise off."""
    mechanism = mechanism_of(subject)
    found, _ = step_audit(
        subject,
        release=sum_release(subject, 1),
        event=mechanism.seen_with(1),
        check=ALONE,
        assumes="all other sites collude with the server: the claim is the last row of the table",
        **effort,
    )
    return found


def sum_noise(subject: Subject, steps: int) -> Values:
    """Return noise of sums in units of the plan's, float64 [steps, k], with that of rounding.

    A round and a site of its own for each step, as the sites' own code draws it.
    """
    mechanism = mechanism_of(subject)
    rows = []
    for step in range(steps):
        units = sum(
            noise_of(mechanism, 1, subject.streams(step, site)[1])
            for site in range(mechanism.carried)
        )
        rows.append(read(np.asarray(units), mechanism))
    return np.stack(rows) / (mechanism.noise_std * (OWN_ROUNDED / OWN_UNITS))


def grid(subject: Subject, noise: Values) -> Finding:
    """Test that all that is seen are whole units of the public grid, and that none has wrapped."""
    mechanism = mechanism_of(subject)
    units = noise.ravel() * mechanism.noise_std * (OWN_ROUNDED / OWN_UNITS) / mechanism.unit_width
    most = 2.0 ** (mechanism.bits - 1)
    return finding(
        "grid of sums",
        [
            Test(
                "distance from the grid in units",
                float(np.abs(units - np.rint(units)).max()),
                0,
                1e-6,
            ),
            Test("largest value in units", float(np.abs(units).max()), 0.0, most - 1),
        ],
        f"{units.size:,} values are whole multiples of {mechanism.unit_width:.3g}, none beyond "
        f"{mechanism.bits} bits",
        assumes="",
        blind="what rounding costs, which the proof of the grid bounds",
    )


def under_masks(subject: Subject) -> Finding:
    """Sum real contributions by the real protocol: the sum is the plain one, a vector uniform bits.

    Once with all members, and, where one may be missing, once without the last.
    """
    mechanism = mechanism_of(subject)
    # Of one group, where a round has several: all are alike.
    members, least, honest = mechanism.summed
    names = [f"site-{number:03d}" for number in range(members)]
    party = Party.of(
        _RUN,
        {name: Ed25519PrivateKey.generate() for name in names},
        least=least,
        honest=honest,
    )
    size, bits = mechanism.coordinates, mechanism.bits
    tests, packed = [], b""
    for number, present in enumerate(sorted({members, least}, reverse=True), 1):
        bodies, plain = {}, np.zeros(size, np.int64)
        for place, name in enumerate(names[:present]):
            units = noise_of(mechanism, 1, subject.streams(number, place)[1])
            bodies[name] = party.mask(name, number, _MODEL, summed.residues(units, bits), bits)
            packed += bodies[name][-masks.packed_bytes(size, bits) :][:-1]
            plain += units
        total = party.sum(bodies, number, _MODEL, size, bits)
        wrong = float((total != summed.residues(plain, bits)).sum())
        tests.append(Test(f"values that differ with {present} there", wrong, 0.0, 0.0))
    seen = np.bincount(np.frombuffer(packed, np.uint8), minlength=256)
    expected = len(packed) / 256
    squares = float(((seen - expected) ** 2 / expected).sum())
    tests.append(square_test("bytes under masks", squares, 255, LEVEL))
    return finding(
        "under masks",
        tests,
        f"the secure sum of {members} members is the plain sum; {len(packed):,} bytes of "
        "single vectors are uniform",
        assumes="X25519, HKDF and ChaCha20 are what they are taken for",
        blind="a server or member that departs from the protocol; see tests/secure",
    )
