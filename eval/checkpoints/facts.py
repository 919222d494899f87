"""What the tensors of a file do not determine, and who says it.

Two networks can share every key and shape and compute something else: in the number of heads, the activation, the
place of a stride. Pixels can be prepared in many ways. Each such fact has a value and a source, and the first of
these sources that says anything wins: the user, settings in or beside the file, the published name, the layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError

NETWORK = (
    "heads",
    "activation",
    "eps",
    "stem",
    "stride_in_1x1",
    "pooling",
    "timm",
    "rope",
    "final_eps",
    "grid",
)
"""Facts that change what a network computes."""
PREPROCESSING = ("normalization", "input_size", "interpolation")
"""Facts that change the pixels it sees."""
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}
"""What features can be computed in: the words of ``--precision`` and torch's."""
ASSUMED = "assumed"
"""The source of a fact that nobody states."""


@dataclass(frozen=True)
class Unusable:
    """A stated value that this project cannot honour; it is an error where it would be used, unless overruled."""

    problem: str
    remedy: str


@dataclass(frozen=True)
class Fact:
    """A value and where it was read.

    Attributes:
        value: What is stated.
        source: Who states it.
        about: What the source says of the network's shapes, by the keys of `SHAPES`: settings of another checkpoint
            contradict the tensors.
    """

    value: Any
    source: str
    about: Mapping[str, Any] = field(default_factory=dict)


SHAPES = {
    "resnet": "a ResNet-{}",
    "blocks": "{} transformer blocks",
    "width": "{} channels a token",
    "patch": "patches of {} px",
    "depths": "stages of {} blocks",
}
"""What settings say of a network that its tensors show as well, and how to say it."""


Facts = Mapping[str, Fact]


def merge(*sources: Facts) -> dict[str, Fact]:
    """The facts of several sources, the first that states one wins.

    >>> merge({"heads": Fact(6, "--heads")}, {"heads": Fact(12, "config.json"), "eps": Fact(1e-6, "config.json")})
    {'heads': Fact(value=6, source='--heads'), 'eps': Fact(value=1e-06, source='config.json')}
    """
    merged: dict[str, Fact] = {}
    for facts in sources:
        for name, fact in facts.items():
            merged.setdefault(name, fact)
    return merged


def belong(facts: Facts, found: Mapping[str, Any]) -> None:
    """Refuse facts from settings of another network.

    Args:
        facts: Those that would be used.
        found: What the tensors show, by the keys of `SHAPES`; what they do not have is absent.

    Raises:
        UserError: For the first source that contradicts the tensors.
    """
    for fact in facts.values():
        for key, told in fact.about.items():
            if told != found.get(key):
                tensors = ", ".join(SHAPES[name].format(value) for name, value in found.items())
                remedy = "keep each checkpoint with its own settings, in a folder of its own"
                if not fact.source.endswith(".json"):
                    remedy = (
                        "save the weights alone, and say the rest: --heads, --normalization, --input-size"
                    )
                raise UserError(
                    f"{fact.source} says {SHAPES[key].format(told)}, and the tensors are of another network: "
                    f"{tensors or 'no ResNet and no transformer'}",
                    remedy=remedy,
                )


def usable(facts: Facts, ref: str) -> None:
    """Refuse what cannot be honoured.

    Raises:
        UserError: For the first such fact.
    """
    for fact in facts.values():
        if isinstance(fact.value, Unusable):
            raise UserError(f"{ref}: {fact.source}: {fact.value.problem}", remedy=fact.value.remedy)
