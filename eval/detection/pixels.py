"""Pictures as a detector sees them: read by the house's decoder, upright as their tag says."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

from mast.images import decode


def read(path: str, order: str) -> npt.NDArray[np.uint8]:
    """Read a picture, turned as its orientation tag says, once, whatever its format.

    For what Detectron2 reads right the pixels are those of its ``read_image``. That one makes 16-bit grey white and
    turns a TIFF twice.

    Args:
        path: The file.
        order: Of the channels: ``RGB`` or ``BGR``.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        UserError: As `mast.images.decode`.
    """
    pixels = np.asarray(decode(Path(path), upright=True))
    return pixels[:, :, ::-1] if order == "BGR" else pixels


class Mapper(DatasetMapper):
    """Detectron2's mapper for boxes and masks, with `read` in place of its own reader."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """An entry of the data set as the detector takes it: ``image`` and, in training, ``instances``."""
        found = copy.deepcopy(dataset_dict)
        image = read(found["file_name"], self.image_format)
        utils.check_image_size(found, image)
        given = T.AugInput(image)
        transforms = self.augmentations(given)
        found["image"] = torch.from_numpy(np.ascontiguousarray(given.image.transpose(2, 0, 1)))
        if self.is_train:
            self._transform_annotations(found, transforms, given.image.shape[:2])
        else:
            found.pop("annotations", None)
        return found
