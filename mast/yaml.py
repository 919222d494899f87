"""The one reader of YAML: text to plain data, plain data to a model, one line for whatever is wrong.

It reads YAML's core: null, true and false, decimal and hexadecimal integers, finite floats, texts, lists, and
mappings whose keys are texts. What YAML 1.1 would turn into something nobody wrote (dates, octal 010, base-60
12:30) stays the text that stands there; tags are refused.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from .errors import UserError, unknown

T = TypeVar("T")
LONGEST = 4 << 20  # bytes of a file
DEEPEST = 40  # lists and mappings within each other, aliases followed
LARGEST = 200_000  # values, aliases followed: a few lines of aliases can stand for billions
_TAG = "tag:yaml.org,2002:"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."


class _Nodes(
    yaml.reader.Reader,
    yaml.scanner.Scanner,
    yaml.parser.Parser,
    yaml.composer.Composer,
    yaml.resolver.BaseResolver,
):
    """PyYAML up to the tree of nodes, whose size and depth are held against the limits while it grows."""

    def __init__(self, stream: str | bytes) -> None:
        yaml.reader.Reader.__init__(self, stream)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)
        yaml.composer.Composer.__init__(self)
        yaml.resolver.BaseResolver.__init__(self)
        self._open = 0
        self._measures: dict[int, tuple[int, int]] = {}  # of finished nodes: values and depth

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        alias, mark, tag = isinstance(event, yaml.AliasEvent), event.start_mark, getattr(event, "tag", None)
        if tag is not None:
            raise yaml.MarkedYAMLError(problem=f"the tag {tag} is not read", problem_mark=mark)
        self._open += 1
        if self._open > DEEPEST:
            raise yaml.MarkedYAMLError(
                problem=f"more than {DEEPEST} levels within each other", problem_mark=mark
            )
        node = super().compose_node(parent, index)
        self._open -= 1
        if alias:
            if id(node) not in self._measures:
                raise yaml.MarkedYAMLError(problem="an alias stands within what it names", problem_mark=mark)
            return node
        children: list[Any] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        measures = [self._measures[id(child)] for child in children]
        size = 1 + sum(size for size, _ in measures)
        depth = 1 + max((depth for _, depth in measures), default=0)
        if size > LARGEST or depth > DEEPEST:
            what = f"{LARGEST:,} values" if size > LARGEST else f"{DEEPEST} levels within each other"
            raise yaml.MarkedYAMLError(problem=f"more than {what}", problem_mark=mark)
        self._measures[id(node)] = size, depth
        return node


for _kind, _pattern, _letters in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (
        "bool",
        r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
        list("yYnNtTfFoO"),
    ),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)", list("-+0123456789")),
    # YAML 1.1 wants a dot in a float and a sign in its exponent; people write 1e-3 and 1.5e3.
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _Nodes.add_implicit_resolver(_TAG + _kind, re.compile(f"(?:{_pattern})$"), _letters)


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    if len(digits) > 20 or not -(2**63) <= (value := int(digits, 0)) < 2**63:
        raise ValueError("is an integer beyond 64 bits")
    return value


def _float(text: str) -> float:
    value = float(text.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    if not math.isfinite(value):
        raise ValueError("is no finite number")
    return value


def _text(text: str) -> str:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("holds half a character, which nothing could write")
    return text


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() in ("yes", "true", "on"),
    "int": _integer,
    "float": _float,
    "str": _text,
}


def _scalar(node: yaml.ScalarNode, kind: str) -> Any:
    try:
        return _SCALARS[kind](node.value)
    except ValueError as error:
        problem = f"{_short(node.value)} {error}"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error


def _value(node: Any) -> Any:
    """A node as plain data."""
    if isinstance(node, yaml.SequenceNode):
        return [_value(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node)
    kind = str(node.tag).removeprefix(_TAG)
    return _scalar(node, "str" if kind == "merge" else kind)


def _mapping(node: yaml.MappingNode) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    found: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        problem = ""
        if not isinstance(key, yaml.ScalarNode):
            problem = "a key is a list or a mapping; keys are texts"
        elif key.value in lines:
            problem = f"key '{key.value}' stands twice, on lines {lines[key.value]} and {line}"
        elif key.tag == _TAG + "merge" and not isinstance(value, yaml.MappingNode):
            problem = "<< takes one mapping"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        lines[key.value] = line
        if key.tag == _TAG + "merge":
            merged = _mapping(value)
        else:
            found[_scalar(key, "str")] = _value(value)
    return {**merged, **found}


def parse(text: str | bytes, source: str) -> Any:
    """Parse YAML text; keys are the texts that stand there.

    Args:
        text: The text; bytes are UTF-8, or UTF-16 with its mark.
        source: Where it is from, as the start of an error.

    Raises:
        UserError: If it is not YAML, has a duplicate key, or holds what this reader refuses.
    """
    if len(text) > LONGEST:
        raise UserError(f"{source}: longer than {LONGEST >> 20} MiB", remedy="give the right file", code=2)
    try:
        node = _Nodes(text).get_single_node()
        return None if node is None else _value(node)
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise UserError(f"{source}{place}: {problem}", remedy="correct it", code=2) from error
    except (
        yaml.YAMLError,
        ValueError,
        OverflowError,
    ) as error:  # the scanner lets bad escapes through as these
        problem = " ".join(str(error).split())
        raise UserError(f"{source}: not YAML text: {problem}", remedy="write it as UTF-8", code=2) from error


def read(path: Path) -> Any:
    """Read a YAML file; see `parse`."""
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        raise UserError(f"{path}: cannot be read: {error}", remedy="give a YAML file", code=2) from error
    return parse(content, str(path))


def build(cls: type[T], values: Any, *, where: str) -> T:
    """Make a model of plain data: types are not bent ("3" is no number, true is no 1), unknown keys are errors.

    Args:
        cls: A pydantic model or a dataclass.
        values: Its fields.
        where: What the error names first: a file, or "override ...".

    Raises:
        UserError: In one line: where, the place in it, what was found, and the near name if it is a name.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: holds {_short(values)}, not a mapping of keys to values", code=2)
    try:
        # JSON's strict mode is what fits files: lists become tuples, whole numbers floats, nothing else is bent.
        model: T = _adapter(typing.cast("Any", cls)).validate_json(json.dumps(values), strict=True)
        return model
    except ValidationError as error:
        raise _first(cls, error, where) from error
    except UserError as error:
        raise UserError(f"{where}: {error.message}", remedy=error.remedy, code=error.code) from error


@functools.cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    if dataclasses.is_dataclass(cls) and not hasattr(cls, "__pydantic_config__"):
        setattr(cls, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010
    return TypeAdapter(cls)


def _first(cls: type[Any], error: ValidationError, where: str) -> UserError:
    """The first of the errors in our words; a key that is unknown goes before one that is missing."""
    found = error.errors()
    extra = ("extra_forbidden", "unexpected_keyword_argument")
    first = next((item for item in found if item["type"] in extra), found[0])
    place = ".".join(map(str, first["loc"]))
    if first["type"] in extra:
        *above, name = first["loc"]
        inside = ".".join(map(str, above))
        wrong = _unknown_key(cls, tuple(above), str(name))
        return UserError(
            f"{where}: {inside + ': ' if inside else ''}{wrong.message}", remedy=wrong.remedy, code=2
        )
    if first["type"] == "missing":
        return UserError(f"{where}: the key '{place}' is missing", remedy="add it", code=2)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] != "value_error":
        message = f"{message[0].lower()}{message[1:]} (found {_short(first['input'])})"
    return UserError(f"{where}: {place + ': ' if place else ''}{message}", code=2)


def _unknown_key(cls: type[Any], above: tuple[int | str, ...], name: str) -> UserError:
    """The error for a key that the models at a place do not have: near names there, else anywhere in the model."""
    models = [cls]
    for part in above:
        fields = {field: kind for model in models for field, kind in _fields(model).items()}
        if part in fields:
            models = list(_models(fields[str(part)]))
    here = [field for model in models for field in _fields(model)]
    elsewhere = [place for place in _places(cls) if place.rpartition(".")[2] == name]
    if elsewhere and not difflib.get_close_matches(name, here):
        return UserError(f"unknown key '{name}'", remedy=f"did you mean {' or '.join(elsewhere)}?", code=2)
    return unknown("key", name, here)


def _places(cls: type[Any], above: str = "") -> Iterator[str]:
    """The dotted names of all keys of a model."""
    for name, kind in _fields(cls).items():
        yield above + name
        for model in _models(kind):
            yield from _places(model, f"{above}{name}.")


def _fields(cls: type[Any]) -> dict[str, Any]:
    if issubclass(cls, BaseModel):
        return {name: field.annotation for name, field in cls.model_fields.items()}
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _models(annotation: Any) -> Iterator[type[Any]]:
    """The models in an annotation such as ``list[Block] | None``."""
    plain = isinstance(annotation, type) and typing.get_origin(annotation) is None
    if plain and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models(part)
