"""The passport: what a checkpoint is, and the proof that all of it was read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from .facts import ASSUMED
from .normalization import Normalization


@dataclass(frozen=True)
class Passport:
    """Everything a protocol, a record or a reader needs to know about one checkpoint.

    Attributes:
        name: Registry name, file name without its ending, or the control's name.
        source: The reference as the user gave it.
        layout: Name of the entry of ``layouts.yaml`` that explains the file.
        arch: Architecture, such as ``resnet50`` or ``vit_small_patch16``.
        sha256: Hash of the file; of the weights for a random control.
        weights_sha256: Hash over names, shapes, types and bytes of the mapped tensors.
        mapped: Number of the file's tensors that the backbone took.
        dropped: Key or prefix of what was left out, with the reason.
        missing: Keys that the backbone wants and the file lacks (only ``num_batches_tracked`` can be here).
        unexpected: Keys without an explanation; always empty, they are an error.
        normalization: How pixels become the network's input.
        input_size: Side in pixels of the images the backbone was evaluated at.
        interpolation: ``bicubic`` or ``bilinear``.
        encoder: Which of several copies was taken: ``online`` or ``ema``.
        trained: False when the weights look like an initialisation.
        warnings: What a user should know before trusting a number.
        unsafe_globals: What the file wanted to run. Not empty only with ``trusted_pickle``.
        trusted_pickle: The user told us to run the file's code.
        feature_dim: D.
        stride_in_1x1: Bottlenecks stride in the first 1x1 convolution (Caffe's, MSRA's) and not in the 3x3.
        extra: More facts, such as the recipe of MAST's own checkpoints or a changed padding.
        provenance: Where each fact that the tensors do not determine was read: ``--heads``, ``config.json``,
            ``hyper_parameters``, a published name, ``layout moco-v3``; ``assumed`` if nobody states it.
        network: What the network computes otherwise than the usual one of its keys and shapes, such as ``heads``.
        precision: What frozen features, tokens and maps are computed in: ``float32``, or ``bfloat16`` under autocast.
    """

    name: str
    source: str
    layout: str
    arch: str
    sha256: str
    weights_sha256: str
    mapped: int
    normalization: Normalization
    input_size: int
    interpolation: str
    feature_dim: int
    dropped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    encoder: str = "online"
    trained: bool = True
    warnings: list[str] = field(default_factory=list)
    unsafe_globals: list[str] = field(default_factory=list)
    trusted_pickle: bool = False
    stride_in_1x1: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"

    @property
    def normalization_assumed(self) -> bool:
        """Whether mean, standard deviation, range and order of the channels are a guess."""
        return self.provenance.get("normalization") == ASSUMED

    def refuse_guesses(self) -> None:
        """Refuse to measure anything with a normalisation that nobody states: a guess costs ten points and more.

        Raises:
            UserError: If it is a guess.
        """
        if self.normalization_assumed:
            raise UserError(
                f"{self.name}: the file does not say how images were normalised",
                remedy="say it: --normalization imagenet (or MEAN STD), name the file's origin with --layout, or "
                "write normalization: into a layout file of your own (--layout my.yaml)",
                code=2,
            )

    def to_json(self) -> dict[str, Any]:
        """The fields as a dict of plain values."""
        return dataclasses.asdict(self) | {"normalization": self.normalization.to_json()}
