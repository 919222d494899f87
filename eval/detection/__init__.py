"""Detection and instance segmentation: the only place that imports Detectron2, and nothing of it here."""
