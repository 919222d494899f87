"""What a MAST run learned: its masks, its uncertainty, and what is near what in every subspace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .augment import Array, Augmentation, Color, Crop
from .checkpoint import load_state
from .config import Recipe, parse_recipe
from .data import on_device, sample
from .draws import uniform
from .errors import UserError
from .learner import Learner
from .rundir import RECIPE, STATE

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class MaskAnalysis:
    """Figures of K masks over D dimensions.

    Attributes:
        names: The K augmentations.
        masks: ``(K, D)`` in [0, 1].
        mass: ``(K,)`` mean of every mask: the share of the embedding that is invariant to it.
        correlation: ``(K, K)`` Pearson correlation; NaN where a mask is constant.
        overlap: ``(K, K)`` ``sum min(m_a, m_b) / sum max(m_a, m_b)``, 1 for equal masks.
        kept: ``(K,)`` dimensions that the mask keeps (above 1/2).
        only_closed: ``(K,)`` dimensions closed for this augmentation and kept by all others.
        only_kept: ``(K,)`` dimensions kept for this augmentation and closed for all others.
        shared: Dimensions that all masks keep.
    """

    names: tuple[str, ...]
    masks: Matrix
    mass: Matrix
    correlation: Matrix
    overlap: Matrix
    kept: NDArray[np.int64]
    only_closed: NDArray[np.int64]
    only_kept: NDArray[np.int64]
    shared: int


def analyze_masks(names: Sequence[str], masks: Matrix) -> MaskAnalysis:
    """Compute the figures of masks ``(K, D)``."""
    centred = masks - masks.mean(axis=1, keepdims=True)
    norm = np.sqrt((centred**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (centred @ centred.T) / np.outer(norm, norm)
    low = np.minimum(masks[:, None], masks[None]).sum(axis=2)
    high = np.maximum(masks[:, None], masks[None]).sum(axis=2)
    keeps = masks > 0.5
    count = keeps.sum(axis=0)
    return MaskAnalysis(
        tuple(names),
        masks,
        masks.mean(axis=1),
        correlation,
        low / high,
        kept=keeps.sum(axis=1),
        only_closed=(~keeps & (count == len(masks) - 1)).sum(axis=1),
        only_kept=(keeps & (count == 1)).sum(axis=1),
        shared=int((count == len(masks)).sum()),
    )


@dataclass(frozen=True)
class Run:
    """A pretraining run as its folder holds it, in evaluation mode."""

    recipe: Recipe
    learner: Learner

    @property
    def names(self) -> tuple[str, ...]:
        """The augmentations."""
        return tuple(self.recipe.views.augmentations)


def read_run(run: Path, *, masked: bool = True) -> Run:
    """Read the networks and masks of a pretraining run.

    Args:
        run: The run's folder, or any file in it.
        masked: Whether it has to have masks.

    Raises:
        UserError: If there is no run, or it has no masks where they are needed.
    """
    folder = run if run.is_dir() else run.parent
    for name in (RECIPE, STATE):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} holds no pretraining run ({name} is missing)",
                remedy="masks are in the run's folder, not in the published backbone",
            )
    recipe = parse_recipe(json.loads((folder / RECIPE).read_text(encoding="utf-8")), str(folder / RECIPE))
    if masked and recipe.method != "mast":
        raise UserError(f"{folder} is a run of {recipe.method}, which has no masks", code=2)
    views = recipe.views.build(recipe.seed)
    learner = Learner(recipe, views.names, views.widths)
    learner.load_state_dict(load_state(folder / STATE)["learner"])
    return Run(recipe, learner.float().eval())


def read_masks(run: Path) -> MaskAnalysis:
    """Analyse the masks of a pretraining run; see `read_run`."""
    found = read_run(run)
    assert found.learner.masks is not None
    return analyze_masks(found.names, found.learner.masks.masks().detach().double().numpy())


def parts(run: Run) -> dict[str, NDArray[np.bool_]]:
    """The parts of a run's embedding, as ``(E,)`` booleans over its dimensions.

    Returns:
        For every augmentation that a dimension is closed for (its mask below 1/2) those dimensions; then ``shared``,
        what is closed for none, and ``embedding``, all of it. Without masks, or with nothing closed, ``embedding``.

    Raises:
        UserError: If the masks act on features.
    """
    if run.recipe.masks.level != "embedding":
        raise UserError(f"{run.recipe.name} masks features: its embedding has no subspaces", code=2)
    whole = np.ones(run.recipe.expander[-1], dtype=bool)
    found: dict[str, NDArray[np.bool_]] = {}
    if run.learner.masks is not None:
        closed = np.asarray(run.learner.masks.masks().detach().numpy() < 0.5)
        found = {name: closed[k] for k, name in enumerate(run.names) if closed[k].any()}
        shared = np.logical_not(closed.any(axis=0))
        if found and shared.any():
            found["shared"] = shared
    return {**found, "embedding": whole}


@torch.no_grad()
def embed(run: Run, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embeddings ``(N, E)`` of features ``(N, D)`` of the run's backbone."""
    chunks = [torch.from_numpy(np.array(features[at : at + 4096])) for at in range(0, len(features), 4096)]
    return np.concatenate([run.learner.expander(chunk).numpy() for chunk in chunks])


@dataclass(frozen=True)
class Examples:
    """Images of a run's own data, whole, and what the run makes of them.

    Attributes:
        images: ``(N, 3, S, S)`` bytes.
        labels: ``(N,)``.
        classes: Their names.
        features: ``(N, D)`` of the backbone.
        embeddings: ``(N, E)``.
        uncertainty: ``(N,)`` mean predicted s^2 over dimensions; None without a variance head.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    features: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    uncertainty: Matrix | None


def examples(run: Run, data_root: Path, count: int) -> Examples:
    """Take ``count`` images, evenly spaced in the run's data, and forward them without augmentation.

    Args:
        run: The run.
        data_root: Where the recipe's data lies.
        count: How many at most.
    """
    bank = sample(run.recipe.data, data_root, run.recipe.views.size, count)
    size = run.recipe.views.size
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    crop, parts = Crop(size), []
    for start in range(0, len(bank.labels), 256):
        images = on_device(
            torch.from_numpy(bank.images[start : start + 256]), torch.device("cpu"), torch.float32
        )
        parts.append(_forward(run, crop.apply(images, whole.expand(len(images), 4))))
    spread = [part[2] for part in parts if part[2] is not None]
    return Examples(
        bank.images,
        bank.labels,
        bank.classes,
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate(spread) if spread else None,
    )


@torch.no_grad()
def _forward(
    run: Run, images: torch.Tensor
) -> tuple[NDArray[np.float32], NDArray[np.float32], Matrix | None]:
    """Features, embeddings and mean uncertainty of images ``(B, 3, H, W)``."""
    learner = run.learner
    features = learner.features(images)
    embeddings = learner.expander(features)
    spread = None if learner.variance is None else learner.variance(features).mean(1).double().numpy()
    return features.numpy(), embeddings.numpy(), spread


def strength(augmentation: Augmentation, params: Array) -> Matrix:
    """How strongly parameters ``(B, P)`` change an image, 0 for not at all: ``(B,)``.

    A crop's is the share of the area it leaves out; a jitter's the length of its deviations in units of their
    ranges; every other's the length of its parameters' difference to the neutral ones.
    """
    if isinstance(augmentation, Crop):
        value: Matrix = 1 - params[:, 2] * params[:, 3]
        return value
    if isinstance(augmentation, Color):
        deviation = (params[:, :4] - np.array([1.0, 1.0, 1.0, 0.0])) / np.maximum(
            augmentation.strength, 1e-12
        )
        length: Matrix = np.linalg.norm(deviation, axis=1)
        return length
    distance: Matrix = np.linalg.norm(params - getattr(augmentation, "neutral", 0.0), axis=1)
    return distance


def _alone(
    run: Run, data: Examples, augmentation: Augmentation
) -> tuple[Array, NDArray[np.float32], NDArray[np.float32], Matrix | None]:
    """Parameters ``(N, P)`` drawn for an augmentation alone, and what `_forward` makes of whole images changed so."""
    rows = np.arange(len(data.labels))
    params = augmentation.draw(
        uniform(0, 0, rows, f"analysis/{augmentation.name}", augmentation.num_uniforms)
    )
    fitted = augmentation.fit(params, *data.images.shape[2:])
    whole, resize, parts = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), Crop(run.recipe.views.size), []
    for start in range(0, len(rows), 256):
        part = slice(start, start + 256)
        images = on_device(torch.from_numpy(data.images[part]), torch.device("cpu"), torch.float32)
        if not isinstance(augmentation, Crop):
            images = resize.apply(images, whole.expand(len(images), 4))
        parts.append(_forward(run, augmentation.apply(images, torch.from_numpy(fitted[part]))))
    spread = [part[2] for part in parts if part[2] is not None]
    return (
        params,
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate(spread) if spread else None,
    )


@dataclass(frozen=True)
class StrengthBin:
    """Mean uncertainty of images changed by one augmentation alone, within a range of its strength."""

    augmentation: str
    strength: float
    count: int
    uncertainty: float
    standard_error: float


def by_strength(run: Run, data: Examples, bins: int = 5) -> list[StrengthBin]:
    """Predicted uncertainty against strength, for every augmentation applied alone to whole images.

    Images that an augmentation leaves as they are make a bin of their own, at strength 0; the others are parted
    into ``bins`` of equal size, or one where all are changed alike (a flip). Nothing without a variance head.
    """
    found: list[StrengthBin] = []
    for augmentation in run.recipe.views.build().augmentations:
        params, _, _, spread = _alone(run, data, augmentation)
        if spread is None:
            return []
        power = strength(augmentation, augmentation.fit(params, *data.images.shape[2:]))
        moved = np.flatnonzero(power > 0)
        moved = moved[np.argsort(power[moved], kind="stable")]
        parts = min(bins, len(np.unique(power[moved])))
        groups = [np.flatnonzero(power == 0), *(np.array_split(moved, parts) if parts else [])]
        for group in groups:
            if len(group):
                error = spread[group].std(ddof=1) / np.sqrt(len(group)) if len(group) > 1 else float("nan")
                found.append(
                    StrengthBin(
                        augmentation.name,
                        float(power[group].mean()),
                        len(group),
                        float(spread[group].mean()),
                        float(error),
                    )
                )
    return found


@dataclass(frozen=True)
class Closed:
    """What the parts of an embedding that are closed for an augmentation have to do with each other.

    Attributes:
        augmentations: The K augmentations that a part is closed for.
        subspaces: Theirs, then ``shared``, ``embedding`` and ``features``.
        alignment: ``(K, K)`` how far two closed parts arrange the same images alike, 0 to 1: linear CKA (Kornblith
            et al. 2019, arXiv 1905.00414). Parts near 1 are redundant.
        response: ``(K, S)`` how far an augmentation alone moves a subspace: the mean squared distance over that of
            two different images. 0 is invariant; at 1 the augmentation changes as much as another image would.
    """

    augmentations: tuple[str, ...]
    subspaces: tuple[str, ...]
    alignment: Matrix
    response: Matrix


def closed_parts(run: Run, data: Examples) -> Closed | None:
    """Compare the closed parts of a run's embedding over whole images; None where nothing is closed."""
    found = parts(run)
    augmentations = [a for a in run.recipe.views.build(run.recipe.seed).augmentations if a.name in found]
    if not augmentations:
        return None
    plain = {name: data.embeddings[:, mask].astype(np.float64) for name, mask in found.items()}
    plain["features"] = data.features.astype(np.float64)
    names = tuple(a.name for a in augmentations)
    alignment = np.array([[_alignment(plain[a], plain[b]) for b in names] for a in names])
    response = []
    for augmentation in augmentations:
        _, features, embeddings, _ = _alone(run, data, augmentation)
        changed = {name: embeddings[:, mask] for name, mask in found.items()} | {"features": features}
        response.append([_moved(z, changed[name]) for name, z in plain.items()])
    return Closed(names, tuple(plain), alignment, np.array(response))


def _alignment(a: Matrix, b: Matrix) -> float:
    """Linear CKA of ``(N, P)`` and ``(N, Q)``."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return float(np.square(a.T @ b).sum() / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)))


def _moved(before: Matrix, after: NDArray[np.float32]) -> float:
    """Mean squared distance of ``(N, P)`` before and after, over twice the summed variance before."""
    return float(np.square(after - before).sum(axis=1).mean() / (2 * before.var(axis=0, ddof=1).sum()))


@dataclass(frozen=True)
class Readout:
    """How well what was done to an image can be read off parts of its embedding.

    Attributes:
        augmentations: The K augmentations, each applied alone.
        subspaces: For each augmentation the dimensions that are closed for it, then ``shared`` (closed for none),
            ``embedding`` and ``features``.
        dimensions: ``(K + 3,)`` their sizes.
        explained: ``(K, K + 3)`` explained share of the variance of the parameters, of images not fitted to; at
            most 1, and NaN for a subspace without dimensions.
    """

    augmentations: tuple[str, ...]
    subspaces: tuple[str, ...]
    dimensions: NDArray[np.int64]
    explained: Matrix


def readout(run: Run, data: Examples, *, penalty: float = 0.01) -> Readout:
    """Read the parameters of every augmentation, applied alone to whole images, off every subspace.

    Ridge regression is fitted to every other image, and measured on the rest.

    Args:
        run: The run; its masks act on the embedding.
        data: The images.
        penalty: Of ridge regression, for inputs of unit variance and the mean squared error.

    Raises:
        UserError: If the masks act on features.
    """
    if run.recipe.masks.level != "embedding":
        raise UserError(f"{run.recipe.name} masks features: its embedding has no subspaces", code=2)
    assert run.learner.masks is not None
    closed = run.learner.masks.masks().detach().numpy() < 0.5
    views = run.recipe.views.build(run.recipe.seed)
    parts = [(name, mask) for name, mask in zip(views.names, closed, strict=True)]
    parts += [("shared", ~closed.any(axis=0)), ("embedding", np.ones(closed.shape[1], dtype=bool))]
    found = []
    for augmentation in views.augmentations:
        params, features, embeddings, _ = _alone(run, data, augmentation)
        target = augmentation.describe(params)
        row = [_explained(embeddings[:, mask], target, penalty) for _, mask in parts]
        found.append([*row, _explained(features, target, penalty)])
    sizes = [int(mask.sum()) for _, mask in parts] + [data.features.shape[1]]
    names = (*(name for name, _ in parts), "features")
    return Readout(views.names, names, np.array(sizes), np.array(found))


def _explained(inputs: NDArray[np.float32], target: Array, penalty: float) -> float:
    """Mean over columns of R^2 of ridge regression, fitted to even rows and measured on odd ones."""
    if not inputs.shape[1]:
        return float("nan")
    x, y = inputs.astype(np.float64), target[:, target[::2].std(axis=0) > 0]
    x = (x - x[::2].mean(axis=0)) / np.maximum(x[::2].std(axis=0), 1e-12)
    y = (y - y[::2].mean(axis=0)) / y[::2].std(axis=0)
    fit, answers = x[::2], y[::2]
    weights = np.linalg.solve(fit.T @ fit + penalty * len(fit) * np.eye(fit.shape[1]), fit.T @ answers)
    rest = y[1::2]
    error = ((rest - x[1::2] @ weights) ** 2).sum(axis=0)
    return float((1 - error / ((rest - rest.mean(axis=0)) ** 2).sum(axis=0)).mean())


def neighbours(
    data: Examples, masks: MaskAnalysis, *, on_features: bool, queries: int = 64, count: int = 5
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64], Matrix]:
    """Nearest neighbours by cosine within every mask's subspace, and in the whole embedding.

    Args:
        data: The images.
        masks: The masks.
        on_features: The masks act on the backbone's features.
        queries: Images to look from, evenly spaced.
        count: Neighbours of each.

    Returns:
        Names of the subspaces (``whole`` first), the queries ``(Q,)``, their neighbours ``(K + 1, Q, count)`` and
        the similarities in the same shape.
    """
    z = (data.features if on_features else data.embeddings).astype(np.float64)
    z = z - z.mean(axis=0)
    chosen = np.linspace(0, len(z) - 1, min(queries, len(z))).astype(np.int64)
    found, similarities = [], []
    for mask in (np.ones(z.shape[1]), *masks.masks):
        part = z * mask
        part = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
        similarity = part[chosen] @ part.T
        similarity[np.arange(len(chosen)), chosen] = -np.inf
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
        found.append(order)
        similarities.append(np.take_along_axis(similarity, order, axis=1))
    return ["whole", *masks.names], chosen, np.stack(found), np.stack(similarities)
