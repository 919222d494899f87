"""What a detection run gives back, and its files."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mast.files import atomic_write

from ..errors import UserError
from ..numbers.intervals import Interval, NoInterval

RESULT = "metrics.json"
CONFIG = "config.yaml"
PREDICTIONS = "predictions.json.gz"


@dataclass(frozen=True)
class DetectionResult:
    """A finished detection run.

    Attributes:
        metrics: Name -> fraction in 0..1; what is undefined is left out.
        per_image: For each test image ``image_id`` and ``detections``: ``category`` (from 0), ``bbox`` (x, y,
            width, height in pixels), ``score`` and, with masks, ``segmentation`` (COCO run lengths).
        counts: ``train_images``, ``train_instances``, ``test_images``, ``test_instances``.
        manifest: SHA-256 over the annotations of both splits.
        config: The resolved Detectron2 config, YAML.
        certificate: What was proven about the run: weights in place, feature maps equal, frozen parts at rest.
        intervals: Name -> interval over test images, or why there is none.
        per_class: Name -> class -> fraction in 0..1.
        classes: Names, in the order of ``category``.
        losses: Total training loss of every iteration.
        seconds: Wall time of training and evaluation, over all restarts of the finishing process only.
    """

    metrics: dict[str, float]
    per_image: list[dict[str, Any]]
    counts: dict[str, int]
    manifest: str
    config: str
    certificate: dict[str, Any]
    intervals: dict[str, Interval | NoInterval]
    per_class: dict[str, dict[str, float]]
    classes: list[str]
    losses: list[float]
    seconds: dict[str, float]

    def write(self, folder: Path) -> None:
        """Write the three files; ``metrics.json`` comes last and makes the run a finished one.

        Args:
            folder: The run's ``work_dir``.
        """
        write_predictions(folder / PREDICTIONS, self.per_image)
        with atomic_write(folder / CONFIG) as file:
            file.write(self.config)
        values = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("per_image", "config", "intervals")
        }
        values["intervals"] = {name: asdict(span) for name, span in self.intervals.items()}
        with atomic_write(folder / RESULT) as file:
            json.dump(values, file, indent=1, sort_keys=True, allow_nan=False)
            file.write("\n")


def read(folder: Path) -> DetectionResult | None:
    """The finished run in a folder, or None if there is none.

    Raises:
        UserError: If it is damaged.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        spans = values.pop("intervals").items()
        return DetectionResult(
            per_image=read_predictions(folder / PREDICTIONS),
            config=(folder / CONFIG).read_text(encoding="utf-8"),
            intervals={
                name: NoInterval(**span) if "reason" in span else Interval(**span) for name, span in spans
            },
            **values,
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise UserError(
            f"the finished run in {folder} is damaged: {error}", remedy=f"delete {path} to evaluate it again"
        ) from error


def write_predictions(path: Path, predictions: list[dict[str, Any]]) -> None:
    """Write predictions as compressed JSON; equal predictions give equal bytes."""
    content = json.dumps(predictions, separators=(",", ":"), allow_nan=False).encode()
    with atomic_write(path, "wb") as file:
        file.write(gzip.compress(content, mtime=0))


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """What `write_predictions` wrote."""
    return list(json.loads(gzip.decompress(path.read_bytes())))
