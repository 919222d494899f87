"""Detectors over a frozen network whose maps lie in the feature store: the network sees each image once, ever.

Every image is resized to a long side of ``INPUT.SQUARE`` pixels and padded to the square; its mirror image is a row
of its own. Nothing else is drawn at random, so that training sees what it would see with the network in the loop
(``INPUT.STORED=false``), rounded to bfloat16: the same images in the same order, mirrored or not, the same boxes.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, get_detection_dataset_dicts
from detectron2.data import transforms as T
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..checkpoints import Passport
from ..datasets import Pool
from ..errors import UserError
from ..features.maps import GB, Told, budget, fill_entry, rows_of
from ..features.store import Entry
from . import pixels
from .hierarchy import MapsBackbone

ARCHITECTURE = "StoredRCNN"
_PLAIN = "GeneralizedRCNN"
_BATCH = 8  # images in a forward of extraction
_THREADS = 2  # that decode


def add_keys(cfg: CfgNode) -> None:
    """Add the keys that Detectron2's defaults lack."""
    cfg.INPUT.SQUARE = 0  # long side of every image, which is padded to that square; 0: Detectron2's resizing
    cfg.INPUT.STORED = False  # read the frozen network's maps from the feature store


def settle(cfg: CfgNode) -> None:
    """Make a config with ``INPUT.SQUARE`` or ``INPUT.STORED`` whole.

    Raises:
        UserError: If it asks for what stored maps cannot give.
    """
    if side := cfg.INPUT.SQUARE:
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (side,), side
        cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
        cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = side
    if not cfg.INPUT.STORED:
        return
    wrong = {
        "INPUT.SQUARE is 0": not cfg.INPUT.SQUARE,
        "a part of the backbone trains": cfg.MODEL.BACKBONE.FREEZE_AT < 5,
        "images are cut": cfg.INPUT.LSJ or cfg.INPUT.DETR_CROP or cfg.INPUT.CROP.ENABLED,
        f"INPUT.RANDOM_FLIP is {cfg.INPUT.RANDOM_FLIP}": cfg.INPUT.RANDOM_FLIP not in ("horizontal", "none"),
        "the detector has no pyramid": "fpn" not in cfg.MODEL.BACKBONE.NAME
        and "vit" not in cfg.MODEL.BACKBONE.NAME,
        f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}": cfg.MODEL.META_ARCHITECTURE != _PLAIN,
    }
    if found := [what for what, is_so in wrong.items() if is_so]:
        raise UserError(
            f"maps cannot be read from the store where {found[0]}",
            remedy="set INPUT.STORED=false to compute them in every iteration",
            code=2,
        )
    cfg.MODEL.META_ARCHITECTURE = ARCHITECTURE


@META_ARCH_REGISTRY.register()
class StoredRCNN(GeneralizedRCNN):
    """Detectron2's two-stage detector, which takes its network's ``maps`` in place of an ``image``."""

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """The batch for `backbone`: images, or by name maps ``(B, C, h, w)`` float32, with the images' sizes."""
        if "maps" not in batched_inputs[0]:
            return super().preprocess_image(batched_inputs)
        maps = {
            name: torch.stack([given["maps"][name] for given in batched_inputs]).to(self.device).float()
            for name in batched_inputs[0]["maps"]
        }
        return ImageList(maps, [given["size"] for given in batched_inputs])


def network_maps(model: Any, images: Tensor) -> dict[str, Tensor]:
    """What the frozen network inside a detector hands to the pyramid, ``(B, C, h, w)`` by name.

    Args:
        model: The detector.
        images: ``(B, 3, S, S)``, normalised and padded.
    """
    network = model.backbone.net if hasattr(model.backbone, "net") else model.backbone.bottom_up
    with torch.no_grad():
        found: dict[str, Tensor] = (
            network.maps(images) if isinstance(network, MapsBackbone) else network(images)
        )
    return found


@dataclass(frozen=True)
class Rows:
    """Maps of a split's images on disk: all maps of an image in one row, and after it those of its mirror image.

    Attributes:
        split: ``train`` or ``test``.
        files: (N,) the images.
        sizes: (N,) their heights and widths in pixels.
        mirrored: Whether there are mirror images.
        entry: Where the rows lie.
        shapes: (C, h, w) of each map, in the order of a row.
    """

    split: str
    files: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    mirrored: bool
    entry: Entry
    shapes: dict[str, tuple[int, int, int]]

    @cached_property
    def places(self) -> dict[str, int]:
        """From a file to its image."""
        return {file: index for index, file in enumerate(self.files)}

    def read(self, file: str, mirror: bool) -> dict[str, Tensor]:
        """The maps of an image: ``(C, h, w)`` bfloat16 by name."""
        row = self.places[file] * (1 + self.mirrored) + mirror
        flat = torch.from_numpy(rows_of(self.entry, [row])[0].view(np.int16)).view(torch.bfloat16)
        parts = torch.split(flat, [int(np.prod(shape)) for shape in self.shapes.values()])
        return {
            name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


class Store:
    """The maps that a run reads.

    Args:
        model: The detector, filled with the checkpoint's weights, on the device to use.
        cfg: Its config.
        passport: The checkpoint's.
        folder: Root of the feature store.
    """

    def __init__(self, model: nn.Module, cfg: CfgNode, passport: Passport, folder: Path) -> None:
        self.model: Any = model
        self.cfg = cfg
        self.folder = folder
        side = cfg.INPUT.SQUARE
        shapes = {
            name: (int(value.shape[1]), int(value.shape[2]), int(value.shape[3]))
            for name, value in self._maps([np.zeros((side, side, 3), np.uint8)]).items()
        }
        train = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
        mirrored = cfg.INPUT.RANDOM_FLIP == "horizontal"
        test = get_detection_dataset_dicts(cfg.DATASETS.TEST, filter_empty=False)
        self.rows = {
            "train": self._rows("train", train, mirrored, passport, shapes),
            "test": self._rows("test", test, False, passport, shapes),
        }

    def _rows(
        self,
        split: str,
        dicts: Sequence[dict[str, Any]],
        mirrored: bool,
        passport: Passport,
        shapes: dict[str, tuple[int, int, int]],
    ) -> Rows:
        node = self.cfg.MODEL
        files = tuple(entry["file_name"] for entry in dicts)
        paths = tuple(map(Path, files))
        identity: dict[str, Any] = {
            "format": 1,
            "layer": "maps of a detector",
            "dtype": "bfloat16",
            "weights": passport.weights_sha256,
            "images": Pool(split, paths, Path(os.path.commonpath([path.parent for path in paths]))).digest,
            "mirrored": mirrored,
            "side": self.cfg.INPUT.SQUARE,
            "pixels": [self.cfg.INPUT.FORMAT, list(node.PIXEL_MEAN), list(node.PIXEL_STD)],
            "network": [node.BACKBONE.NAME, node.RESNETS.dump(), node.NETWORK.dump(), node.VIT.dump()],
            "shapes": {name: list(shape) for name, shape in shapes.items()},
        }
        if passport.network:
            identity["options"] = passport.network
        entry = Entry(self.folder, identity, len(files) * (1 + mirrored), "<u2")
        sizes = tuple((entry["height"], entry["width"]) for entry in dicts)
        return Rows(split, files, sizes, mirrored, entry, shapes)

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(int(np.prod(shape)) for shape in self.rows["train"].shapes.values())

    def lacking(self) -> dict[str, int]:
        """Bytes that will be written, by the key of what is not stored yet."""
        return {
            rows.entry.key: rows.entry.rows * self.width * 2
            for rows in self.rows.values()
            if not rows.entry.whole()
        }

    def lacking_rows(self) -> int:
        """Rows that are not stored yet, or not all of their split."""
        return sum(rows.entry.rows for rows in self.rows.values() if not rows.entry.whole())

    def check(self, most_gb: float) -> None:
        """Refuse what is larger than allowed or than the disk, before a map is computed.

        Args:
            most_gb: What the maps may take on the disk at most, in units of 10**9 bytes.

        Raises:
            UserError: If it is.
        """
        if rows := self.lacking_rows():
            budget(
                rows,
                (self.width,),
                self.folder,
                most_gb,
                "maps for the detector",
                "a smaller INPUT.SQUARE, or INPUT.RANDOM_FLIP=none",
            )

    def fill(self, progress: Told) -> None:
        """Compute what is not stored; an interrupted call goes on from its last shard.

        Args:
            progress: Called with what is computed and how large it is, rows done and rows in all.

        Raises:
            UserError: If an image cannot be read, or a map is not finite.
        """
        for rows in self.rows.values():
            with rows.entry.lock():
                os.utime(rows.entry.folder / "lock")  # when it was last used, for `budget.evict`
                if not rows.entry.whole():
                    self._fill(rows, progress)
                assert (
                    rows.entry.stream
                )  # open before the lock goes: whoever deletes the file now disturbs nobody

    def mappers(self) -> dict[str, StoredMapper]:
        """What reads the maps, by split."""
        return {
            name: StoredMapper(self.cfg, rows, is_train=name == "train") for name, rows in self.rows.items()
        }

    def _fill(self, rows: Rows, progress: Told) -> None:
        count = 1 + rows.mirrored
        what = f"maps of {rows.split} images, {rows.entry.rows * self.width * 2 / GB:.2f} GB"

        def one(row: int) -> npt.NDArray[np.uint8]:
            image = pixels.read(rows.files[row // count], self.cfg.INPUT.FORMAT)
            height, width = self._size(rows, row)
            found = T.ResizeTransform(*image.shape[:2], height, width).apply_image(image)
            square = np.zeros((self.cfg.INPUT.SQUARE, self.cfg.INPUT.SQUARE, 3), dtype=np.uint8)
            square[:height, :width] = found[:, ::-1] if row % count else found
            return square

        def batched(batch: npt.NDArray[Any], first: int) -> npt.NDArray[Any]:
            sizes = [self._size(rows, first + place) for place in range(len(batch))]
            images = [square[:height, :width] for square, (height, width) in zip(batch, sizes, strict=True)]
            found = torch.cat([value.flatten(1).float() for value in self._maps(images).values()], dim=1)
            if not bool(torch.isfinite(found).all()):
                raise UserError(
                    f"{rows.files[first // count]}: its maps, or one of the next, are not finite",
                    remedy="the checkpoint is damaged",
                )
            bits: npt.NDArray[Any] = found.to(torch.bfloat16).cpu().view(torch.int16).numpy().view(np.uint16)
            return bits

        total = rows.entry.rows
        fill_entry(rows.entry, one, batched, _BATCH, _THREADS, lambda done: progress(what, done, total))

    def _size(self, rows: Rows, row: int) -> tuple[int, int]:
        """Height and width of a row's image inside the square."""
        height, width = rows.sizes[row // (1 + rows.mirrored)]
        side = self.cfg.INPUT.SQUARE
        found = T.ResizeShortestEdge.get_output_shape(height, width, side, side)
        return int(found[0]), int(found[1])

    def _maps(self, images: Iterable[npt.NDArray[np.uint8]]) -> dict[str, Tensor]:
        """The network's maps of images ``(h, w, 3)``, padded as the detector pads them."""
        given = [
            {"image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))} for image in images
        ]
        return network_maps(self.model, self.model.preprocess_image(given).tensor)


class StoredMapper(DatasetMapper):
    """Detectron2's mapper with maps in place of the image; what it draws is what Detectron2's would draw.

    Args:
        cfg: The detector's config.
        rows: The split's maps.
        is_train: Whether boxes and masks are wanted.
    """

    def __init__(self, cfg: CfgNode, rows: Rows, *, is_train: bool) -> None:
        super().__init__(cfg, is_train)
        self.rows = rows

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """An entry of the data set as the detector takes it: ``maps``, ``size`` and, in training, ``instances``."""
        found = copy.deepcopy(dataset_dict)
        transforms: list[T.Transform] = []
        blank = np.broadcast_to(np.uint8(0), (found["height"], found["width"], 3))
        for augmentation in self.augmentations.augs:
            transform = augmentation.get_transform(blank)
            if isinstance(transform, T.ResizeTransform):
                blank = np.broadcast_to(np.uint8(0), (transform.new_h, transform.new_w, 3))
            transforms.append(transform)
        size = blank.shape[:2]
        mirror = any(isinstance(transform, T.HFlipTransform) for transform in transforms)
        found["maps"], found["size"] = self.rows.read(found["file_name"], mirror), size
        if self.is_train:
            self._transform_annotations(found, T.TransformList(transforms), size)
        else:
            found.pop("annotations", None)
        return found


def without_pixels(
    model: Any, batch: Sequence[dict[str, Any]], *, rounded: bool = True
) -> list[dict[str, Any]]:
    """A batch of images as a batch of maps, computed now: what the store would give.

    Args:
        model: The detector.
        batch: As Detectron2's mapper gives it.
        rounded: Whether to bfloat16, as in the store.
    """
    maps = network_maps(model, model.preprocess_image(batch).tensor)
    kept = {name: value.to(torch.bfloat16) if rounded else value for name, value in maps.items()}
    return [
        {
            **{key: value for key, value in given.items() if key != "image"},
            "maps": {name: value[place].clone() for name, value in kept.items()},
            "size": tuple(given["image"].shape[-2:]),
        }
        for place, given in enumerate(batch)
    ]
