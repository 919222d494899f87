"""What is read off a network as its feature, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

CHOICES = {
    "cls": "the class token after the last normalisation",
    "mean": "the mean of the patch tokens after the last normalisation, without class and register tokens",
    "cls+mean": "both, one after the other",
    "last4": "the class tokens of the last four blocks, each normalised, one after the other",
    "last4+mean": "last4 and mean, one after the other",
    "map": "the network's own attention pooling",
    "avg": "the network's own average over space",
}
"""Names that ``--features`` takes; docs/checkpoints.md has the authors' default for each family."""


def check(choice: str, there: Sequence[str], arch: str) -> str:
    """A choice that a network can give.

    Raises:
        UserError: If there is no such choice, or the network lacks what it needs.
    """
    if choice in there:
        return choice
    if choice not in CHOICES:
        raise UserError(f"unknown feature '{choice}'", remedy=f"known: {', '.join(CHOICES)}", code=2)
    raise UserError(
        f"{arch} has no feature '{choice}' ({CHOICES[choice]})", remedy=f"it has {', '.join(there)}", code=2
    )


def of_transformer(network: Any) -> list[str]:
    """What one of timm's transformers can give, its usual feature first.

    >>> from types import SimpleNamespace
    >>> of_transformer(SimpleNamespace(cls_token=None, attn_pool=None, blocks=[None] * 12))
    ['mean']
    """
    token = getattr(network, "cls_token", None) is not None
    found = ["cls", "mean", "cls+mean"] if token else ["mean"]
    if token and len(network.blocks) >= 4:
        found += ["last4", "last4+mean"]
    if getattr(network, "attn_pool", None) is not None:
        found.insert(0, "map")
    return found


def pooled(network: Any, images: Tensor, choices: Sequence[str]) -> dict[str, Tensor]:
    """Several features of one forward.

    Args:
        network: One of timm's transformers.
        images: ``(B, 3, H, W)``, normalised.
        choices: Names of `CHOICES` that the network has.

    Returns:
        ``(B, D)`` for each choice.
    """
    import torch

    several = {"last4", "last4+mean"} & set(choices)
    blocks = layers(network, images, 4) if several else [network.forward_features(images)]
    tokens, skip = blocks[-1], int(network.num_prefix_tokens)
    finish = getattr(network, "fc_norm", None) or torch.nn.Identity()

    def one(choice: str) -> Tensor:
        if choice in ("cls+mean", "last4+mean"):
            return torch.cat([one(choice.removesuffix("+mean")), one("mean")], dim=1)
        if choice == "last4":
            return torch.cat([finish(block[:, 0]) for block in blocks], dim=1)
        if choice == "map":
            every = getattr(network, "pool_include_prefix", True)  # timm's Eva has no such switch
            found = network.attn_pool(tokens if every else tokens[:, skip:])
        else:
            found = tokens[:, 0] if choice == "cls" else tokens[:, skip:].mean(dim=1)
        result: Tensor = finish(found)
        return result

    return {choice: one(choice) for choice in choices}


def layers(network: Any, images: Tensor, last: int) -> list[Tensor]:
    """All tokens of the last blocks after the network's last normalisation, ``(B, T, D)`` each, in order."""
    import torch

    skip = int(network.num_prefix_tokens)
    found = network.forward_intermediates(
        images,
        indices=last,
        norm=True,
        return_prefix_tokens=skip > 0,
        output_fmt="NLC",
        intermediates_only=True,
    )
    return [torch.cat([prefix, patches], dim=1) for patches, prefix in found] if skip else list(found)
