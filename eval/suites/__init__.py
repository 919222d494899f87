"""Suites: which checkpoints meet which tasks, as data. A suite may pretrain some of its checkpoints first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mast import yaml

from ..definitions import files
from ..errors import UserError, unknown

FOLDER = Path(__file__).parent
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Seed = Annotated[int, Field(ge=0)]
DRAWS = range(5)  # seeds of a label-efficiency curve, where none are given


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(_Strict):
    """A checkpoint that the suite pretrains: a recipe with ``key=value`` overrides, under a name of its own.

    With ``seeds`` it stands for one checkpoint a seed, named ``NAME-SEED``. ``published`` as of `Reference`.
    """

    name: Name
    recipe: str
    overrides: list[str] = []
    seeds: list[Seed] = []
    published: str = ""

    def each(self) -> list[Arm]:
        """The checkpoints it stands for."""
        return [
            Arm(
                name=f"{self.name}-{seed}",
                recipe=self.recipe,
                overrides=[*self.overrides, f"seed={seed}"],
                published=self.published,
            )
            for seed in self.seeds
        ] or [self]


class Options(_Strict):
    """What a suite says about a checkpoint, as ``mast eval``'s options do; see `eval.checkpoints.reading.Said`."""

    layout: str | None = None
    arch: str | None = None
    key: str | None = None
    prefix: str | None = None
    heads: int | None = None
    input_size: int | None = None
    normalization: list[str] | None = None
    interpolation: Literal["bicubic", "bilinear"] | None = None
    features: str | None = None
    precision: Literal["fp32", "bf16"] | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Those that are there."""
        return self.model_dump(exclude_none=True)


class Reference(_Strict):
    """A checkpoint that exists, under a name.

    Attributes:
        name: Its name in records and tables.
        ref: A path, a registry name or ``random:<arch>[@seed]``.
        like: A checkpoint listed before it, whose normalisation, input size and interpolation it takes over: a
            random control has none of its own and should see what the checkpoint it is compared with sees.
        published: ``METHOD BACKBONE``, under which published numbers are about it; what the registry says when empty.
        options: How its file is read and its features are computed.
    """

    name: Name
    ref: str
    like: str = ""
    published: str = ""
    options: Options = Options()


class Block(_Strict):
    """Every task x protocol x seed of this block is run with every checkpoint.

    Attributes:
        tasks: Names from ``mast list tasks``.
        protocols: Names from ``mast list protocols``.
        seeds: Evaluation seeds.
        overrides: Changed parameters of these protocols.
        shots: Sizes of a label-efficiency curve: labels a class, shares such as ``10%``, and ``all``. Each size is
            drawn once a seed; without seeds, with five.
        checkpoints: Names of the checkpoints to use; all of the suite when empty.
    """

    tasks: Annotated[list[str], Field(min_length=1)]
    protocols: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    overrides: dict[str, Any] = {}
    shots: list[Annotated[int, Field(ge=1)] | str] = []
    checkpoints: list[Name] = []

    @property
    def draws(self) -> list[int]:
        """The seeds; those of a curve where none are given."""
        return self.seeds if not self.shots or "seeds" in self.model_fields_set else list(DRAWS)


class Suite(_Strict):
    """A suite as its YAML file says it.

    Attributes:
        name: Its name, and that of its record file.
        description: One line for ``mast list suites``.
        title: Heading of its table and report.
        minutes: What a whole run takes, as measured on ``hardware``.
        hardware: Where ``minutes`` was measured.
        scenes: Size of the embedded data that is written first, and read where no ``--data-root`` is given.
        pretrain: Checkpoints to pretrain.
        checkpoints: Checkpoints that exist.
        cells: What to run.
        published: Files of ``results/published`` by name, or paths of others, with the numbers that `mast reproduce`
            compares with.
        chosen: The same for hyper-parameters that a publication chose.
        absent: What the publication says and is not at hand, one sentence each.
    """

    name: Name
    description: str
    title: str = ""
    minutes: float | None = None
    hardware: str = "two CPU cores"
    scenes: Literal["demo", "test", "evidence"] | None = None
    pretrain: list[Arm] = []
    checkpoints: list[Reference] = []
    cells: Annotated[list[Block], Field(min_length=1)]
    published: list[str] = []
    chosen: list[str] = []
    absent: list[str] = []

    @field_validator("pretrain")
    @classmethod
    def _seeds(cls, arms: list[Arm]) -> list[Arm]:
        return [arm for given in arms for arm in given.each()]

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [arm.name for arm in self.pretrain] + [reference.name for reference in self.checkpoints]
        if not names:
            raise ValueError("a suite needs checkpoints, under 'pretrain' or 'checkpoints'")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the checkpoint name '{name}' is given twice")
        for position, reference in enumerate(self.checkpoints, start=len(self.pretrain)):
            if reference.like and reference.like not in names[:position]:
                raise ValueError(str(unknown("earlier checkpoint", reference.like, names[:position])))
        for block in self.cells:
            for name in block.checkpoints:
                if name not in names:
                    raise ValueError(str(unknown("checkpoint", name, names)))
        return self


def names() -> list[str]:
    """The suites that come with the package, and those of included folders."""
    return sorted(files(FOLDER))


def load(name: str | Path) -> Suite:
    """Read a suite by name or path.

    Raises:
        UserError: For an unknown suite or key, a key that stands twice, or a wrong value.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        if str(name) not in (known := files(FOLDER)):
            raise unknown("suite", str(name), known)
        path = known[str(name)]
    elif not path.is_file():
        raise UserError(
            f"{path}: no such suite file", remedy="`mast list suites` shows what there is", code=2
        )
    return parse(yaml.read(path), str(path))


def parse(value: Any, source: str) -> Suite:
    """Check a suite given as plain data; ``source`` stands in errors."""
    return yaml.build(Suite, value, where=source)
