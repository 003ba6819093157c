"""The bit audit: what a release tells whoever looks at its bits instead of its values.

Noise of float32 from torch fails each of these: it does not lie on a grid that the data cannot
move (Mironov 2012), its angles lie on a lattice of 2^24 that shows which clean sum fits, its tails
end at 5.768 deviations, and its generator can be solved for (`fedlite.attacks.twister`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import binom, norm

from fedlite.attacks import twister
from fedlite.attacks.canaries import Values
from fedlite.attacks.conformance import LEVEL, Test, finding, square_test
from fedlite.attacks.verdict import Finding

Draw = Callable[[Values], Values]
"""The mechanism's last step: a clean sum, float64 [n], to what is released."""

_LOW_BITS = 6
_TAILS = (3.0, 4.0, 4.5, 5.0)
# Equations beyond the generator's 19,937 bits: each is contradicted with one half.
_SPARE = 363
_EDGE = 5.768  # where torch's tails end: sqrt(2 ln 2^24)


def grid(released: Values, width: float) -> Finding:
    """Test that all values are multiples of the public grid, and that their low bits are uniform.

    released: float64, any shape; width: of the grid. The cells are even: a discrete Gaussian of a
    deviation of hundreds of cells is uniform on their low bits to within 1e-100.
    """
    cells = released.ravel() / width
    whole = np.rint(cells)
    off = float(np.abs(cells - whole).max())
    numbers = whole.astype(np.int64)
    count = 1 << _LOW_BITS
    seen = np.bincount(numbers & (count - 1), minlength=count)
    expected = len(numbers) / count
    tests = [
        Test("distance from the grid in cells", off, 0.0, 1e-3),
        square_test("low bits", float(((seen - expected) ** 2 / expected).sum()), count - 1, LEVEL),
    ]
    return finding(
        "grid and low bits",
        tests,
        f"{len(numbers):,} values are whole multiples of {width:.3g}, {_LOW_BITS} low bits uniform",
        assumes="",
        blind="bits above them, which the step audit sees",
    )


def tails(draw: Callable[[int], Values], count: int) -> Finding:
    """Test how many of `count` unit normals lie far out.

    draw: so many values in deviations. torch's end at 5.768 deviations; a billion values would be
    needed to see eight beyond it, so what is tested is the rate up to 5.
    """
    beyond = dict.fromkeys((*_TAILS, _EDGE), 0)
    done, largest = 0, 0.0
    while done < count:
        values = np.abs(draw(min(1_000_000, count - done)))
        done += len(values)
        largest = max(largest, float(values.max()))
        for edge in beyond:
            beyond[edge] += int((values > edge).sum())
    tests = []
    for edge, seen in beyond.items():
        chance = 2 * float(norm.sf(edge))
        low, high = binom.ppf(LEVEL / 10, done, chance), binom.isf(LEVEL / 10, done, chance)
        tests.append(Test(f"values beyond {edge:g}", seen, float(low), float(high)))
    return finding(
        "tails",
        tests,
        f"{beyond[5.0]} of {done:,} values beyond 5 deviations, "
        f"{2 * float(norm.sf(5.0)) * done:.1f} expected; the largest {largest:.2f}",
        assumes="",
        blind=f"what happens less than once in {done:.0e} values",
    )


def angle_lattice(noise: Values) -> float:
    """Return how well `noise` fits the angles that torch's Box-Muller can draw: 0 is at chance.

    noise: float64 [n] in deviations, n a multiple of 16. An angle is one of 2^24; float32 keeps
    enough digits of sine and cosine to see which, so the mean cosine of the angle's place between
    two of them is about 0.3 under the right clean sum and 0 under every other.
    """
    pairs = noise[: len(noise) - len(noise) % 16].reshape(-1, 2, 8)
    place = np.arctan2(pairs[:, 1], pairs[:, 0]) / (2 * np.pi) % 1.0 * 2.0**24
    return float(np.cos(2 * np.pi * place).mean())


def told_apart(
    draw: Draw, without: Values, record: Values, trials: int, rng: np.random.Generator
) -> int:
    """Return in how many trials a release told whether the record was in the sum.

    without, record: float64 [n], the clean sum in deviations of the noise, and what one record adds
    to it. Whoever attacks knows both and guesses by `angle_lattice`.
    """
    right = 0
    for inside in rng.random(trials) < 0.5:
        seen = draw(without + record if inside else without)
        guess = angle_lattice(seen - without - record) > angle_lattice(seen - without)
        right += int(guess == inside)
    return right


def adjacent(
    draw: Draw, without: Values, record: Values, trials: int, rng: np.random.Generator
) -> Finding:
    """Test that the lattice attack (`told_apart`) is at chance."""
    right = told_apart(draw, without, record, trials, rng)
    # What the values themselves tell: the best test of a shift by mu is right with Phi(mu / 2).
    chance = float(norm.cdf(float(np.linalg.norm(record)) / 2))
    high = float(binom.isf(LEVEL, trials, chance))
    return finding(
        "low bits of one record",
        [Test("right guesses", right, 0.0, high)],
        f"with and without a record told apart by low bits in {right:,} of {trials:,} trials; "
        f"{trials / 2:,.0f} is chance",
        assumes="noise by Box-Muller over 24 bits",
        blind="lattices of another shape",
    )


def generator(
    noise: Values, doubt: float, sizes: Sequence[int], rng: np.random.Generator
) -> Finding:
    """Test that a release's noise is not a Mersenne Twister's, by solving for its state.

    noise: float64 [n] in deviations; doubt: what is not known of the clean sum, in deviations. The
    equations contradict each other unless the noise is torch's.
    """
    wanted = twister.UNKNOWNS - 31 + _SPARE
    if min(sizes) < 16:
        return Finding(
            "generator",
            "not checked",
            "torch draws tensors of fewer than 16 values in another way, which this attack "
            "does not follow",
        )
    certain = twister.certain_bits(noise, np.full(len(noise), doubt), sizes)
    if len(certain.value) < wanted:
        return Finding(
            "generator",
            "not checked",
            f"{len(certain.value):,} certain bits, {wanted:,} needed: the model is too small for "
            "one release to give a Mersenne Twister's state away",
        )
    kept = np.sort(rng.permutation(len(certain.value))[:wanted])
    certain = twister.Certain(certain.output[kept], certain.bit[kept], certain.value[kept])
    solution = twister.solve(*twister.equations(certain))
    solved = float(solution.state is not None)
    return finding(
        "generator",
        [Test("states that fit", solved, 0.0, 0.0)],
        f"no Mersenne Twister has drawn it: {wanted:,} equations contradict each other; chance of "
        f"that being luck 2^-{solution.spare}",
        assumes="torch's order of drawing, one step a release",
        blind="other generators",
    )


def record_direction(size: int, mu: float, rng: np.random.Generator) -> Values:
    """Return a dense record's clipped gradient in deviations of the noise: length `mu`."""
    direction = rng.standard_normal(size)
    return direction * (mu / math.sqrt(float((direction**2).sum())))
