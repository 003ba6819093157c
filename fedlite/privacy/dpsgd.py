"""Record-level DP-SGD through Opacus: ghost clipping, our own Poisson sampler, OS entropy.

Ghost clipping (Li et al. 2021; Opacus's fast gradient clipping) takes per-record gradient norms
without building per-record gradients: two backward passes instead of one large tensor.
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fedlite.privacy.mechanism import RecordMechanism

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

# Where torch keeps the generator's 624 words of 32 bits, each in 8 bytes, in its state.
_MT_WORDS = slice(24, 24 + 8 * 624)


def entropy(
    simulate_seed: int, *keys: int, device: torch.device | str = "cpu"
) -> tuple[np.random.Generator, torch.Generator]:
    """Return the generators for sampling and, on `device`, for noise.

    Both are seeded by the operating system, so that nobody (least of all a server that knows the
    scenario's seed) can repeat and subtract the noise. Only `simulate_seed` >= 0 makes them
    repeatable from the seed and `keys`; a run that does so may not claim privacy.
    """
    if simulate_seed >= 0:
        sequence = np.random.SeedSequence([simulate_seed, *keys])
        sampling, noise = sequence.spawn(2)
        seed = int(noise.generate_state(1, np.uint64)[0])
        return np.random.default_rng(sampling), torch.Generator(device=device).manual_seed(seed)
    generator = torch.Generator(device=device).manual_seed(secrets.randbits(64))
    if generator.device.type == "cpu":
        _fill(generator)
    return np.random.default_rng(secrets.randbits(256)), generator


def _fill(generator: torch.Generator) -> None:
    """Replace all 624 words of a CPU generator's Mersenne Twister by the system's entropy.

    torch seeds it with the low 32 bits of a seed only: an adversary could try them all, and
    subtract the noise that fits.
    """
    state = generator.get_state()
    words = state[_MT_WORDS].view(torch.int64)
    words.copy_(torch.frombuffer(bytearray(secrets.token_bytes(4 * 624)), dtype=torch.uint32))
    generator.set_state(state)


def check_model(model: nn.Module) -> None:
    """Raise ValueError when per-record gradients of `model` are not defined (BatchNorm)."""
    from opacus.validators import ModuleValidator

    errors = ModuleValidator.validate(model, strict=False)
    if errors:
        raise ValueError(
            "model: not allowed under record-level privacy (rule: a record's gradient must not "
            f"depend on other records): {errors[0]}; use GroupNorm"
        )


def train(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    loss: Loss,
    mechanism: RecordMechanism,
    *,
    steps: int,
    learning_rate: float,
    sampler: np.random.Generator,
    noise: torch.Generator,
) -> None:
    """Run `steps` noised steps of plain SGD on `model`, in place.

    inputs: [n, ...] float32; labels: [n] int64; loss(exit_logits, deep_logits, labels) -> [n].
    The privacy unit is one row of `inputs`. An empty Poisson sample is still a step: it adds noise
    and is counted. A record whose gradient is not finite counts as zero. A sample larger than
    `mechanism.max_batch` is cut to it at random. Plain SGD only: a momentum buffer would have to be
    accounted with the state that a site keeps between rounds.

    Raises ValueError when the model mixes records, and when there are more rows than the records
    that the cost of the cap was computed for.
    """
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

    check_model(model)
    if mechanism.max_batch and len(labels) > mechanism.max_records:
        raise ValueError(
            "max_records: must be at least the records of this site, because the cost of max_batch "
            f"is computed from it, got {mechanism.max_records} for {len(labels)} records"
        )
    model.train()
    # strict=False: the fixed public filters are buffers, which strict mode takes for BatchNorm's.
    wrapped = GradSampleModuleFastGradientClipping(
        model, max_grad_norm=mechanism.clip, loss_reduction="sum", strict=False
    )
    try:
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = DPOptimizerFastGradientClipping(
            torch.optim.SGD(trained, lr=learning_rate),
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.sensitivity,
            expected_batch_size=mechanism.expected_batch,
            loss_reduction="mean",
            generator=noise,
        )
        for _ in range(steps):
            rows = poisson_sample(
                len(labels), mechanism.sampling_rate, sampler, mechanism.max_batch
            )
            chosen, usable = torch.from_numpy(rows).to(labels.device), None
            # A record whose gradient is not finite (a hostile model can choose which) counts as
            # zero: else the whole step would fail for it, and the failure tell that it is there.
            while usable is None or not usable.all():
                chosen = chosen if usable is None else chosen[usable]
                optimizer.zero_grad(set_to_none=True)
                wrapped.enable_hooks()
                with warnings.catch_warnings():
                    # The inputs need no gradient; torch warns about that for full backward hooks.
                    warnings.simplefilter("ignore", UserWarning)
                    shallow, deep = wrapped(inputs[chosen])
                    losses = loss(shallow, deep, labels[chosen])
                    DPTensorFastGradientClipping(wrapped, optimizer, losses, "sum").backward()
                usable = torch.isfinite(wrapped.per_sample_gradient_norms) & torch.isfinite(losses)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    finally:
        wrapped.to_standard_module()


def poisson_sample(n: int, rate: float, sampler: np.random.Generator, cap: int = 0) -> np.ndarray:
    """Return the ascending indices of a Poisson sample: each of `n` rows independently with `rate`.

    A sample of more than `cap` rows is cut to a random subset of `cap`; 0 never cuts. What cutting
    costs is `fedlite.privacy.mechanism.cut_slack`. Any other sampler (a shuffled loader, batches of
    a fixed size) may not be accounted with `rate`.
    """
    chosen = np.arange(n) if rate == 1.0 else np.flatnonzero(sampler.random(n) < rate)
    if 0 < cap < len(chosen):
        chosen = np.sort(sampler.choice(chosen, cap, replace=False))
    return chosen
