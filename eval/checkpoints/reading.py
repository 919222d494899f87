"""From a reference to a backbone in which every tensor is accounted for."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from mast import checkpoint as published
from mast.files import sha256_file

from ..errors import UserError
from . import (
    architectures,
    beit,
    file_formats,
    layouts,
    pooling,
    references,
    settings,
    timm_networks,
    vit,
    weight_checks,
)
from .backbone import Backbone
from .facts import ASSUMED, NETWORK, PRECISIONS, PREPROCESSING, Fact, Facts, belong, merge, usable
from .layouts import Layout
from .normalization import Normalization
from .passport import Passport
from .tensor_edits import TRANSFORMS


@dataclass(frozen=True)
class Loaded:
    """A backbone, in evaluation mode and without gradients, and its passport.

    Attributes:
        backbone: The backbone.
        passport: Its passport.
        together: Further features that are wanted of the same forward: for each name of `pooling.CHOICES`, what the
            passport's ``network`` would be.
    """

    backbone: Backbone
    passport: Passport
    together: Mapping[str, dict[str, Any]] = field(default_factory=dict)


class Said(TypedDict, total=False):
    """What a user may say about a file; it overrules the file.

    Keys:
        layout: Take this layout (or ``layout:variant``, or a YAML file that holds one) whatever the file looks like.
        arch: Take this architecture, where shapes leave a choice.
        trust_pickle: Run the code of a pickle that asks for it.
        key: Dotted path of the dict in the file that holds the weights.
        prefix: What the backbone's keys start with there; everything else is left out.
        heads: Heads of attention of a vision transformer.
        input_size: Side in pixels of the images to evaluate at.
        normalization: How pixels are normalised, or what ``--normalization`` takes.
        interpolation: ``bicubic`` or ``bilinear``.
        features: What the feature is, a name of `pooling.CHOICES`.
        together: Further features that extraction is to store from the same forward.
        precision: What frozen features are computed in: ``fp32``, or ``bf16`` under torch's autocast.
    """

    layout: str | None
    arch: str | None
    trust_pickle: bool
    key: str | None
    prefix: str | None
    heads: int | None
    input_size: int | None
    normalization: Normalization | Sequence[str] | None
    interpolation: str | None
    features: str | None
    together: Sequence[str]
    precision: str | None


class _Undetermined(UserError):
    """A layout explains a file key by key, and what the keys leave open is stated nowhere."""


class _Leftover(UserError):
    """A whole network was found, and tensors beside it that the layout does not explain."""


@dataclass
class _Match:
    """A layout that explains a file, and the network it gives."""

    layout: Layout
    arch: str
    skeleton: Backbone
    weights: dict[str, Tensor]
    dropped: dict[str, str]
    missing: list[str]
    facts: dict[str, Fact]
    family: str

    @functools.cached_property
    def weights_sha256(self) -> str:
        """Hash of what the network computes with."""
        return published.weights_sha256(self.weights)

    @property
    def network(self) -> dict[str, Any]:
        """What the network computes otherwise than the usual one of its keys and shapes."""
        usual = dict(layouts.families()[self.family]["open"]) | {"heads": _width(self.skeleton) // 64}
        found = {
            name: self.facts[name].value
            for name in usual
            if name not in ("stem", "timm") and name in self.facts and self.facts[name].value != usual[name]
        }
        if "timm" in self.facts and self.facts["timm"].value["model_args"]:
            found["model_args"] = self.facts["timm"].value["model_args"]
        return found

    @property
    def function(self) -> tuple[Any, ...]:
        """What decides the network's output."""
        options = {key: value for key, value in self.network.items() if key != "positions"}
        return self.arch, self.weights_sha256, options


def load(ref: str, **said: Unpack[Said]) -> Loaded:
    """Read a checkpoint into a backbone.

    Args:
        ref: A file, a name of the registry, ``hf://owner/name``, ``timm:name``, or ``random:<arch>[@seed]`` for
            the random control.
        **said: What the user says about it, see `Said`.

    Raises:
        UserError: If the file cannot be read safely, not every tensor has its place, or something that decides what
            the network computes is stated nowhere.
    """
    if ref.startswith("random:"):
        return _random(ref, said)
    match, passport = _read(ref, said)
    architectures.target(match.skeleton).load_state_dict(
        {name: tensor.clone() for name, tensor in match.weights.items()}, strict=True, assign=True
    )
    usual = layouts.families()[match.family]["open"]["pooling"]
    return Loaded(
        _frozen(match.skeleton),
        passport,
        _together(match.skeleton, passport.network, usual, said.get("together", ())),
    )


def _together(
    backbone: Backbone, network: Mapping[str, Any], usual: str, choices: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What a passport's ``network`` is for other features of the same backbone."""
    own = getattr(backbone, "pooling", "avg")
    rest = {name: value for name, value in network.items() if name != "pooling"}
    return {
        choice: rest if choice == usual else {**rest, "pooling": choice}
        for choice in choices
        if choice != own and choice in getattr(backbone, "choices", ("avg",))
    }


def inspect(ref: str, **said: Unpack[Said]) -> Passport:
    """The passport alone. Arguments and errors are those of `load`."""
    if ref.startswith("random:"):
        return _random(ref, said).passport
    return _read(ref, said)[1]


def _frozen(backbone: Backbone) -> Backbone:
    return backbone.requires_grad_(False).eval()


def _random(ref: str, said: Said) -> Loaded:
    name, _, seed = ref.removeprefix("random:").partition("@")
    if seed and not seed.isdigit():
        raise UserError(f"'{ref}': the seed is not a number", remedy="write random:resnet18@0", code=2)
    backbone = architectures.fresh(name, int(seed or 0))
    usual_pooling = getattr(backbone, "pooling", "avg")
    weights = architectures.target(backbone).state_dict()
    digest = published.weights_sha256(weights)
    usual = {"normalization": Normalization(), "input_size": 224, "interpolation": "bilinear"}
    if isinstance(backbone, timm_networks.Transformer):  # the control of a file that timm describes
        usual["pooling"] = timm_networks.stated_pooling(backbone.network) or usual_pooling
    facts = merge(_of_user(said), {key: Fact(value, "random control") for key, value in usual.items()})
    usable(facts, ref)
    chosen = _choose(backbone, facts).value
    passport = Passport(
        name=f"random-{name}-{int(seed or 0)}",
        source=ref,
        layout="random",
        arch=name,
        sha256=digest,
        weights_sha256=digest,
        mapped=len(weights),
        feature_dim=backbone.feature_dim,
        trained=False,
        warnings=["random weights, the control that a pretrained backbone has to beat"],
        provenance={key: facts[key].source for key in PREPROCESSING},
        network={} if chosen == usual_pooling else {"pooling": chosen},
        precision=_precision(said),
        normalization=facts["normalization"].value,
        input_size=facts["input_size"].value,
        interpolation=facts["interpolation"].value,
    )
    return Loaded(
        _frozen(backbone),
        passport,
        _together(backbone, passport.network, usual_pooling, said.get("together", ())),
    )


def _precision(said: Said) -> str:
    """What features are computed in, in torch's word."""
    wanted = said.get("precision") or "fp32"
    if wanted not in PRECISIONS:
        raise UserError(f"--precision {wanted}", remedy=f"known: {', '.join(PRECISIONS)}", code=2)
    return PRECISIONS[wanted]


def _of_user(said: Said) -> dict[str, Fact]:
    """The facts that the user states, checked."""
    facts: dict[str, Fact] = {}
    for name in ("heads", "input_size"):
        value = said.get(name)
        if value is not None:
            option = f"--{name.replace('_', '-')}"
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 14:
                raise UserError(
                    f"{option} {value} is no positive number", remedy="give a whole number", code=2
                )
            facts[name] = Fact(value, option)
    if (features := said.get("features")) is not None:
        if features not in pooling.CHOICES:
            raise UserError(f"--features {features}", remedy=f"known: {', '.join(pooling.CHOICES)}", code=2)
        facts["pooling"] = Fact(features, "--features")
    if (normalization := said.get("normalization")) is not None:
        if not isinstance(normalization, Normalization):
            normalization = Normalization.parse(normalization)
        facts["normalization"] = Fact(normalization, "--normalization")
    if (interpolation := said.get("interpolation")) is not None:
        if interpolation not in ("bicubic", "bilinear"):
            raise UserError(f"--interpolation {interpolation}", remedy="it is bicubic or bilinear", code=2)
        facts["interpolation"] = Fact(interpolation, "--interpolation")
    return facts


def _read(ref: str, said: Said) -> tuple[_Match, Passport]:
    user = _of_user(said)
    located = references.locate(ref)
    path, extra = located.path, dict(located.extra)
    contents = file_formats.read(path, trust_pickle=bool(said.get("trust_pickle")))
    if said.get("layout") is None and "mast" in contents.metadata:
        match, header, rest = _published(path, contents, said.get("arch"))
        facts = merge(user, header, match.facts)
        extra = rest
    else:
        arch, named = _named(said.get("arch"))
        try:
            inside = settings.in_file(contents.tree)
        except UserError as error:
            raise UserError(f"{ref}: {error.message}", remedy=error.remedy) from error
        stated = merge(user, named, inside, settings.beside(located.settings), located.facts)
        if arch is not None:  # the user names a network of ours, whatever a file says of timm's
            stated.pop("timm", None)
        outside: dict[str, str] = {}
        if said.get("key") or said.get("prefix"):
            contents, outside = _part(ref, contents, said.get("key") or "", said.get("prefix") or "")
        match = _recognise(ref, contents, said.get("layout") or located.layout, arch, located.arch, stated)
        match.dropped |= outside
        facts = match.facts
    usable({name: facts[name] for name in PREPROCESSING}, ref)
    try:
        trained, warnings = weight_checks.check(match.weights)
    except ValueError as error:
        raise UserError(
            f"{ref}: the weights are damaged: {error}", remedy="fetch or copy the file again"
        ) from error
    digest = sha256_file(path)
    if match.network.get("padding") == "same":
        extra["padding"] = "same"
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
        warnings=warnings + _renamed(path, digest) + _assumptions(facts),
        unsafe_globals=contents.unsafe_globals,
        trusted_pickle=bool(contents.unsafe_globals),
        stride_in_1x1=bool(match.network.get("stride_in_1x1")),
        provenance={name: fact.source for name, fact in facts.items()},
        network=match.network,
        precision=_precision(said),
        normalization=facts["normalization"].value,
        input_size=facts["input_size"].value,
        interpolation=facts["interpolation"].value,
        extra=extra,
    )
    return match, passport


def _named(arch: str | None) -> tuple[str | None, dict[str, Fact]]:
    """An architecture of the user's: a name of ours as it is, or what timm's name states."""
    if arch is None or architectures.own(arch) or not timm_networks.known(arch):
        return arch, {}
    return None, settings.timm_network(arch, {}, "--arch")


def _part(
    ref: str, contents: file_formats.Contents, key: str, prefix: str
) -> tuple[file_formats.Contents, dict[str, str]]:
    """The part of a file that the user points at, as if it were all of it, and an account of the rest."""
    part = layouts.follow(contents.tree, key)
    if not isinstance(part, Mapping):
        names = ", ".join(str(name) for name in list(contents.tree)[:8])
        raise UserError(f"{ref}: --key {key} names no dict in it", remedy=f"it holds {names}", code=2)
    outside = {
        name: f"outside --key {key}" for name in map(str, contents.tree) if key and name != key.split(".")[0]
    }
    if not prefix:
        return replace(contents, tree=dict(part)), outside
    kept: dict[str, Any] = {}
    around = re.sub(r"[^.]*\.?$", "", prefix)  # what lies beside the backbone is told one by one
    for name, value in layouts.flatten(part):
        short = layouts.unwrapped(name)
        start = next((text for text in (name, short) if text.startswith(prefix)), None)
        if start is not None:
            kept[start[len(prefix) :]] = value
        else:
            beside = len(around) if short.startswith(around) else 0
            outside[short[:beside] + short[beside:].partition(".")[0]] = f"outside --prefix {prefix}"
    if not kept:
        every = (name for name, _ in layouts.flatten(part))
        deeper = dict.fromkeys(name[: name.index(f".{prefix}") + 1] for name in every if f".{prefix}" in name)
        ways = " or ".join(f"--prefix {start}{prefix}" for start in list(deeper)[:4])
        raise UserError(
            f"{ref}: no key starts with --prefix {prefix}",
            remedy=f"say {ways}" if ways else f"keys start with {', '.join(sorted(outside)[:8])}",
            code=2,
        )
    return replace(contents, tree=kept), outside


def _renamed(path: Path, digest: str) -> list[str]:
    """A warning where a file's name carries another hash than its content."""
    named = re.search(r"[-_]([0-9a-f]{8,64})\.(pth|pt|bin|torch|pkl|tar|safetensors)", path.name)
    if named and re.search(r"[a-f]", named[1]) and not digest.startswith(named[1]):
        return [
            f"the file's name ends in {named[1]}, as if its sha256 began so, but it begins with {digest[:8]}: "
            "damaged, or renamed"
        ]
    return []


def _assumptions(facts: Facts) -> list[str]:
    """Warnings about what nobody states."""
    guessed = [name for name in PREPROCESSING if facts[name].source == ASSUMED]
    doubts = []
    if "normalization" in guessed:
        doubts.append(
            "the file does not say how images were normalised: ImageNet's constants are a guess, with which nothing "
            "is measured; say --normalization or --layout"
        )
    if "input_size" in guessed:
        doubts.append(
            f"the file does not say at which size images were shown: {facts['input_size'].value} px is assumed; "
            "say --input-size"
        )
    return doubts


def _published(
    path: Path, contents: file_formats.Contents, arch: str | None
) -> tuple[_Match, dict[str, Fact], dict[str, Any]]:
    try:
        weights, header = published.read_published(path)
        name = header["arch"]
        if not isinstance(name, str) or not name:
            raise ValueError(f"its arch is {name!r:.40}")
        facts = {
            "normalization": Normalization.from_json(header["normalization"]),
            "input_size": settings.side(header["input_size"]),
            "interpolation": settings.interpolation(header["interpolation"]),
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
    stated = {key: Fact(value, "its own header") for key, value in facts.items()}
    return _fit(str(path), found, name, stated), stated, rest


def _recognise(
    ref: str,
    contents: file_formats.Contents,
    layout: str | None,
    arch: str | None,
    published_arch: str | None,
    stated: Facts,
) -> _Match:
    candidates = [layouts.get(layout)] if layout else [x for x in layouts.table().values() if not x.explicit]
    matches: list[_Match] = []
    failures: list[tuple[int, UserError]] = []
    for candidate in candidates:
        if candidate.refuse or candidate.named > ("timm" in stated) or (candidate.timms and "timm" in stated):
            continue
        try:
            found = layouts.extract(contents.tree, candidate)
        except UserError as error:
            raise UserError(f"{ref}: {error.message}", remedy=error.remedy) from error
        if not found.fits:
            continue
        try:
            matches.append(
                _fit(ref, found, arch or published_arch, _complete(candidate, stated, bool(layout), arch))
            )
        except UserError as error:
            rank = len(found.weights) - len(found.unexpected) + 1000 * len(candidate.marks)
            failures.append((rank + 10**6 * isinstance(error, _Undetermined), error))
    failures.sort(key=lambda failure: -failure[0])
    if failures and isinstance(failures[0][1], _Undetermined):
        weakest = failures[0][0] - 10**6
        if all(len(match.weights) + 1000 * len(match.layout.marks) <= weakest for match in matches):
            raise failures[0][1]  # a layout that says less would answer a question that this one leaves open
    if not matches:
        raise _no_match(ref, contents, layout, [error for _, error in failures])
    best = max(matches, key=lambda match: len(match.layout.marks))
    others = [match for match in matches if match is not best and match.function != best.function]
    if others:
        raise UserError(
            f"{ref}: two layouts fit and give different networks: {_describe(best)} and {_describe(others[0])}",
            remedy=f"choose with --layout {best.layout.name} or --layout {others[0].layout.name}",
            code=2,
        )
    return best


def _complete(layout: Layout, stated: Facts, named: bool, arch: str | None) -> dict[str, Fact]:
    """Add what a layout says to what users, settings and published names state.

    Args:
        layout: The layout.
        stated: Facts of the stronger sources.
        named: The user or the registry names the layout, which then is no guess.
        arch: The architecture that the user names; a ViT's size stands for its usual number of heads.
    """
    guess = layout.assumed and not named
    source = ASSUMED if guess else f"layout {layout.name}"
    own = {name: Fact(getattr(layout, name), source) for name in PREPROCESSING}
    if layout.stem and not guess:
        own["stem"] = Fact(layout.stem, source)
    for name in NETWORK:
        if name in layout.options and not isinstance(layout.options[name], Mapping):
            own[name] = Fact(layout.options[name], source)
    named_size = re.match(r"vit_(tiny|small|base|large|huge)", arch or "")
    if named_size and "heads" not in layout.options and "head_dim" not in layout.options:
        own["heads"] = Fact(vit.HEADS[named_size[1]], "--arch")
    return merge(stated, own)


def _family(arch: str) -> str:
    """The family of ``layouts.yaml`` that an architecture belongs to."""
    start = arch.partition("_")[0]
    return {
        "vit": "vit",
        "mobilenet": "mobilenet",
        "convnext": "convnext",
        "convnextv2": "convnext",
        "swin": "swin",
        "beit": "beit",
    }.get(start, "resnet")


def _width(backbone: Backbone) -> int:
    """Channels of a transformer's token; of other networks, those of the feature."""
    return int(getattr(backbone, "width", backbone.feature_dim))


def _choose(backbone: Backbone, facts: Facts) -> Fact:
    """Make a backbone give the feature that the facts name, its usual one if they name none."""
    usual = getattr(backbone, "pooling", "avg")
    fact = facts.get("pooling", Fact(usual, "the network"))
    if fact.value != usual:
        arch: Any = getattr(backbone, "arch", "it")
        pooling.check(fact.value, getattr(backbone, "choices", ("avg",)), getattr(arch, "name", arch))
        backbone.choose(fact.value)  # type: ignore[attr-defined]  # networks with a choice have it
    return fact


def _describe(match: _Match) -> str:
    return f"{match.layout.name} ({match.arch}, {match.layout.encoder} weights, {len(match.weights)} tensors)"


def _no_match(
    ref: str, contents: file_formats.Contents, layout: str | None, failures: list[UserError]
) -> UserError:
    refusal = layouts.known_refusal(contents.tree)
    if refusal:
        return UserError(f"{ref}: {refusal.message}", remedy=refusal.remedy)
    if failures:
        first, way = failures[0], _way_on(contents.tree)
        if isinstance(first, _Leftover) and way:
            return UserError(
                first.message, remedy=f"nothing was loaded; if that is no part of the backbone: {way}"
            )
        return first
    keys = ", ".join(str(key) for key in list(contents.tree)[:5])
    if layout:
        return UserError(
            f"{ref}: does not look like layout {layout}: it holds {keys}", remedy="leave --layout out"
        )
    return UserError(
        f"{ref}: no known layout fits: it holds {keys}",
        remedy=_way_on(contents.tree) or "see docs/checkpoints.md for the layouts and how to add one",
    )


_LANDMARKS = ("layer1.0.conv1.weight", "4.0.conv1.weight", "patch_embed.proj.weight", "features.0.0.weight")


def _way_on(tree: Mapping[Any, Any]) -> str:
    """Where in a file a backbone under known names lies, as options that would read it."""
    starts = dict.fromkeys(
        key[: -len(mark)]
        for key, _ in layouts.flatten(tree)
        for mark in _LANDMARKS
        if key == mark or key.endswith(f".{mark}")
    )
    return " or ".join(f"--prefix {start}" for start in list(starts)[:4] if start)


def _fit(ref: str, found: layouts.Extract, arch: str | None, facts: dict[str, Fact]) -> _Match:
    """Give every tensor its place in the architecture or fail."""
    layout = found.layout
    network = {name: fact for name, fact in facts.items() if name in NETWORK}
    usable(network, ref)
    options = {**layout.options, **{name: fact.value for name, fact in network.items()}}
    weights = {name: as_tensor(value) for name, value in found.weights.items()}
    try:
        weights = TRANSFORMS[layout.transform](weights)
        if layout.named:
            name = str(options["timm"]["architecture"])
        else:
            options.pop("timm", None)
            name = arch or architectures.infer(_shapes(weights), options)
            about = {key: fact for key, fact in facts.items() if key in network or key in PREPROCESSING}
            belong(about, architectures.measured(_shapes(weights), name))
        if layout.archs and not re.fullmatch(layout.archs, name):
            raise UserError(f"a {name}, and such files hold {layout.archs}", remedy="name the layout")
        skeleton = architectures.build(name, _shapes(weights), options)
    except UserError as error:
        raise UserError(
            f"{ref}: as layout {layout.name}: {error.message}", remedy=error.remedy, code=error.code
        ) from error
    family = "timm" if layout.named else _family(name)
    wanted = architectures.target(skeleton).state_dict()
    for start in timm_networks.classifiers(skeleton) if layout.named else ():
        if head := [key for key in weights if key.startswith(f"{start}.") and key not in wanted]:
            weights = {key: tensor for key, tensor in weights.items() if key not in head}
            found.dropped[f"{start}."] = "classifier"
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
        elsewhere = _elsewhere(lost[0], extra) if layout.named and lost else ""
        kind = UserError if lost or wrong else _Leftover
        raise kind(
            f"{ref}: as layout {layout.name} and {name}: {'; '.join(problems)}",
            remedy=elsewhere or "nothing was loaded; try --layout or --arch if the guess is wrong",
        )
    facts = dict(facts)
    if family in ("vit", "beit"):
        heads = vit.heads_of(options, _width(skeleton), vit.depth_of(wanted))
        if heads is None and family == "beit":
            heads = beit.heads_by_table(_shapes(weights))
        if heads is None:
            raise _Undetermined(
                f"{ref}: as layout {layout.name} and {name}: the file does not say how many heads of attention, and "
                "other numbers compute something else from the same tensors",
                remedy="say --heads N, or lay the model's config.json beside the file",
                code=2,
            )
        facts.setdefault("heads", Fact(heads, f"layout {layout.name}"))
    there = getattr(skeleton, "choices", ("avg",))
    for open_fact, value in layouts.undetermined(layout, family).items():
        if value.value is not None and (open_fact != "pooling" or value.value in there):
            facts.setdefault(open_fact, value)
    facts["pooling"] = _choose(skeleton, facts)
    kept = layouts.families()[family]["open"]
    facts = {key: fact for key, fact in facts.items() if key in PREPROCESSING or key in kept}
    state = {}
    for key, want in wanted.items():
        tensor = weights.get(key, torch.zeros((), dtype=torch.int64))
        if want.is_floating_point() and not tensor.is_floating_point():
            raise UserError(
                f"{ref}: {key} holds {str(tensor.dtype).removeprefix('torch.')} values, as quantised weights do, "
                "whose scales are not read",
                remedy="save the weights as float32, float16 or bfloat16",
            )
        state[key] = tensor.to(want.dtype)
    return _Match(layout, name, skeleton, state, found.dropped, missing, facts, family)


def _elsewhere(key: str, unexplained: Sequence[str]) -> str:
    """The option that reads a network whose keys all lie below another name."""
    place = next((name for name in unexplained if name.endswith(f".{key}")), "")
    return f"its weights lie below another name: --prefix {place.removesuffix(key)}" if place else ""


def as_tensor(value: Any) -> Tensor:
    """A tensor as it is, or a copy of an array: those that come out of a pickle are read-only views of its bytes."""
    return value if isinstance(value, Tensor) else torch.from_numpy(value.copy())


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}
