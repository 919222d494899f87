"""Checkpoints: the published backbone, and the training state that a run resumes from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .errors import UserError
from .files import atomic_write, canonical_json, once

FORMAT = "mast-backbone"
VERSION = 1


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash what a network computes with: names, shapes and float32 (or integer) bytes, in the order of names.

    BatchNorm's ``num_batches_tracked`` is left out: nothing is computed from it and half of the files lack it.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.endswith("num_batches_tracked"):
            continue
        tensor = state[name].detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_published(path: str | os.PathLike[str], state: dict[str, Tensor], passport: dict[str, Any]) -> None:
    """Write a backbone for others to use: safetensors with torchvision's names and the passport inside.

    Args:
        path: The file to write, atomically.
        state: The backbone's state dict.
        passport: What the reader must know: ``arch``, ``normalization`` (``mean``, ``std``), ``input_size``,
            ``interpolation``, and how the weights came to be.
    """
    facts = {**passport, "weights_sha256": weights_sha256(state)}
    header = {"mast": canonical_json({"format": FORMAT, "version": VERSION, **facts})}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with atomic_write(path, "wb") as file:
        file.write(safetensors.torch.save(tensors, metadata=header))


def read_published(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_published` wrote.

    Returns:
        The state dict and the passport.

    Raises:
        ValueError: If the file is damaged or is not such a file.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("mast", "{}"), object_pairs_hook=once)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a readable safetensors file: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path}: a safetensors file, but not a published MAST backbone")
    if header.get("version") != VERSION:
        raise ValueError(f"{path}: version {header.get('version')}, this program reads version {VERSION}")
    if header.get("weights_sha256") != weights_sha256(state):
        raise ValueError(f"{path}: the weights are not those that were written: the file is damaged")
    canonical_json(header)  # refuses what no writer writes: numbers that are not finite
    return state, header


def save_state(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write a training state atomically."""
    with atomic_write(path, "wb") as file:
        torch.save(state, file)


def load_state(path: Path) -> dict[str, Any]:
    """Read a training state, tensors and plain values only.

    Raises:
        UserError: If the file is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).partition(". ")[0]
        raise UserError(f"{path}: damaged ({reason})", remedy="delete it to start the run again") from error
    return state
