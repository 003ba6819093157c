"""Adapters on a frozen transformer: which low-rank values are trained, and which are only there.

An adapted layer computes `W x + s B A x`, W [out, in] frozen, A [r, in], B [out, r], s = alpha / r
(Hu et al. 2021, equation 3). What of it is trained is a method:

both: A and B. The mean of the sites' products is not the product of the means.
frozen-a: B only, under a random A that is public (Sun et al. 2024, "FFA-LoRA"): the product is
    linear in what is trained, so that averaging is exact and noise is not squared.
alternating: A and B as in both, B alone in odd rounds and A alone in even ones (Chen et al. 2024,
    arXiv 2502.01755, "RoLoRA"): in each round the product is linear in what moves, so that
    averaging is exact. B goes first: as long as it is zero A has no gradient.
sb: only R [r, r] in `B R A`, B and A being the first singular vectors of W (Ponkshe et al. 2025,
    arXiv 2502.15436, with the basis of Balazy et al. 2024, "LoRA-XS", which no record has a part
    in). Averaging is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fedlite.models.fixed import public_normal
from fedlite.models.pretrained.network import check_layers

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

METHODS = ("both", "frozen-a", "alternating", "sb")
NAME = "default"


def adapt(
    network: Any,
    method: str,
    *,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    layers: Sequence[int],
) -> None:
    """Put adapters on `network` in place and freeze what the method does not train.

    method: one of `METHODS`. rank: at least 1. alpha: the adapters' factor is alpha / rank; 0 is
    2 rank. targets: modules that are adapted, by the last part of their names; none: those that
    peft knows for such a network. layers: which layers are adapted, from 1; none: all.

    Raises ValueError for a target, a layer or a rank that the network does not have; the message
    says which there are.
    """
    from peft import LoraConfig, inject_adapter_in_model

    kind = network.config.model_type
    check_layers(network, "layers", layers)
    wanted = list(targets) or _usual(kind)
    there = _linear(network)
    missing = [name for name in wanted if name not in there]
    if missing or not wanted:
        raise ValueError(
            f"model.options.targets: must be modules of the base, got "
            f"{', '.join(missing) or 'none, and peft knows none for ' + repr(kind)}; there are "
            f"{', '.join(sorted(there))}"
        )
    most = min(there[name] for name in wanted)
    if not 1 <= rank <= most:
        raise ValueError(
            f"model.options.rank: must be from 1 to {most}, the narrowest of {', '.join(wanted)}, "
            f"got {rank}; 8 is usual"
        )
    if alpha < 0:
        raise ValueError(f"model.options.alpha: must be at least 0, got {alpha:g}; 0 is 2 rank")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha or 2.0 * rank,
        target_modules=wanted,
        layers_to_transform=[number - 1 for number in layers] or None,
        bias="none",
        # GPT-2 keeps its weights the other way round.
        fan_in_fan_out=kind == "gpt2",
    )
    inject_adapter_in_model(config, network, adapter_name=NAME)
    for at, (_, module) in enumerate(adapters_of(network)):
        _settle(module, method, rank, at)


def adapters_of(network: nn.Module) -> list[tuple[str, LoraLayer]]:
    """Return the adapted modules of `network` by name."""
    from peft.tuners.lora import LoraLayer

    return [(name, m) for name, m in network.named_modules() if isinstance(m, LoraLayer)]


def turns(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Return what stands still in turns where A and B alternate: every A, then every B."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    return tuple(tuple(n for n in names if f".{one}." in n) for one in ("lora_A", "lora_B"))


def factors(model: nn.Module) -> tuple[tuple[str, str], ...]:
    """Return the names of B and A of each adapted module; R stands for B where there is one."""
    return tuple(
        (
            f"{name}.lora_B.{NAME}{'.0' * isinstance(m.lora_B[NAME], nn.Sequential)}.weight",
            f"{name}.lora_A.{NAME}.weight",
        )
        for name, m in adapters_of(model)
    )


def product(module: Any) -> tuple[Tensor, Tensor]:
    """Return A and B of an adapted module as they stand, `B R` for B where there is an R."""
    down, up = module.lora_A[NAME].weight.detach(), module.lora_B[NAME]
    if isinstance(up, nn.Sequential):
        core, outer = up.parameters()
        return down, outer.detach() @ core.detach()
    return down, up.weight.detach()


def merged_weight(module: Any) -> Tensor:
    """Return the weight of an adapted module with its adapter added: `W + s B A`, laid out as W."""
    down, up = product(module)
    added = module.scaling[NAME] * (up @ down)
    weight: Tensor = module.get_base_layer().weight.detach()
    found: Tensor = weight + (added.T if module.fan_in_fan_out else added)
    return found


def _usual(kind: str) -> list[str]:
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as known

    return list(known.get(kind, ()))


def _linear(network: nn.Module) -> dict[str, int]:
    """Return what can be adapted, by the last part of its name, and how narrow it is."""
    from transformers.pytorch_utils import Conv1D

    found: dict[str, int] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            last, narrow = name.rpartition(".")[2], min(module.weight.shape)
            found[last] = min(narrow, found.get(last, narrow))
    return found


def _settle(module: Any, method: str, rank: int, at: int) -> None:
    down, up = module.lora_A[NAME], module.lora_B[NAME]
    module.requires_grad_(False)
    nn.init.zeros_(up.weight)
    if method == "sb":
        left, right = basis(_weight(module), rank)
        core = nn.Linear(rank, rank, bias=False)
        nn.init.zeros_(core.weight)
        with torch.no_grad():
            up.weight.copy_(left)
            down.weight.copy_(right)
        module.lora_B[NAME] = nn.Sequential(core, up)
        return
    _public(down, at)
    module.lora_B.requires_grad_(True)
    module.lora_A.requires_grad_(method in ("both", "alternating"))


def _weight(module: LoraLayer) -> Tensor:
    """Return the frozen weight of an adapted module, float64 [out, in]."""
    weight: Tensor = module.get_base_layer().weight.detach().double()
    return weight.T if getattr(module, "fan_in_fan_out", False) else weight


def basis(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the first singular vectors of `weight` [out, in]: B [out, rank] and A [rank, in].

    Their signs are fixed and their values rounded to 2^-12, so that machines agree on them though
    their linear algebra differs in the last bits.
    """
    left, _, right = torch.linalg.svd(weight, full_matrices=False)
    left, right = left[:, :rank], right[:rank]
    signs = right.gather(1, right.abs().argmax(1, keepdim=True)).sign()
    return (4096 * left * signs.T).round() / 4096, (4096 * right * signs).round() / 4096


def _public(down: nn.Linear, at: int) -> None:
    """Fill A of the adapted module number `at` with public values of about unit length a row.

    Not from the global generator: its normals are no promise, and every site must have the same.
    """
    values = public_normal(at, *down.weight.shape) / down.in_features**0.5
    with torch.no_grad():
        down.weight.copy_(torch.from_numpy(values))


def settings_of(adapted: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return what peft's `adapter_config.json` says of adapted modules."""
    one = adapted[0][1]
    return {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "inference_mode": True,
        "r": one.r[NAME],
        "lora_alpha": one.lora_alpha[NAME],
        "target_modules": sorted(name for name, _ in adapted),
        "fan_in_fan_out": bool(one.fan_in_fan_out),
        "bias": "none",
    }
