"""The reader of YAML: the right value, or one line that names the source and the place."""

import contextlib
import dataclasses
import random
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml as pyyaml
from pydantic import BaseModel, ConfigDict, Field

from mast import yaml
from mast.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


def bomb(levels: int) -> str:
    """Nine values on each of some levels: 9^levels in all."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-3\nb: 1.5e3\nc: .5\nd: 3.\ne: -2", {"a": 1e-3, "b": 1500.0, "c": 0.5, "d": 3.0, "e": -2}),
        ("a: 0x1F\nb: 1_000\nc: 010\nd: 12:30:45", {"a": 31, "b": 1000, "c": "010", "d": "12:30:45"}),
        ("a: 2024-13-45\nb: 2024-01-01", {"a": "2024-13-45", "b": "2024-01-01"}),
        ("a: yes\nb: off\nc: null\nd: ~\ne:", {"a": True, "b": False, "c": None, "d": None, "e": None}),
        ("1: a\nyes: b\n1.0: c", {"1": "a", "yes": "b", "1.0": "c"}),
        ("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}", {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}}),
        ("x: &x [1]\ny: *x", {"x": [1], "y": [1]}),
        ("\ufeffa: ü".encode(), {"a": "ü"}),
        ("a: ü".encode("utf-16"), {"a": "ü"}),
        ("", None),
        (bomb(4), None),
    ],
)
def test_what_is_written_is_read(text: str | bytes, value: object) -> None:
    found = yaml.parse(text, "f")
    if value is not None or text == "":
        assert found == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3", "f, line 3: key 'a' stands twice, on lines 1 and 3"),
        ("? [a]\n: b", "f, line 1: a key is a list or a mapping"),
        ("? {a: b}\n: c", "a key is a list or a mapping"),
        ("a: " + "9" * 5000, "f, line 1: .* is an integer beyond 64 bits"),
        (f"a: {2**63}", "beyond 64 bits"),
        ("a: 1e999", "is no finite number"),
        ("a: .nan", "is no finite number"),
        ("\na: -.Inf", "f, line 2: .*is no finite number"),
        ("[" * 100_000, "more than 40 levels"),
        ("\n".join(" " * n + "a:" for n in range(300)), "more than 40 levels"),
        (
            "\n".join(["a0: &a0 x", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 99))]),
            "more than 40 levels",
        ),
        ("a: &a [*a]", "an alias stands within what it names"),
        ("a: &a {b: *a}", "an alias stands within what it names"),
        (bomb(12), "more than 200,000 values"),
        (bomb(12).replace("[", "{<<: ").replace(", *", ", k: *"), "f, line "),
        ("a: *b", "undefined alias"),
        ("a: !!python/object/apply:os.system [x]", "the tag .* is not read"),
        ("a: !!timestamp x", "the tag .* is not read"),
        ("a: !!set {b}", "the tag .* is not read"),
        ("<<: [1]", "<< takes one mapping"),
        ('a: "\\ud800"', "holds half a character"),
        ('"\\ud800": a', "holds half a character"),
        ('a: "\\U99999999"', "f: not YAML text"),
        (b"a: \xe9", "f: not YAML text"),
        (b"\xff\xfea", "f: not YAML text"),
        ("a\0b", "f: not YAML text"),
        ("--- 1\n--- 2", "f, line 2: expected a single document"),
        ("a: [1, 2", "f, line 1: "),
        ("%YAML 9.0\n---\na", "f, line 1: "),
        ("a" * (5 << 20), "f: longer than 4 MiB"),
    ],
)
def test_what_cannot_be_meant_is_one_line(text: str | bytes, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        yaml.parse(text, "f")
    assert "\n" not in str(caught.value)
    assert caught.value.code == 2
    assert str(caught.value).encode()


def test_every_file_of_the_repository_is_read_as_pyyaml_reads_it() -> None:
    def texts(value: object) -> object:
        if isinstance(value, dict):
            return {str(key): texts(item) for key, item in value.items()}
        return [texts(item) for item in value] if isinstance(value, list) else value

    files = [f for room in ("mast", "eval", "pretrained") for f in (ROOT / room).rglob("*.yaml")]
    assert len(files) > 30
    for file in files:
        assert yaml.read(file) == texts(pyyaml.safe_load(file.read_text(encoding="utf-8"))), file


def test_made_up_texts_give_a_value_or_one_line() -> None:
    """Pieces of YAML in any order, and real files with bytes changed: nothing but plain data and UserError."""
    pieces = ["a", "b: ", "- ", "\n", "  ", "[", "]", "{", "}", ",", ": ", "&x ", "*x", "!!int ", "!", "'", '"', "|",
              ">", "<<: ", "0x", "1e", ".", "9" * 30, "2001-02-31", "12:99", "~", "#", "%", "---", "...", "\t", "? ",
              "\\u12", "\x85", "é", "@", "`", "\ufffe"]  # fmt: skip
    rng = random.Random(0)
    real = (ROOT / "mast/recipes/demo.yaml").read_bytes()
    for turn in range(1500):
        text: str | bytes = "".join(rng.choices(pieces, k=rng.randrange(1, 25)))
        if turn % 3 == 0:
            changed = bytearray(real)
            for _ in range(rng.randrange(1, 6)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            text = bytes(changed)
        with contextlib.suppress(UserError):
            yaml.parse(text, "f")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.yaml", Path("a\0b")):
        with pytest.raises(UserError, match="cannot be read"):
            yaml.read(path)


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: Annotated[int, Field(gt=0)]
    kind: Literal["one", "two"] = "one"


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    rate: float = 1.0
    flag: bool = False
    pair: tuple[float, float] = (0.0, 1.0)
    parts: list[Part] = []
    named: dict[str, Part] = {}


@dataclasses.dataclass(frozen=True)
class Plain:
    name: str
    sides: tuple[int, ...] = ()


def test_types_are_kept() -> None:
    built = yaml.build(
        Whole, yaml.parse("{name: a, rate: 2, pair: [1, 2], parts: [{size: 3}]}", "f"), where="f"
    )
    assert built == Whole(name="a", rate=2.0, pair=(1.0, 2.0), parts=[Part(size=3)])
    assert yaml.build(Plain, {"name": "a", "sides": [1, 2]}, where="f") == Plain("a", (1, 2))
    rng = random.Random(1)
    numbers = {str(n): rng.random() * 10.0 ** rng.randrange(-300, 300) for n in range(2000)}

    class Numbers(BaseModel):
        all: dict[str, float]

    assert yaml.build(Numbers, {"all": numbers}, where="f").all == numbers


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1]", "f: holds [1], not a mapping of keys to values"),
        ("{}", "f: the key 'name' is missing (add it)"),
        ("{nam: a}", "f: unknown key 'nam' (did you mean name or named?)"),
        ("{name: a, size: 3}", "f: unknown key 'size' (did you mean parts.size or named.size?)"),
        ("{name: 3}", "f: name: input should be a valid string (found 3)"),
        ("{name: a, rate: '3'}", "f: rate: input should be a valid number (found '3')"),
        ("{name: a, rate: true}", "f: rate: input should be a valid number (found True)"),
        ("{name: a, flag: 1}", "f: flag: input should be a valid boolean (found 1)"),
        ("{name: a, parts: [{size: 1}, {sise: 1}]}", "f: parts.1: unknown key 'sise' (did you mean size?)"),
        ("{name: a, parts: [{size: 0}]}", "f: parts.0.size: input should be greater than 0 (found 0)"),
        ("{name: a, parts: [{size: 1.5}]}", "f: parts.0.size: input should be a valid integer"),
        ("{name: a, named: {x: {size: 1, kin: two}}}", "f: named.x: unknown key 'kin' (did you mean kind?)"),
        ("{name: a, parts: {size: 1}}", "f: parts: input should be a valid array (found {'size': 1})"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(text: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        yaml.build(Whole, yaml.parse(text, "f"), where="f")
    assert str(caught.value).startswith(told)
    with pytest.raises(UserError, match=r"f: unknown key 'side' .did you mean sides"):
        yaml.build(Plain, {"name": "a", "side": [1]}, where="f")
