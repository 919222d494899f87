"""Layouts as data: each entry of ``layouts.yaml`` says where a method keeps its backbone and under which names."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..definitions import build, files, read_yaml
from ..errors import UserError, unknown
from .facts import Fact
from .normalization import Normalization

FILE = Path(__file__).with_name("layouts.yaml")
_WRAPPERS = {
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_module",
    "timm_model",
    "_backbone",
}
"""Parts of a name that DistributedDataParallel, compile, FSDP, Classy Vision and transformers' two classes around
timm's networks put in. They mean nothing."""


def _paths(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


class _Resizing(BaseModel):
    """How a transformer's positions are resized to another size of image."""

    model_config = ConfigDict(extra="forbid")

    offset: Annotated[float, Field(ge=0, lt=1)] = 0.0
    antialias: bool = False


class _Positions(_Resizing):
    """The same, and how where there are registers."""

    registers: _Resizing | None = None


_Heads = Annotated[int, Field(ge=1, le=1 << 10)]
_Epsilon = Annotated[float, Field(gt=0, lt=1)]


class _Options(BaseModel):
    """What a layout may say about its networks; a word that is not here would decide nothing, and is an error."""

    model_config = ConfigDict(extra="forbid")

    heads: _Heads | dict[Annotated[str, Field(pattern=r"^\d+(x\d+)?$")], _Heads] = 1
    head_dim: Annotated[int, Field(ge=1, le=1 << 14)] = 64
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"] = "gelu"
    eps: _Epsilon = 1e-6
    final_eps: _Epsilon = 1e-6
    pooling: Literal["cls", "mean", "cls+mean", "last4", "last4+mean", "map", "avg"] = "cls"
    positions: _Positions = _Positions()
    rope: Literal["dinov3"] = "dinov3"
    relative: Literal["beit"] = "beit"
    padding: Literal["same"] = "same"
    stride_in_1x1: bool = False


_Paths = Annotated[tuple[str, ...], BeforeValidator(_paths)]  # a single path may stand there alone


@dataclass(frozen=True)
class Layout:
    """One entry of the table.

    Attributes:
        name: Short name, what ``--layout`` takes.
        title: The methods or libraries that write it.
        source: Where it was read.
        at: Alternatives; each is the dotted paths of the dicts that together hold the weights ("" is the top).
        prefix: What every backbone key starts with, wrappers aside.
        marks: Regular expressions, each of which must match the start of some key.
        absent: Regular expressions that must match the start of no key.
        drop: Start of a key (a regular expression) and why it is left out.
        copies: Start of a key and the start of the one that must hold the same tensor; a difference is an error.
        rename: Regular expressions and replacements that lead to torchvision's or timm's names, in order.
        transform: Name of a function of `tensor_edits` for what renaming cannot do.
        encoder: ``online`` or ``ema``, as the authors' evaluation takes it.
        variants: Further copies in the file: name and prefix, or the whole path ``a.b:prefix``.
        stem: What a 3x3 first convolution means: ``cifar``, ``cifar2`` or ``half``; none asks for ``--arch``.
        normalization: As in a passport.
        input_size: Pixels.
        interpolation: ``bicubic`` or ``bilinear``.
        refuse: Why files of this kind cannot be used at all.
        explicit: Only used when asked for by name or by the registry, because content cannot tell it.
        assumed: Files of many origins look like this, so that preprocessing is a guess.
        timms: Under timm's names: where another network of timm's is named, the layout ``timm`` takes its place.
        named: Only where settings, a published name or the user name timm's network.
        archs: Regular expression that the architecture must match.
        network: The families whose networks such files hold: keys of ``families`` in the table.
        options: What its networks compute otherwise than their family's (see `architectures.build`).
    """

    name: str
    title: str
    source: str
    at: tuple[_Paths, ...] = (("",),)
    prefix: str = ""
    marks: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    drop: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    rename: tuple[tuple[str, str], ...] = ()
    transform: str = ""
    encoder: str = "online"
    variants: dict[str, str] = field(default_factory=dict)
    stem: str = ""
    normalization: Normalization = field(default_factory=Normalization)
    input_size: int = 224
    interpolation: str = "bilinear"
    refuse: str = ""
    explicit: bool = False
    assumed: bool = False
    timms: bool = False
    named: bool = False
    archs: str = ""
    network: tuple[str, ...] = ("resnet",)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Extract:
    """A layout applied to a file.

    Attributes:
        layout: The layout.
        weights: Tensors under torchvision's or timm's names.
        dropped: What was left out and why.
        unexpected: The file's keys that nothing explains.
        fits: Whether the state dict is where the layout says and carries its marks.
    """

    layout: Layout
    weights: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    fits: bool = True


@functools.cache
def _document() -> dict[str, Any]:
    return read_yaml(FILE)


def table() -> dict[str, Layout]:
    """All layouts by name, in the order in which equals are preferred: the package's, then included ones."""
    return _table(tuple(files(Path(__file__).with_name("layouts")).values()))


@functools.cache
def _table(own: tuple[Path, ...]) -> dict[str, Layout]:
    document = _document()
    entries = [(str(FILE), document["layouts"]), *((str(path), {path.stem: read_yaml(path)}) for path in own)]
    found: dict[str, Layout] = {}
    for where, layouts in entries:
        for name, entry in layouts.items():
            if name in found:
                raise UserError(f"{where}: the layout '{name}' is defined twice", remedy="rename one", code=2)
            found[name] = _entry(name, entry, document["renames"], where)
    return found


def _beside() -> dict[str, str]:
    return dict(_document()["beside"])


@functools.cache
def _counters() -> tuple[str, ...]:
    return tuple(_document()["counters"])


def families() -> dict[str, dict[str, Any]]:
    """What keys and shapes of a family's networks leave open, with the value that its common code has.

    A value of None has none: the layout, the file's settings or the user must state it.
    """
    return dict(_document()["families"])


def undetermined(layout: Layout, family: str) -> dict[str, Fact]:
    """The facts that the keys of a layout's files leave open, and what the layout says about each.

    Args:
        layout: The layout.
        family: One of its ``network``.

    Returns:
        For each fact its value, None where the file's settings or the user must state it, and its source.
    """
    common = families()[family]
    own = {**layout.options, **({"stem": layout.stem} if layout.stem else {})}
    if "head_dim" in own:
        own["heads"] = f"one for {own['head_dim']} channels"
    return {
        name: Fact(own[name], f"layout {layout.name}")
        if name in own
        else Fact(value, f"layout {layout.name} ({common['code']})")
        for name, value in common["open"].items()
    }


def _entry(name: str, entry: Mapping[str, Any], renames: Mapping[str, Any], where: str) -> Layout:
    fields = {"name": name, "title": name, "source": where, **entry}
    if isinstance(rename := fields.get("rename"), str):
        if rename not in renames:
            wrong = unknown("list of renames", rename, renames)
            raise UserError(f"{where}, {name}: {wrong.message}", remedy=wrong.remedy, code=2)
        fields["rename"] = renames[rename]
    constants = fields.pop("normalization", {})
    if not isinstance(constants, Mapping):
        raise UserError(
            f"{where}, {name}: the normalisation is no mapping", remedy="give mean and std", code=2
        )
    layout = build(Layout, fields, where=f"{where}, {name}")
    build(_Options, layout.options, where=f"{where}, {name}: options")
    _expressions(layout, f"{where}, {name}")
    # Its numbers stand in passports as the file has them: 0 and not 0.0.
    return replace(layout, normalization=Normalization.from_json({**Normalization().to_json(), **constants}))


def _expressions(layout: Layout, where: str) -> None:
    """Refuse regular expressions that are none before any file is held against them."""
    given = [(text, "") for text in (*layout.marks, *layout.absent, *layout.drop, layout.archs)]
    for pattern, replacement in (*given, *layout.rename):
        try:
            re.compile(pattern).sub(replacement, "")
        except (re.error, IndexError, OverflowError, RecursionError) as error:
            raise UserError(
                f"{where}: '{pattern[:60]}' and '{replacement[:60]}' are no regular expression and its replacement: "
                f"{error}",
                remedy="correct it",
                code=2,
            ) from error


def get(name: str) -> Layout:
    """A layout by name, or the one in a YAML file; ``name:variant`` takes another copy, such as ``moco:ema``.

    Raises:
        UserError: If there is no such layout or variant.
    """
    base, _, variant = name.partition(":")
    if Path(base).suffix in (".yaml", ".yml"):
        layout = _entry(Path(base).stem, read_yaml(Path(base)), _document()["renames"], base)
    elif base in table():
        layout = table()[base]
    else:
        raise unknown("layout", base, table())
    if not variant:
        return layout
    if variant not in layout.variants:
        raise unknown(f"variant of layout {base}", variant, layout.variants)
    return _variant(layout, name, layout.variants[variant])


def _variant(layout: Layout, name: str, place: str) -> Layout:
    """The layout of another copy of the weights: what is kept and what is dropped change places."""
    path, colon, prefix = place.rpartition(":")
    at = (tuple(path.split("+")),) if colon else layout.at
    own, new = re.escape(layout.prefix), re.escape(prefix)
    taken = [f"/{part}" for part in at[0]] if colon else [f"{prefix}conv1.weight"]
    drop = {
        (new + rule.removeprefix(own) if own and rule.startswith(own) else rule): reason
        for rule, reason in layout.drop.items()
        if not any(re.match(rule, key) for key in taken) or (own and rule.startswith(own))
    }
    if colon:
        drop |= {
            re.escape(f"/{part}"): "another copy of the weights" for paths in layout.at for part in paths
        }
    else:
        drop[own] = "another copy of the weights"
    encoder = "online" if layout.encoder == "ema" else "ema"
    marks = () if colon else layout.marks
    return replace(
        layout, name=name, prefix=prefix, at=at, drop=drop, encoder=encoder, marks=marks, absent=(), copies={}
    )


def extract(tree: Mapping[Any, Any], layout: Layout) -> Extract:
    """Take the backbone out of a file's content as a layout says.

    Returns:
        The tensors under the names that the architecture uses, and an account of every other key.
    """
    for paths in layout.at:
        result = Extract(layout)
        keys = _keys(tree, paths, result)
        if _carries(layout, keys):
            _beside_the_weights(tree, paths, result)
            _take(keys, layout, result)
            return result
    return Extract(layout, fits=False)


def _keys(tree: Mapping[Any, Any], paths: tuple[str, ...], result: Extract) -> dict[str, Any]:
    """Tensors at the given places by name, without the wrappers' parts."""
    keys: dict[str, Any] = {}
    for path in paths:
        part = follow(tree, path)
        if not isinstance(part, Mapping) or not part:
            return {}
        for key, value in flatten(part):
            short = unwrapped(key)
            if short in _counters():
                result.dropped[short] = "a counter of averaged weights"
                continue
            if short in keys:
                result.unexpected.append(f"{key} (twice, under different wrappers)")
            keys[short] = value
    return keys


def _carries(layout: Layout, keys: Mapping[str, Any]) -> bool:
    """Whether a state dict has the layout's marks and nothing that speaks against it."""
    return (
        bool(keys)
        and all(any(re.match(mark, key) for key in keys) for mark in layout.marks)
        and not any(re.match(mark, key) for mark in layout.absent for key in keys)
    )


def _take(keys: Mapping[str, Any], layout: Layout, result: Extract) -> None:
    for key, value in keys.items():
        twin = next((key.replace(a, b, 1) for a, b in layout.copies.items() if key.startswith(a)), None)
        if twin is not None:
            if twin in keys and _same(keys[twin], value):
                result.dropped[key[: len(key) - len(twin.removeprefix(layout.prefix))]] = (
                    "the same tensors twice"
                )
            else:
                result.unexpected.append(f"{key} (should be the same as {twin}, and is not)")
            continue
        reason = next(((rule, why) for rule, why in layout.drop.items() if re.match(rule, key)), None)
        if reason:
            result.dropped[_readable(reason[0])] = reason[1]
        elif key.startswith(layout.prefix):
            name = key[len(layout.prefix) :]
            for pattern, replacement in layout.rename:
                name = re.sub(pattern, replacement, name)
            if name in result.weights:
                result.unexpected.append(f"{key} (a second {name})")
            result.weights[name] = value
        else:
            result.unexpected.append(key)


def _same(one: Any, other: Any) -> bool:
    return bool(one.shape == other.shape and (one == other).all())


def _readable(rule: str) -> str:
    return rule.replace("\\", "")


def unwrapped(key: str) -> str:
    """A key without the parts that wrappers put in.

    >>> unwrapped("module.encoder.conv1.weight")
    'encoder.conv1.weight'
    """
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)


def follow(tree: Any, path: str) -> Any:
    """What lies at a dotted path, or None; an empty path is the whole."""
    for part in filter(None, path.split(".")):
        if not isinstance(tree, Mapping) or part not in tree:
            return None
        tree = tree[part]
    return tree


def flatten(tree: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Arrays and tensors with their dotted names; numbers, text and lists are not weights."""
    seen: set[int] = set()

    def walk(node: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        if id(node) in seen:  # a file could otherwise nest shared dicts so that walking never ends
            raise UserError(
                f"the dict at '{prefix}' lies in the file twice", remedy="save each state dict once"
            )
        seen.add(id(node))
        for key, value in node.items():
            if hasattr(value, "shape") and hasattr(value, "dtype"):
                yield f"{prefix}{key}", value
            elif isinstance(value, Mapping) and prefix.count(".") < _DEEPEST:
                yield from walk(value, f"{prefix}{key}.")

    yield from walk(tree, "")


_DEEPEST = 100


def _beside_the_weights(tree: Mapping[Any, Any], paths: tuple[str, ...], result: Extract) -> None:
    """Account for what lies next to the state dict: training state is known by name, other tensors are not."""
    inside = {tuple(filter(None, path.split("."))) for path in paths}
    if () in inside:
        return
    ways = {path[:n] for path in inside for n in range(len(path) + 1)}

    def walk(node: Mapping[Any, Any], place: tuple[str, ...]) -> None:
        for key, value in node.items():
            here = (*place, str(key))
            if here in inside:
                continue
            if here in ways and isinstance(value, Mapping):
                walk(value, here)
                continue
            name = ".".join(here)
            reason = _beside().get(str(key)) or next(
                (why for rule, why in result.layout.drop.items() if re.fullmatch(rule, f"/{name}")), None
            )
            if reason:
                result.dropped[name] = reason
            elif isinstance(value, Mapping) and any(True for _ in flatten(value)):
                result.unexpected += [f"{name}.{inner}" for inner, _ in flatten(value)]

    walk(tree, ())


def known_refusal(tree: Mapping[Any, Any]) -> UserError | None:
    """The reason why a recognised kind of file cannot be used, if it is such a kind."""
    for layout in table().values():
        if layout.refuse and extract(tree, layout).fits:
            return UserError(f"{layout.title}: {layout.refuse}", remedy=f"source: {layout.source}")
    return None
