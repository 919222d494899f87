"""From a file to named tensors: the container is told by its first bytes, and sizes are bounded before reading.

Every container passes `safe_unpickler.Reader` or the safetensors header first, where nothing is built; only then does
torch read the tensors, with ``weights_only=True``.
"""

from __future__ import annotations

import pickle
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import safetensors
import torch
from torch import Tensor

from ..errors import UserError
from .safe_unpickler import Array, Opaque, Reader, TensorRef, resolve

TORCH_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.(safetensors|bin)$|\.index\.json$")
"""Names that Hugging Face gives to the parts of large models and to the lists of them."""
_MAX_PICKLE = 256 * 2**20
"""Bytes of ``data.pkl``, which describes tensors and does not hold them: far above any real one."""
_KNOWN_OTHERS = {
    b"\x89HDF": ("an HDF5 file (Keras)", "export the weights to PyTorch or safetensors first"),
    b"\x1f\x8b": ("a gzip archive", "unpack it first"),
    b"BZh": ("a bzip2 archive", "unpack it first"),
    b"\xfd7zXZ": ("an xz archive", "unpack it first"),
    b"GGUF": ("a GGUF file (llama.cpp)", "name the weights that it was made of"),
    b"{": ("a JSON file", "name the file of weights itself"),
    b"<": ("an HTML or XML page", "the download probably failed: fetch the file again"),
    b"version https://git-lfs": ("a git-lfs pointer", "run `git lfs pull`"),
}


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        container: ``torch-zip``, ``torch-legacy``, ``torchscript``, ``safetensors`` or ``pickle``.
        tree: Dicts within dicts, with tensors among the leaves.
        metadata: The text metadata of a safetensors file.
        unsafe_globals: What the file wanted to run; not empty only if the user trusted it.
    """

    container: str
    tree: dict[Any, Any]
    metadata: dict[str, str] = field(default_factory=dict)
    unsafe_globals: list[str] = field(default_factory=list)


def read(path: Path, *, trust_pickle: bool = False) -> Contents:
    """Read a checkpoint file without running anything in it.

    Args:
        path: A regular file; a symbolic link is refused, so that the file named is the file read.
        trust_pickle: Let a pickle that asks for more than plain data run. It can do anything this user can.

    Raises:
        UserError: If the file is not there, not a checkpoint, damaged, or wants to run code.
    """
    size = _regular_file(path)
    if (shard := _SHARD.search(path.name)) and shard[1] != "00001":
        raise UserError(
            f"{path}: one part of a model that lies in several files",
            remedy="save it as one: model.save_pretrained(DIR, max_shard_size='100GB')",
        )
    try:
        with path.open("rb") as file:
            container = _container(path, file, size)
            if container == "safetensors":
                return _read_safetensors(path)
            if container == "torchscript":
                return _read_torchscript(path)
            if container == "pickle":
                return _read_pickle(path, file, trust_pickle)
            return _read_torch(path, file, container, trust_pickle)
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror or error}", remedy="check the file"
        ) from error
    except ModuleNotFoundError as error:  # only a trusted pickle imports anything
        package = (error.name or "").partition(".")[0]
        raise UserError(
            f"{path}: its pickle needs the package {package}, which is not installed",
            remedy=f"install {package}, or save the state dict alone where it is",
        ) from error
    except Exception as error:  # damaged bytes make the readers below raise errors of every kind
        raise _damaged(path, error) from error


def _damaged(path: Path, why: object) -> UserError:
    text = " ".join(str(why).split())[:200] or type(why).__name__
    return UserError(f"{path}: damaged or not a checkpoint: {text}", remedy="fetch or copy the file again")


def _regular_file(path: Path) -> int:
    try:
        status = path.lstat()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", remedy="check the path", code=2) from error
    if stat.S_ISLNK(status.st_mode):
        raise UserError(f"{path}: a symbolic link", remedy=f"name its target, {path.resolve()}", code=2)
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise UserError(f"{path}: {what}", remedy="name the checkpoint file itself", code=2)
    if status.st_size == 0:
        raise UserError(f"{path}: an empty file", remedy="fetch or copy the file again")
    return status.st_size


def _container(path: Path, file: IO[bytes], size: int) -> str:
    start = file.read(32)
    file.seek(0)
    if start.startswith(b"PK"):
        return _check_zip(path, file, size)
    if start.startswith(TORCH_LEGACY):
        return "torch-legacy"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        return "safetensors"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    for magic, (what, remedy) in _KNOWN_OTHERS.items():
        if start.startswith(magic):
            raise UserError(f"{path}: {what}, not a checkpoint", remedy=remedy)
    raise UserError(
        f"{path}: neither a torch, TorchScript, safetensors nor pickle file (starts with {start[:4].hex(' ')})",
        remedy="check that the download is complete and is a checkpoint",
    )


def _check_zip(path: Path, file: IO[bytes], size: int) -> str:
    """Bound what the archive may unpack to, verify its checksums, and tell what kind it is."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        total = sum(entry.file_size for entry in entries)
        folder = names[0].partition("/")[0] if names else ""
        script = f"{folder}/constants.pkl" in names
        if len(set(names)) != len(names):
            raise UserError(
                f"{path}: two records of one name in the archive", remedy="the file is not trustworthy"
            )
        if total > size + (_MAX_PICKLE if script else 0) or any(
            entry.compress_type != zipfile.ZIP_STORED and not (script and "/data" not in entry.filename)
            for entry in entries
        ):
            raise UserError(
                f"{path}: {size:,} bytes that claim to unpack to {total:,}",
                remedy="torch stores its records uncompressed: this file was not written by it",
            )
        if f"{folder}/data.pkl" not in names:
            what = (
                "a NumPy archive"
                if any(n.endswith(".npy") for n in names)
                else "a zip archive without data.pkl"
            )
            raise UserError(
                f"{path}: {what}, not a torch checkpoint", remedy="unpack it and name the checkpoint"
            )
        for entry in entries:
            with archive.open(entry) as record:  # reading to the end compares the checksum
                while record.read(2**20):
                    pass
    return "torchscript" if script else "torch-zip"


def _read_torch(path: Path, file: IO[bytes], container: str, trust_pickle: bool) -> Contents:
    zipped = container == "torch-zip"
    if zipped:
        with zipfile.ZipFile(file) as archive:
            reader, tree = _scan_zip(archive)
            if reader.unsafe() and not reader.unsafe(inert=True):
                return Contents(container, _as_dict(path, _plain(tree, _storages(archive, reader))))
    else:
        reader, tree = _scan_legacy(file)
    unsafe = reader.unsafe()
    if unsafe and not trust_pickle:
        raise _refusal(path, unsafe)
    if unsafe:
        loaded = torch.load(path, map_location="cpu", weights_only=False, mmap=zipped)
    else:
        _as_dict(path, tree)
        with torch.serialization.safe_globals(resolve(reader.globals)):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    return Contents(container, _as_dict(path, loaded), unsafe_globals=unsafe)


def _refusal(path: Path, unsafe: list[str]) -> UserError:
    return UserError(
        f"{path}: refused, it wants to run or build: {', '.join(unsafe)}",
        remedy="nothing was run; if you trust whoever made the file, pass --trust-pickle",
    )


def _scan_zip(archive: zipfile.ZipFile) -> tuple[Reader, Any]:
    folder = archive.namelist()[0].partition("/")[0]
    description = archive.getinfo(f"{folder}/data.pkl")
    if description.file_size > _MAX_PICKLE:
        raise pickle.UnpicklingError(f"a description of {description.file_size:,} bytes")
    with archive.open(description) as file:
        reader = Reader(file, description.file_size)
        tree = reader.load()
    sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    for key, storage in reader.storages.items():
        stored = sizes.get(f"{folder}/data/{key}")
        if stored is None or storage.size > stored:
            raise pickle.UnpicklingError(
                f"storage {key} wants {storage.size:,} bytes, the file has {stored or 0:,}"
            )
    return reader, tree


def _scan_legacy(file: IO[bytes]) -> tuple[Reader, Any]:
    size = file.seek(0, 2)
    file.seek(0)
    for _ in range(3):  # magic number, protocol, word sizes
        Reader(file, size).load()
    reader = Reader(file, size)
    tree = reader.load()
    keys = Reader(file, size).load()
    start = file.tell()
    left = size - start
    wanted = sum(8 + storage.size for storage in reader.storages.values())
    if sorted(keys) != sorted(reader.storages) or wanted != left:
        raise pickle.UnpicklingError(f"storages of {wanted:,} bytes are described, the file has {left:,}")
    return reader, tree


def _read_safetensors(path: Path) -> Contents:
    with safetensors.safe_open(path, framework="pt") as file:
        tree = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return Contents("safetensors", tree, metadata=dict(file.metadata() or {}))


def _read_torchscript(path: Path) -> Contents:
    with zipfile.ZipFile(path) as archive:
        reader, tree = _scan_zip(archive)
        unsafe = reader.unsafe(inert=True)
        if unsafe:
            raise UserError(
                f"{path}: refused, a TorchScript archive that refers to {', '.join(unsafe)}",
                remedy="save the module's state dict instead",
            )
        data = _storages(archive, reader)
    return Contents("torchscript", {name: _build(ref, data) for name, ref in _script_tensors(tree)})


def _storages(archive: zipfile.ZipFile, reader: Reader) -> dict[str, bytearray]:
    """Every storage, once, in memory that its tensors can use."""
    folder = archive.namelist()[0].partition("/")[0]
    return {key: bytearray(archive.read(f"{folder}/data/{key}")) for key in reader.storages}


def _script_tensors(module: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, TensorRef]]:
    if depth > 64:
        raise pickle.UnpicklingError("modules nested more than 64 deep")
    state = module.state if isinstance(module, Opaque) else None
    for name, value in (state if isinstance(state, dict) else {}).items():
        if isinstance(value, TensorRef):
            yield f"{prefix}{name}", value
        elif isinstance(value, Opaque):
            yield from _script_tensors(value, f"{prefix}{name}.", depth + 1)


_TORCH_TYPES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
    "Untyped": torch.uint8,
}  # fmt: skip


def _build(ref: TensorRef, data: Mapping[str, bytearray]) -> Tensor:
    dtype = _TORCH_TYPES[ref.storage.kind]
    content = data[ref.storage.key]
    if not content:
        return torch.empty(ref.shape, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype).as_strided(ref.shape, ref.stride, ref.offset)


def _read_pickle(path: Path, file: IO[bytes], trust_pickle: bool) -> Contents:
    reader = Reader(file, path.stat().st_size)
    tree = reader.load()
    unsafe = reader.unsafe(inert=True)
    if unsafe:
        if not trust_pickle:
            raise _refusal(path, unsafe)
        file.seek(0)
        return Contents("pickle", _as_dict(path, pickle.load(file, encoding="latin1")), unsafe_globals=unsafe)
    return Contents("pickle", _as_dict(path, _plain(tree, {})))


def _plain(value: Any, data: Mapping[str, bytearray]) -> Any:
    """Notes of the reader turned into dicts, tensors and arrays; what is shared stays shared."""
    done: dict[int, Any] = {}

    def convert(value: Any, depth: int) -> Any:
        if depth > 64:
            raise pickle.UnpicklingError("values nested more than 64 deep")
        if id(value) in done:
            return done[id(value)]
        result = value
        if isinstance(value, Opaque):
            result = value.mapping()
        if isinstance(result, dict):
            result = {key: convert(item, depth + 1) for key, item in result.items()}
        elif isinstance(result, TensorRef):
            result = _build(result, data)
        elif isinstance(result, Array):
            result = result.value
        done[id(value)] = result
        return result

    return convert(value, 0)


def _as_dict(path: Path, tree: Any) -> dict[Any, Any]:
    if isinstance(tree, torch.nn.Module):  # only a trusted pickle can hold one
        return tree.state_dict()
    if not isinstance(tree, dict):
        kind = tree.name if isinstance(tree, Opaque) else type(tree).__name__
        raise UserError(f"{path}: holds a {kind}, not a state dict", remedy="save the module's state dict")
    return tree
