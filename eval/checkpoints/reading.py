"""From a reference to a backbone in which every tensor is accounted for."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mast import checkpoint as published
from mast.files import sha256_file

from ..errors import UserError
from . import architectures, file_formats, layouts, references, weight_checks
from .backbone import Backbone
from .layouts import Layout
from .normalization import Normalization
from .passport import Passport
from .tensor_edits import TRANSFORMS


@dataclass(frozen=True)
class Loaded:
    """A backbone, in evaluation mode and without gradients, and its passport."""

    backbone: Backbone
    passport: Passport


@dataclass
class _Match:
    """A layout that explains a file, and the network it gives."""

    layout: Layout
    arch: str
    skeleton: Backbone
    weights: dict[str, Tensor]
    dropped: dict[str, str]
    missing: list[str]

    @functools.cached_property
    def weights_sha256(self) -> str:
        """Hash of what the network computes with."""
        return published.weights_sha256(self.weights)

    @property
    def function(self) -> tuple[Any, ...]:
        """What decides the network's output."""
        options = {key: self.layout.options.get(key) for key in ("heads", "eps", "padding", "stride_in_1x1")}
        return self.arch, self.weights_sha256, options


def load(
    ref: str, *, layout: str | None = None, arch: str | None = None, trust_pickle: bool = False
) -> Loaded:
    """Read a checkpoint into a backbone.

    Args:
        ref: A file, a name of the registry, ``hf://owner/name``, ``timm:name``, or ``random:<arch>[@seed]`` for
            the random control.
        layout: Take this layout (or ``layout:variant``) whatever the file looks like.
        arch: Take this architecture, where shapes leave a choice.
        trust_pickle: Run the code of a pickle that asks for it.

    Raises:
        UserError: If the file cannot be read safely, or not every tensor has its place.
    """
    if ref.startswith("random:"):
        return _random(ref)
    match, passport = _read(ref, layout, arch, trust_pickle)
    architectures.target(match.skeleton).load_state_dict(
        {name: tensor.clone() for name, tensor in match.weights.items()}, strict=True, assign=True
    )
    return Loaded(_frozen(match.skeleton), passport)


def inspect(
    ref: str, *, layout: str | None = None, arch: str | None = None, trust_pickle: bool = False
) -> Passport:
    """The passport alone. Arguments and errors are those of `load`."""
    if ref.startswith("random:"):
        return _random(ref).passport
    return _read(ref, layout, arch, trust_pickle)[1]


def _frozen(backbone: Backbone) -> Backbone:
    return backbone.requires_grad_(False).eval()


def _random(ref: str) -> Loaded:
    name, _, seed = ref.removeprefix("random:").partition("@")
    if seed and not seed.isdigit():
        raise UserError(f"'{ref}': the seed is not a number", remedy="write random:resnet18@0", code=2)
    backbone = architectures.fresh(name, int(seed or 0))
    weights = architectures.target(backbone).state_dict()
    digest = published.weights_sha256(weights)
    passport = Passport(
        name=f"random-{name}-{int(seed or 0)}",
        source=ref,
        layout="random",
        arch=name,
        sha256=digest,
        weights_sha256=digest,
        mapped=len(weights),
        normalization=Normalization(),
        input_size=224,
        interpolation="bilinear",
        feature_dim=backbone.feature_dim,
        trained=False,
        warnings=["random weights, the control that a pretrained backbone has to beat"],
    )
    return Loaded(_frozen(backbone), passport)


def _read(ref: str, layout: str | None, arch: str | None, trust_pickle: bool) -> tuple[_Match, Passport]:
    located = references.locate(ref)
    path, facts = located.path, dict(located.passport)
    contents = file_formats.read(path, trust_pickle=trust_pickle)
    if layout is None and "mast" in contents.metadata:
        match, header = _published(path, contents, arch)
        facts |= header
    else:
        match = _recognise(ref, contents, layout or located.layout, arch or located.arch, located.options)
    try:
        trained, warnings = weight_checks.check(match.weights)
    except ValueError as error:
        raise UserError(
            f"{ref}: the weights are damaged: {error}", remedy="fetch or copy the file again"
        ) from error
    digest = sha256_file(path)
    known = {
        "normalization": match.layout.normalization,
        "input_size": match.layout.input_size,
        "interpolation": match.layout.interpolation,
        "extra": located.extra
        | ({"padding": "same"} if match.layout.options.get("padding") == "same" else {}),
        **facts,
    }
    sure = "normalization" in facts or located.layout is not None
    passport = Passport(
        name=located.name,
        source=ref,
        layout=match.layout.name,
        arch=match.arch,
        sha256=digest,
        weights_sha256=match.weights_sha256,
        mapped=len(match.weights) - len(match.missing),
        feature_dim=match.skeleton.feature_dim,
        dropped=match.dropped,
        missing=match.missing,
        encoder=match.layout.encoder,
        trained=trained,
        warnings=warnings + _renamed(path, digest) + ([] if sure else _assumptions(match)),
        unsafe_globals=contents.unsafe_globals,
        trusted_pickle=bool(contents.unsafe_globals),
        stride_in_1x1=bool(match.layout.options.get("stride_in_1x1")),
        assumed=frozenset(_PREPROCESSING) - set(facts) if match.layout.assumed and not sure else frozenset(),
        **known,
    )
    return match, passport


_PREPROCESSING = ("normalization", "input_size", "interpolation")


def _renamed(path: Path, digest: str) -> list[str]:
    """A warning where a file's name carries another hash than its content."""
    named = re.search(r"[-_]([0-9a-f]{8,64})\.(pth|pt|bin|torch|pkl|tar|safetensors)", path.name)
    if named and re.search(r"[a-f]", named[1]) and not digest.startswith(named[1]):
        return [
            f"the file's name ends in {named[1]}, as if its sha256 began so, but it begins with {digest[:8]}: "
            "damaged, or renamed"
        ]
    return []


def _assumptions(match: _Match) -> list[str]:
    """Warnings about what the content of the file cannot settle."""
    if not match.layout.assumed:
        return []
    doubts = [
        "the file does not say how images were normalised: ImageNet's constants and torchvision's order are "
        "assumed; --layout simclr-v1 or swav says otherwise"
    ]
    if match.arch.startswith("vit_small"):
        doubts.append("the file does not say how many heads: 6 are assumed; --layout moco-v3 has 12")
    return doubts


def _published(
    path: Path, contents: file_formats.Contents, arch: str | None
) -> tuple[_Match, dict[str, Any]]:
    try:
        weights, header = published.read_published(path)
        name = str(header["arch"])
        facts = {
            "normalization": Normalization.from_json(header["normalization"]),
            "input_size": int(header["input_size"]),
            "interpolation": str(header["interpolation"]),
        }
    except (ValueError, KeyError, TypeError, UserError) as error:
        raise UserError(f"{path}: not a whole MAST backbone: {error}", remedy="publish it again") from error
    if arch and arch != name:
        raise UserError(f"{path}: a {name}, not a {arch}", remedy="leave --arch out", code=2)
    layout = Layout(name="mast", title="MAST", source="mast.checkpoint")
    found = layouts.Extract(layout, weights=dict(weights))
    rest = {
        key: value
        for key, value in header.items()
        if key not in (*facts, "arch", "format", "version", "weights_sha256")
    }
    return _fit(str(path), found, name), {**facts, "extra": rest}


def _recognise(
    ref: str,
    contents: file_formats.Contents,
    layout: str | None,
    arch: str | None,
    options: Mapping[str, Any],
) -> _Match:
    candidates = [layouts.get(layout)] if layout else [x for x in layouts.table().values() if not x.explicit]
    matches: list[_Match] = []
    failures: list[tuple[int, UserError]] = []
    for entry in candidates:
        if entry.refuse:
            continue
        candidate = replace(entry, options={**entry.options, **options})
        try:
            found = layouts.extract(contents.tree, candidate)
        except UserError as error:
            raise UserError(f"{ref}: {error.message}", remedy=error.remedy) from error
        if not found.fits:
            continue
        try:
            matches.append(_fit(ref, found, arch))
        except UserError as error:
            rank = len(found.weights) - len(found.unexpected) + 1000 * len(candidate.marks)
            failures.append((rank, error))
    if not matches:
        raise _no_match(ref, contents, layout, [error for _, error in sorted(failures, key=lambda x: -x[0])])
    best = max(matches, key=lambda match: len(match.layout.marks))
    others = [match for match in matches if match is not best and match.function != best.function]
    if others:
        raise UserError(
            f"{ref}: two layouts fit and give different networks: {_describe(best)} and {_describe(others[0])}",
            remedy=f"choose with --layout {best.layout.name} or --layout {others[0].layout.name}",
            code=2,
        )
    return best


def _describe(match: _Match) -> str:
    return f"{match.layout.name} ({match.arch}, {match.layout.encoder} weights, {len(match.weights)} tensors)"


def _no_match(
    ref: str, contents: file_formats.Contents, layout: str | None, failures: list[UserError]
) -> UserError:
    refusal = layouts.known_refusal(contents.tree)
    if refusal:
        return UserError(f"{ref}: {refusal.message}", remedy=refusal.remedy)
    if failures:
        return failures[0]
    keys = ", ".join(str(key) for key in list(contents.tree)[:5])
    if layout:
        return UserError(
            f"{ref}: does not look like layout {layout}: it holds {keys}", remedy="leave --layout out"
        )
    return UserError(
        f"{ref}: no known layout fits: it holds {keys}",
        remedy="see docs/checkpoints.md for the layouts and how to add one",
    )


def _fit(ref: str, found: layouts.Extract, arch: str | None) -> _Match:
    """Give every tensor its place in the architecture or fail."""
    layout = found.layout
    weights = {name: as_tensor(value) for name, value in found.weights.items()}
    try:
        weights = TRANSFORMS[layout.transform](weights)
        name = arch or architectures.infer(_shapes(weights), stem=layout.stem)
    except UserError as error:
        raise UserError(
            f"{ref}: as layout {layout.name}: {error.message}", remedy=error.remedy, code=error.code
        ) from error
    skeleton = architectures.build(name, _shapes(weights), layout.options)
    wanted = architectures.target(skeleton).state_dict()
    missing = [key for key in wanted if key not in weights]
    lost = [key for key in missing if not key.endswith("num_batches_tracked")]
    extra = [key for key in weights if key not in wanted] + found.unexpected
    wrong = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in weights and weights[key].shape != wanted[key].shape
    ]
    problems = [
        f"{len(keys)} {what}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
        for what, keys in (("missing", lost), ("of another shape", wrong), ("unexplained", extra))
        if keys
    ]
    if problems:
        raise UserError(
            f"{ref}: as layout {layout.name} and {name}: {'; '.join(problems)}",
            remedy="nothing was loaded; try --layout or --arch if the guess is wrong",
        )
    state = {}
    for key, want in wanted.items():
        tensor = weights.get(key, torch.zeros((), dtype=torch.int64))
        state[key] = tensor.to(want.dtype)
    return _Match(layout, name, skeleton, state, found.dropped, missing)


def as_tensor(value: Any) -> Tensor:
    """A tensor as it is, or a copy of an array: those that come out of a pickle are read-only views of its bytes."""
    return value if isinstance(value, Tensor) else torch.from_numpy(value.copy())


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}
