"""Masked Augmentation Subspace Training: the pretraining core."""

__version__ = "0.1.0"
