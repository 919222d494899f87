"""Read a pickle without building anything but plain containers, numbers, and notes of what it asked for.

Nothing that a file names is imported or called. What torch and numpy would rebuild becomes a `TensorRef` or an
array whose size has been checked against the bytes that are there; everything else becomes an `Opaque`.
The pure-Python unpickler of the standard library is the base, because its memo is a dict: the C one allocates
whatever index a damaged file writes.
"""

from __future__ import annotations

import importlib
import math
import pickle
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

ITEM_SIZE = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1,
    "Bool": 1, "ComplexFloat": 8, "ComplexDouble": 16, "Untyped": 1,
}  # fmt: skip
"""Bytes for one element of torch's storage classes."""

# The one list of names that a file may ask for and that torch may then build, under old and new spellings. All are
# plain data; torch has its own list for its own.
_SAFE = re.compile(
    r"""
    collections\.(OrderedDict|defaultdict)
    | argparse\.Namespace
    | pathlib\.(_local\.)?(PosixPath|PurePosixPath)
    | numpy\.(_?core\.multiarray\.(scalar|_reconstruct) | dtype | ndarray | dtypes\.\w+DType)
    | _codecs\.encode
    | (builtins|__builtin__)\.(set|list|dict|int|float|bool|str|tuple)
    | torch\.(cuda\.)?(\w+Storage | Size | device | storage\.(Untyped|Typed)Storage)
    | torch\.(float|int|uint|bfloat|complex|bool|half|double|long|short)\d*
    | torch\._utils\._rebuild_(tensor | tensor_v2 | parameter | parameter_with_state)
    | torch\._tensor\._rebuild_from_type_v2
    | torch\.nn\.parameter\.Parameter | torch\.Tensor
    | torch\.serialization\._get_layout
    """,
    re.VERBOSE,
)
# Data classes that are only noted, where this reader is the only one: BYOL's haiku and jax containers, the
# settings and callback names in Lightning files, and the classes that a TorchScript archive defines itself.
_SAFE_WHEN_INERT = re.compile(
    r"""
    haiku\._src\.data_structures\.(FlatMapping|FlatMap|FlatComponents|frozendict|to_immutable_dict|to_haiku_dict)
    | (\w+\.)*byol_experiment\._ByolExperimentState
    | jax(lib)?\.[\w.]+ | optax\.(\w+\.)*\w+State | (\w+\.)*optimizers\.\w+State
    | numpy\.(_?core\.numeric\._frombuffer | (bool|int|float|uint)\d*_?)
    | omegaconf\.[\w.]+ | typing\.\w+
    | (pytorch_lightning|lightning|lightning_fabric)\.(\w+\.)*(AttributeDict|callbacks\.[\w.]+)
    | __torch__\.[\w.]+ | torch\.jit\._pickle\.\w+
    """,
    re.VERBOSE,
)


_MOVED = {
    "numpy.core.": "numpy._core.",
    "pathlib._local.": "pathlib.",
    "__builtin__.": "builtins.",
}
"""Spellings of other versions and where the same thing is today."""


def resolve(names: Iterable[str]) -> list[Any]:
    """What is behind names of plain data, as `torch.serialization.safe_globals` takes it.

    Args:
        names: What a file asks for. Torch's own names are left to torch.

    Raises:
        ValueError: For a name that is not on the list: nothing is imported for it.
    """
    found: list[Any] = []
    for name in sorted(names):
        if not _SAFE.fullmatch(name):
            raise ValueError(f"{name} is not plain data")
        if not name.startswith("torch."):
            today = next(
                (name.replace(old, new, 1) for old, new in _MOVED.items() if name.startswith(old)), name
            )
            module, _, attribute = today.rpartition(".")
            found.append((getattr(importlib.import_module(module), attribute), name))
        if name == "numpy.dtype":  # an instance belongs to a class of its own, which torch looks at
            found += [getattr(np.dtypes, kind) for kind in np.dtypes.__all__]
    return found


@dataclass(frozen=True)
class StorageRef:
    """A block of bytes elsewhere in the file: ``count`` elements of ``kind`` (a key of `ITEM_SIZE`)."""

    key: str
    kind: str
    count: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * ITEM_SIZE[self.kind]


@dataclass(frozen=True)
class TensorRef:
    """A tensor that was named but not built. Its last element lies inside its storage."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Opaque:
    """An object of a class that was not imported: its name, and what it would have been built from."""

    def __init__(self, name: str, args: tuple[Any, ...]) -> None:
        self.name = name
        self.args = args
        self.state: Any = None
        self.items: dict[Any, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[_key(key)] = value

    def mapping(self) -> Any:
        """The dict that the object stands for, if it is one of the classes known to hold one, else itself."""
        kind = self.name.rpartition(".")[2]
        if kind in _FIELDS:
            return dict(zip(_FIELDS[kind], self.args, strict=False))
        candidates = [self.items, *self.args]
        if isinstance(self.state, dict):
            candidates += [self.state.get("_mapping"), self.state.get("_storage")]
        return next((value for value in candidates if isinstance(value, dict) and value), self)

    def append(self, value: Any) -> None:
        """Take what a list subclass would be given, and forget it."""

    def extend(self, values: Any) -> None:
        """Take what a list subclass would be given, and forget it."""

    def add(self, value: Any) -> None:
        """Take what a set would be given, and forget it."""


_FIELDS = {
    "_ByolExperimentState": ("online_params", "target_params", "online_state", "target_state", "opt_state")
}
"""Named tuples, which pickle their values without the names."""


class _Dict(dict[Any, Any]):
    """An OrderedDict or defaultdict; its extra state (torch's ``_metadata``) is not needed."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Dtype:
    """The description of a numpy type."""

    def __init__(self, code: str) -> None:
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class Array:
    """A numpy array between ``_reconstruct`` and its state, then its holder."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype.dtype, shape, "F" if fortran else "C")


def _array(data: Any, dtype: np.dtype[Any], shape: Any, order: Any) -> np.ndarray:
    if dtype.hasobject:
        raise pickle.UnpicklingError("an array of Python objects")
    if isinstance(data, str):
        data = data.encode("latin1")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise pickle.UnpicklingError(f"an array of shape {tuple(shape)} with {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


class Global:
    """A name that the pickle looked up. Calling it notes the call."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any) -> Any:
        if self.name in _ALLOCATES or self.name.endswith("Storage"):
            raise pickle.UnpicklingError(f"a call of {self.name}, which allocates what it is told")
        known = _BUILDERS.get(self.name)
        return known(*args) if known else Opaque(self.name, args)


_ALLOCATES = {"torch.Tensor", "torch.nn.parameter.Parameter", "numpy.ndarray"}


def _dict(items: Any = ()) -> _Dict:
    return _Dict({_key(key): value for key, value in items})


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text encoded as {encoding!r}")
    return text.encode("latin1")


def _scalar(dtype: _Dtype, data: Any = b"") -> Any:
    return _array(data, dtype.dtype, (), "C")[()]


def _tensor(storage: Any, offset: int, shape: Any, stride: Any, *_: Any) -> TensorRef:
    if not isinstance(storage, StorageRef):
        raise pickle.UnpicklingError("a tensor without a storage")
    shape, stride = tuple(shape), tuple(stride)
    if len(shape) != len(stride) or len(shape) > 8 or min((offset, *shape, *stride), default=0) < 0:
        raise pickle.UnpicklingError(f"a tensor of shape {shape} and stride {stride}")
    numel = math.prod(shape)
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if numel and (last >= storage.count or numel > storage.count):
        raise pickle.UnpicklingError(f"a tensor of shape {shape} in a storage of {storage.count} elements")
    return TensorRef(storage, offset, shape, stride)


def _reconstruct(kind: Any = None, shape: Any = (0,), *_: Any) -> Array:
    if tuple(shape) != (0,):
        raise pickle.UnpicklingError(f"an array to be allocated with shape {tuple(shape)}")
    return Array()


def _from_type(build: Any, kind: Any, args: Any, state: Any) -> Any:
    return build(*args)


_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dict,
    "collections.defaultdict": lambda factory=None, items=(): _dict(items),
    "_codecs.encode": _encode,
    "numpy.dtype": lambda code, *_: _Dtype(code),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{
        f"numpy.{core}.numeric._frombuffer": lambda data, dtype, shape, order: _array(
            data, dtype.dtype, shape, order
        )
        for core in ("core", "_core")
    },
}


def _key(key: Any) -> Any:
    """A dict key that is cheap and safe to hash: hashing a deep tuple would overflow the C stack."""
    flat = key if isinstance(key, tuple) else (key,)
    if not all(k is None or isinstance(k, str | bytes | int | float | Global) for k in flat):
        raise pickle.UnpicklingError(f"a dict key of type {type(key).__name__}")
    return key


class _Bounded:
    """A file from which nobody asks more than it holds: Python allocates what is asked for before it reads."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file = file
        self.size = size
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        """The next bytes."""
        if count > self.size:
            raise pickle.UnpicklingError(f"a value of {count:,} bytes in a file of {self.size:,}")
        return self.file.read(count)


_Base: Any = pickle._Unpickler  # untyped in the stubs


class Reader(_Base):  # type: ignore[misc]
    """Unpickler that builds nothing the file asks for.

    Attributes:
        globals: Every name the pickle looked up.
        storages: Every storage it refers to, by key.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        """Read from ``file``, which holds ``size`` bytes."""
        super().__init__(_Bounded(file, size), encoding="latin1")
        self.globals: set[str] = set()
        self.storages: dict[str, StorageRef] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Note the name; import nothing."""
        full = f"{module}.{name}"
        self.globals.add(full)
        return Global(full)

    def get_extension(self, code: int) -> Any:
        """Refuse copyreg's extension codes: they stand for real objects of this process."""
        raise pickle.UnpicklingError(f"extension code {code}")

    def persistent_load(self, pid: Any) -> StorageRef:
        """Torch's reference to a storage: ``("storage", class, key, device, elements[, view])``."""
        kind, storage_class, key, _, count = pid[:5]
        if kind != "storage" or not isinstance(storage_class, Global):
            raise pickle.UnpicklingError(f"a persistent id of kind {kind!r}")
        name = storage_class.name.rpartition(".")[2].removesuffix("Storage")
        if name not in ITEM_SIZE or not isinstance(key, str) or not isinstance(count, int) or count < 0:
            raise pickle.UnpicklingError(f"a storage {storage_class.name} of {count} elements")
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("a storage that is a view of another one")
        storage = StorageRef(key, name, count)
        if self.storages.setdefault(key, storage) != storage:
            raise pickle.UnpicklingError(f"two different descriptions of storage {key}")
        return storage

    def unsafe(self, *, inert: bool = False) -> list[str]:
        """Names that are not on the short list of plain data.

        Args:
            inert: Nothing else will read the file after us, so names of data classes may stand.
        """
        return sorted(
            name
            for name in self.globals
            if not _SAFE.fullmatch(name) and not (inert and _SAFE_WHEN_INERT.fullmatch(name))
        )

    def _new(self, build: Any, args: Any) -> Any:
        if not isinstance(build, Global):
            raise pickle.UnpicklingError(f"a call of {type(build).__name__}")
        return build(*args)

    def load_reduce(self) -> None:
        """REDUCE: call, which for us is to note."""
        args = self.stack.pop()
        self.stack[-1] = self._new(self.stack[-1], args)

    def load_newobj(self) -> None:
        """NEWOBJ: the same for ``cls.__new__``."""
        self.load_reduce()

    def load_newobj_ex(self) -> None:
        """NEWOBJ_EX: the same with keyword arguments."""
        self.stack.pop()
        self.load_reduce()

    def load_build(self) -> None:
        """BUILD: give an object its state."""
        state = self.stack.pop()
        self._target(Opaque | _Dict | _Dtype | Array).__setstate__(state)

    def load_setitem(self) -> None:
        """SETITEM on a dict of ours."""
        value = self.stack.pop()
        key = self.stack.pop()
        self._target(dict | Opaque)[_key(key)] = value

    def load_setitems(self) -> None:
        """SETITEMS on a dict of ours."""
        items = self.pop_mark()
        target = self._target(dict | Opaque)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def load_dict(self) -> None:
        """DICT from the stack."""
        items = self.pop_mark()
        self.append(_dict(zip(items[::2], items[1::2], strict=True)))

    def load_additems(self) -> None:
        """ADDITEMS to a set."""
        items = self.pop_mark()
        self._target(set).update(map(_key, items))

    def load_frozenset(self) -> None:
        """FROZENSET from the stack."""
        self.append(frozenset(map(_key, self.pop_mark())))

    def load_refused(self) -> None:
        """Opcodes that no checkpoint needs: INST and OBJ call, BYTEARRAY8 allocates before it reads."""
        raise pickle.UnpicklingError("an opcode that no checkpoint needs")

    def _target(self, kinds: Any) -> Any:
        if not isinstance(self.stack[-1], kinds):
            raise pickle.UnpicklingError(f"content for a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    dispatch = {  # noqa: RUF012 - the base class keeps its table as a class attribute as well
        **_Base.dispatch,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.INST[0]: load_refused,
        pickle.OBJ[0]: load_refused,
        pickle.BYTEARRAY8[0]: load_refused,
    }
