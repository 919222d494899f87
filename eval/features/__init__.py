"""Features of frozen backbones: every image is decoded and forwarded once and read from disk ever after."""

from __future__ import annotations

from .extraction import extract, extract_pool, pooled
from .preprocess import RESAMPLING, Preprocess

__all__ = ["RESAMPLING", "Preprocess", "extract", "extract_pool", "pooled"]
