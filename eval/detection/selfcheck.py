"""Run Detectron2 on tiny inputs and say what works: what ``mast doctor`` starts as a process of its own.

Example::

    python -m eval.detection.selfcheck import forward

One JSON line when a check begins, ``{"name"}``, and one when it ends, ``{"name", "seconds", "detail"}`` or
``{"name", "seconds", "error"}``: a check that takes the process down is still known by name.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..device import device

SIZE = 96  # side of the images, in pixels
BOXES = ((8, 8, 56, 48), (30, 40, 90, 88))  # x0, y0, x1, y1, one of each class
CLASSES = ("first", "second")


def check_import() -> str:
    """Import the parts that the harness uses."""
    import detectron2
    import detectron2.checkpoint
    import detectron2.data
    import detectron2.engine
    import detectron2.evaluation
    import detectron2.model_zoo
    import detectron2.modeling
    import torch
    import torchvision

    try:
        import detectron2._C

        compiled = "with compiled operators"
    except ImportError:
        compiled = "without compiled operators (rotated boxes, deformable convolutions: not used here)"
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    return f"{detectron2.__version__}, {versions}, {compiled}"


def _model() -> Any:
    """A narrow Mask R-CNN with feature pyramid, ResNet-18 and random weights, on the best device."""
    import torch
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = str(device())
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 16
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(CLASSES)
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    torch.manual_seed(0)
    return build_model(cfg)


def _input() -> dict[str, Any]:
    """One image of noise with the boxes and masks of `BOXES`, in the form that Detectron2's models read."""
    import torch
    from detectron2.structures import BitMasks, Boxes, Instances

    masks = torch.zeros(len(BOXES), SIZE, SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, BOXES, strict=True):
        mask[y0:y1, x0:x1] = True
    instances = Instances((SIZE, SIZE))
    instances.gt_boxes = Boxes(torch.tensor(BOXES, dtype=torch.float32))
    instances.gt_classes = torch.arange(len(BOXES))
    instances.gt_masks = BitMasks(masks)
    image = torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8)
    return {"image": image, "height": SIZE, "width": SIZE, "image_id": "1", "instances": instances}


def check_forward() -> str:
    """A Mask R-CNN on one image: box and mask predictions of the right shape."""
    import torch

    model = _model().eval()
    with torch.no_grad():
        found = model([_input()])[0]["instances"]
    if found.pred_masks.shape != (len(found), SIZE, SIZE):
        raise RuntimeError(f"masks have shape {tuple(found.pred_masks.shape)} for {len(found)} boxes")
    return f"Mask R-CNN on {model.device}, {len(found)} detections"


def check_training_step() -> str:
    """One step of SGD: finite losses of all four heads, and weights that move."""
    import torch
    from detectron2.utils.events import EventStorage

    model = _model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = model.proposal_generator.rpn_head.conv.weight.detach().clone()
    with EventStorage():
        losses = model([_input()])
    total = sum(losses.values())
    total.backward()
    optimizer.step()
    if not torch.isfinite(total):
        raise RuntimeError(f"losses are not finite: { {name: float(loss) for name, loss in losses.items()} }")
    if torch.equal(before, model.proposal_generator.rpn_head.conv.weight):
        raise RuntimeError("the step changed no weight of the proposal head")
    return f"{len(losses)} losses on {model.device}, sum {float(total):.2f}"


def _perfect(fields: Sequence[str]) -> dict[str, Any]:
    """The boxes and masks of `BOXES` as predictions."""
    from detectron2.structures import Instances

    truth = _input()["instances"]
    predicted = Instances((SIZE, SIZE))
    predicted.pred_boxes = truth.gt_boxes
    predicted.pred_classes = truth.gt_classes
    predicted.scores = truth.gt_boxes.tensor.new_full((len(BOXES),), 0.9)
    if "masks" in fields:
        predicted.pred_masks = truth.gt_masks.tensor
    return {"instances": predicted}


def _expect_100(results: dict[str, dict[str, float]], kinds: Sequence[str]) -> str:
    for kind in kinds:
        for metric in ("AP", "AP50", "AP75"):
            if abs(results[kind][metric] - 100) > 1e-6:
                raise RuntimeError(
                    f"the truth as prediction gives {kind} {metric} {results[kind][metric]}, not 100"
                )
    return f"the truth as prediction gives AP 100 ({', '.join(kinds)})"


def check_coco_evaluation() -> str:
    """The COCO evaluator, fed with the truth, gives 100 for boxes and masks."""
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import COCOEvaluator

    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": number,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
            "iscrowd": 0,
        }
        for number, (x0, y0, x1, y1) in enumerate(BOXES, start=1)
    ]
    truth = {
        "info": {},
        "images": [{"id": 1, "file_name": "1.jpg", "height": SIZE, "width": SIZE}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)],
        "annotations": annotations,
    }
    with tempfile.TemporaryDirectory(prefix="mast-doctor-") as folder:
        file = Path(folder, "truth.json")
        file.write_text(json.dumps(truth), encoding="utf-8")
        MetadataCatalog.get("mast_doctor_coco").set(
            json_file=str(file), thing_classes=list(CLASSES), thing_dataset_id_to_contiguous_id={1: 0, 2: 1}
        )
        evaluator = COCOEvaluator("mast_doctor_coco", ("bbox", "segm"), distributed=False)
        evaluator.reset()
        evaluator.process([{"image_id": 1}], [_perfect(("boxes", "masks"))])
        return _expect_100(evaluator.evaluate(), ("bbox", "segm"))


def check_voc_evaluation() -> str:
    """The VOC evaluator, fed with the truth, gives 100."""
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import PascalVOCDetectionEvaluator

    # VOC counts pixels from 1 and includes the last one.
    objects = "".join(
        f"<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
        f"<bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"
        "</object>"
        for name, (x0, y0, x1, y1) in zip(CLASSES, BOXES, strict=True)
    )
    with tempfile.TemporaryDirectory(prefix="mast-doctor-") as folder:
        for name, text in {
            "Annotations/1.xml": f"<annotation>{objects}</annotation>",
            "ImageSets/Main/test.txt": "1\n",
        }.items():
            file = Path(folder, name)
            file.parent.mkdir(parents=True)
            file.write_text(text, encoding="utf-8")
        MetadataCatalog.get("mast_doctor_voc").set(
            dirname=folder, split="test", year=2007, thing_classes=list(CLASSES)
        )
        evaluator = PascalVOCDetectionEvaluator("mast_doctor_voc")
        evaluator.reset()
        evaluator.process([{"image_id": "1"}], [_perfect(("boxes",))])
        return _expect_100(evaluator.evaluate(), ("bbox",))


CHECKS: dict[str, Callable[[], str]] = {
    "import": check_import,
    "forward": check_forward,
    "training step": check_training_step,
    "COCO evaluation": check_coco_evaluation,
    "VOC evaluation": check_voc_evaluation,
}


def main(names: Sequence[str]) -> int:
    """Run the named checks, all when none is named; returns 0, failures are in the output."""
    out = sys.stdout
    sys.stdout = sys.stderr  # the libraries print; the answer stays alone on standard output
    for name in names or CHECKS:
        print(json.dumps({"name": name}), file=out, flush=True)
        start = time.monotonic()
        try:
            answer: dict[str, Any] = {"detail": CHECKS[name]()}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answer |= {"name": name, "seconds": round(time.monotonic() - start, 2)}
        print(json.dumps(answer), file=out, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
