"""One strict, typed configuration for a pretraining run; the known runs are ``recipes/*.yaml``."""

from __future__ import annotations

import functools
import inspect
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from . import yaml
from .augment import Augmentation
from .errors import UserError, unknown
from .objective import Weights
from .randaugment import MAST15 as AUGMENTATIONS
from .views import Views

RECIPES = Path(__file__).parent / "recipes"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """A frozen model in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Strict):
    """The images to pretrain on.

    Attributes:
        folder: Where they lie under the data root; or an address such as ``s3://bucket/images``, without passwords.
        format: ``images`` below a folder at any depth, without labels; ``folders`` of classes (labels are used by
            the probe only); tar ``shards`` as webdataset writes them; or the authors' files of ``cifar10``,
            ``cifar100`` (training part) or ``stl10`` (train, unlabeled).
        store_size: Image files and shards: every image is decoded once, its short side brought to this, its centre
            kept as a square. Without it worker processes decode every image in every epoch and cut both crops
            from the whole of it: for sets that do not fit into memory.
        limit: Use at most this many images, evenly spaced; all when null.
    """

    folder: str
    format: Literal["images", "folders", "shards", "cifar10", "cifar100", "stl10"] = "folders"
    store_size: Positive | None = None
    limit: Positive | None = None


class ViewsConfig(Strict):
    """The pairs of views.

    Attributes:
        size: Side in pixels.
        single_fraction: Share of pairs in which one augmentation alone differs.
        all_but_fraction: Share of pairs in which all but one differ.
        third_every: Every how manieth image of a batch (of a process) has a third view, which differs from its first
            in one augmentation alone; 0 for none. The sensitivity terms then look there and not at single pairs.
        augmentations: In the order in which they are applied, with their parameters.
        second: Parameters that the second view's distribution has otherwise.
    """

    size: Positive
    single_fraction: Fraction = 0.0
    all_but_fraction: Fraction = 0.0
    third_every: Annotated[int, Field(ge=0)] = 0
    augmentations: dict[str, dict[str, Any]]
    second: dict[str, dict[str, Any]] = {}

    def build(self, seed: int = 0) -> Views:
        """The views of a run, ``crop`` with this size."""
        for name in self.second:
            if name not in self.augmentations:
                raise unknown("augmentation of views.second", name, self.augmentations)
        first = [self._build(name, params) for name, params in self.augmentations.items()]
        second = [
            self._build(name, params | self.second.get(name, {}))
            for name, params in self.augmentations.items()
        ]
        return Views(
            first,
            second,
            single_fraction=self.single_fraction,
            all_but_fraction=self.all_but_fraction,
            third_every=self.third_every,
            seed=seed,
        )

    def _build(self, name: str, params: dict[str, Any]) -> Augmentation:
        if name not in AUGMENTATIONS:
            raise unknown("augmentation", name, AUGMENTATIONS)
        size = {"size": self.size} if name == "crop" else {}
        checked = yaml.build(_parameters(name), size | params, where=f"augmentation '{name}'")
        return AUGMENTATIONS[name](**checked.model_dump())


@functools.cache
def _parameters(name: str) -> type[BaseModel]:
    """What an augmentation's constructor takes, as a model."""
    function = AUGMENTATIONS[name].__init__
    hints = typing.get_type_hints(function)
    fields: dict[str, Any] = {
        key: (hints[key], ... if parameter.default is inspect.Parameter.empty else parameter.default)
        for key, parameter in inspect.signature(function).parameters.items()
        if key != "self"
    }
    return create_model(name, __base__=Strict, **fields)


class Masks(Strict):
    """Where the masks start, how they learn, and what they act on.

    Attributes:
        start, spread: Masks start at ``start``, with logits spread by ``spread``.
        layout: ``even``; or every augmentation has a block of the dimensions, apart from the others', which starts
            closed for it alone (``own-closed``: room for what it changes) or open for it alone (``own-open``, as
            in Conditional Similarity Networks); dimensions in nobody's block start open for all.
        block: Size of a block as a share of the dimensions.
        closed: Where the closed part of a mask starts.
        lr: Rate of the masks' own Adam; 0 leaves them as they start.
        level: The invariance acts within the masked ``embedding``, or the backbone's ``features`` are masked
            before they enter the expander.
        sensitive: The sensitivity terms act on the dimensions that are ``closed`` for an augmentation, or, as a
            control, on ``all``.
        changes: What is to change where an augmentation alone differs, (9) and (10): the ``embedding``, or the
            backbone's ``features``, of which every augmentation has a block as ``layout`` says.
        predict: Prediction teaches the masks: it then reads off ``1 - mask``, with gradient.
    """

    start: Annotated[float, Field(gt=0, lt=1)] = 0.9
    spread: float = 0.1
    layout: Literal["even", "own-closed", "own-open"] = "even"
    block: Fraction = 0.1
    closed: Annotated[float, Field(gt=0, lt=1)] = 0.05
    lr: Annotated[float, Field(ge=0)] = 0.02
    level: Literal["embedding", "features"] = "embedding"
    sensitive: Literal["closed", "all"] = "closed"
    changes: Literal["embedding", "features"] = "embedding"
    predict: bool = False


class Optimizer(Strict):
    """``lars`` as in VICReg's code (with ``eta``), ``sgd`` or ``adamw``. Rate: ``base_lr * batch_size / 256``.

    It changes with every step, or with ``rate_by: epoch`` only where an epoch begins.
    """

    name: Literal["lars", "sgd", "adamw"]
    base_lr: float
    weight_decay: float
    momentum: float = 0.9
    eta: float = 0.001
    warmup_epochs: float = 10.0
    final_lr: Fraction = 0.001
    rate_by: Literal["step", "epoch"] = "step"


class Recipe(Strict):
    """Everything that decides a run's weights.

    Attributes:
        name: Its name, which stands in the passport.
        description: One line for ``mast list recipes``.
        source: Where its numbers come from.
        method: ``vicreg``, or ``mast``, which has masks.
        uncertainty: Give ``mast`` the variance head, whose certainty weights pairs of views.
        expander: Widths of the expander's layers.
        accumulate: Parts of a batch that are forwarded one after another before a step. Gradients are averaged,
            but variance, covariance, BatchNorm and the certainty weights see one part at a time: the loss is that
            of ``batch_size / accumulate`` images, and smaller parts are another, noisier loss.
        precision: ``bf16`` is autocast; ``fp64`` is for comparisons.
        channels_last: Memory format of images and convolutions.
        compile: Let torch compile the backbone.
        probe: Log a k-NN probe on the features at hand at every epoch's end.
        stop_on_collapse: End with an error when embedding or masks have collapsed.
        save_minutes: Time between two saved states.
    """

    name: str
    description: str = ""
    source: str = ""
    method: Literal["vicreg", "mast"]
    arch: str
    data: Data
    views: ViewsConfig
    expander: tuple[Positive, ...]
    weights: Weights = Weights()
    masks: Masks = Masks()
    uncertainty: bool = False
    optimizer: Optimizer
    batch_size: Annotated[int, Field(ge=2)]
    epochs: Positive
    accumulate: Positive = 1
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    seed: Annotated[int, Field(ge=0)] = 0
    probe: bool = True
    stop_on_collapse: bool = True
    save_minutes: float = 1.0

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        views, masks = self.views, self.masks
        if self.method == "mast" and views.single_fraction == 0 and masks.lr and not masks.predict:
            raise ValueError(
                "views.single_fraction: MAST's masks learn from single pairs; give it more than 0"
            )
        if views.single_fraction + views.all_but_fraction > 1:
            raise ValueError("views: single_fraction and all_but_fraction are shares and exceed 1 together")
        if masks.layout != "even" and masks.block * len(views.augmentations) > 1:
            raise ValueError(f"masks.block: {len(views.augmentations)} blocks of {masks.block:g} exceed 1")
        self._sensitive()
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate: {self.batch_size} images do not part into {self.accumulate}")
        streams = self.data.store_size is None and self.data.format in ("images", "folders", "shards")
        if streams and next(iter(views.augmentations), "") != "crop":
            raise ValueError("data.store_size: without it the views' first augmentation has to be crop")
        return self

    def _sensitive(self) -> None:
        """Refuse sensitivity terms that nothing could satisfy or that would see no pair."""
        weights, views, masks = self.weights, self.views, self.masks
        terms = ("sensitivity", "decorrelation", "prediction", "contrast")
        asked = [name for name in terms if getattr(weights, name) > 0]
        if self.method != "mast":
            return
        if masks.predict and not (weights.prediction and masks.lr and masks.sensitive == "closed"):
            raise ValueError(
                "masks.predict: it needs weights.prediction, masks.lr above 0 and masks.sensitive=closed"
            )
        if masks.changes == "features" and masks.sensitive == "closed" and masks.layout != "own-closed":
            raise ValueError(
                "masks.changes: features have no closed block; give masks.layout=own-closed or masks.sensitive=all"
            )
        if not asked:
            return
        term = f"weights.{asked[0]}"
        if masks.level == "features":
            raise ValueError(f"{term}: it acts on embeddings; masks.level=features has no closed embedding")
        if masks.sensitive == "closed" and masks.layout == "even" and not masks.lr:
            raise ValueError(
                f"{term}: no dimension is closed; give masks.layout=own-closed or masks.sensitive=all"
            )
        isolating = weights.sensitivity or weights.decorrelation
        if isolating and not views.single_fraction and not views.third_every:
            raise ValueError(f"{term}: it needs views.single_fraction or views.third_every")
        if weights.contrast and not (views.third_every and views.all_but_fraction):
            raise ValueError("weights.contrast: it needs views.third_every and views.all_but_fraction")
        if weights.temperature <= 0:
            raise ValueError(f"weights.temperature: {weights.temperature:g} is not above 0")


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str | Path, overrides: list[str] | None = None, limit: int | None = None) -> Recipe:
    """Read a recipe by name or path and apply ``key=value`` overrides, with dots into nested parts.

    A recipe may name another one as its ``base`` and say only what is different; null takes a key away. With
    ``limit`` it becomes a smoke test: one epoch of at most so many images.

    Raises:
        UserError: For an unknown name, key, or value, naming what was expected.
    """
    values = _read(name)
    for override in overrides or []:
        _set(values, override)
    recipe = parse_recipe(values, str(name))
    if limit is None:
        return recipe
    short = [f"data.limit={limit}", "epochs=1", f"batch_size={min(recipe.batch_size, limit)}", "accumulate=1"]
    for override in [*short, "optimizer.warmup_epochs=0", "stop_on_collapse=false"]:
        _set(values, override)
    return parse_recipe(values, str(name))


def _read(name: str | Path, *above: str) -> dict[str, Any]:
    """The values of a recipe, its bases' underneath; ``above`` are the recipes that build on it."""
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        path = RECIPES / f"{name}.yaml"
        if not path.is_file():
            raise unknown("recipe", str(name), recipe_names())
    elif not path.is_file():
        raise UserError(
            f"{path}: no such recipe file", remedy="`mast list recipes` shows what there is", code=2
        )
    values = yaml.read(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys to values", code=2)
    if "base" not in values:
        return values
    base = str(values.pop("base"))
    if base in above:
        raise UserError(f"{path}: the base {base} is built on this recipe", code=2)
    return _merge(_read(base, *above, base), values)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def parse_recipe(values: Any, source: str) -> Recipe:
    """Check a recipe given as plain data."""
    recipe = yaml.build(Recipe, values, where=source)
    try:
        recipe.views.build()
    except UserError as error:
        raise UserError(f"{source}: {error.message}", remedy=error.remedy, code=error.code) from error
    return recipe


def _set(values: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise UserError(f"override '{override}' is not of the form key=value", code=2)
    *path, last = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise UserError(f"override '{override}': '{part}' holds a value, not keys", code=2)
    values[last] = yaml.parse(text, f"override '{override}'")
