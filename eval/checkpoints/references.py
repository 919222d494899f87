"""What a user may write for a checkpoint: a path, a registry name, ``hf://owner/name`` or ``timm:name``."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

from mast.files import sha256_file

from ..errors import UserError
from . import download, registry
from .facts import Fact, merge
from .settings import BESIDE, timm_network, timm_preprocessing

OFFLINE = ("LocalEntryNotFoundError", "OfflineModeIsEnabled")  # the hub's errors without a network


@dataclass(frozen=True)
class Located:
    """A reference resolved to a file, with what is known of it beforehand.

    Attributes:
        path: The file.
        name: Short name for tables.
        layout: Its layout, if known.
        arch: Its architecture, if known.
        facts: What the published name states beyond the tensors.
        settings: Files of settings that belong to it, by their usual names.
        extra: For the passport's ``extra``.
    """

    path: Path
    name: str
    layout: str | None = None
    arch: str | None = None
    facts: dict[str, Fact] = field(default_factory=dict)
    settings: dict[str, Path] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def locate(ref: str, *, progress: bool = True) -> Located:
    """Find, and if need be fetch, the file that a reference names.

    Raises:
        UserError: If there is no such file or name, or it cannot be fetched.
    """
    if ref.startswith("hf://"):
        return _hugging_face(ref)
    if ref.startswith("timm:"):
        return _timm(ref)
    check(ref)
    if ref in registry.entries() and not _is_file(ref):
        return _registered(registry.get(ref), progress)
    path = Path(ref).expanduser()
    return Located(
        path, path.name.partition(".")[0], settings={name: path.with_name(name) for name in BESIDE}
    )


def check(ref: str) -> None:
    """Refuse a reference that is neither a file nor a name, without opening or fetching anything.

    Raises:
        UserError: If it is neither; the message has the near names.
    """
    if any("\ud800" <= sign <= "\udfff" for sign in ref):
        raise UserError(f"{ref}: the name is no text in UTF-8", remedy="rename the file", code=2)
    if ref not in registry.entries() and Path(ref).expanduser().is_dir():
        raise UserError(f"{ref or '.'}: a folder, not a checkpoint", remedy="name the file in it", code=2)
    if ref.startswith(("random:", "hf://", "timm:")) or _is_file(ref) or ref in registry.entries():
        return
    near = difflib.get_close_matches(ref, registry.entries(), n=3)
    if ref.startswith("hf:"):
        near = [f"hf://{ref.removeprefix('hf:').lstrip('/')}"]
    raise UserError(
        f"{ref}: neither a file nor a known checkpoint",
        remedy=f"did you mean {' or '.join(near)}?" if near else "see `mast list checkpoints`",
        code=2,
    )


def at_hand(ref: str) -> bool:
    """Whether a reference's file is on this machine; what only the hub's own cache knows counts as not."""
    if ref.startswith("random:"):
        return True
    if ref in registry.entries() and not _is_file(ref):
        entry = registry.get(ref)
        if entry.file:
            return (registry.path().parent / entry.file).is_file()
        if entry.hub:
            return False
        return _target(entry).is_file() if entry.url else len(_by_hand(entry)) == 1
    return not ref.startswith(("hf://", "timm:")) and _is_file(ref)


def _is_file(ref: str) -> bool:
    path = Path(ref).expanduser()
    return path.exists() or path.is_symlink()


def _target(entry: registry.Entry) -> Path:
    """Where the file of an entry lies once it is fetched."""
    return download.cache_folder() / entry.name / PurePosixPath(urlparse(entry.url).path).name


def _by_hand(entry: registry.Entry) -> list[Path]:
    """What a user has put there for an entry that cannot be fetched."""
    folder = download.cache_folder() / entry.name
    return [p for p in folder.glob("*") if p.is_file() and p.suffix not in (".sha256", ".lock", ".part")]


def _registered(entry: registry.Entry, progress: bool) -> Located:
    facts = {"method": entry.method, "licence": entry.licence, "citation": entry.citation}
    facts["url"] = entry.url or entry.hub
    if entry.hub:
        found = locate(entry.hub)
        return replace(
            found, name=entry.name, layout=entry.layout, arch=entry.arch, extra=facts | found.extra
        )
    if entry.file:
        path = registry.path().parent / entry.file
        if not path.is_file() or f"sha256:{sha256_file(path)}" != entry.checksum:
            raise UserError(
                f"{path}: {'not the file that the registry names' if path.is_file() else 'is not there'}",
                remedy="restore it from the repository",
            )
    elif entry.url:
        path = download.fetch(entry.url, _target(entry), checksum=entry.checksum, progress=progress)
    else:
        files = _by_hand(entry)
        if len(files) != 1:
            folder = download.cache_folder() / entry.name
            raise UserError(
                f"{entry.name}: its publisher offers no direct address",
                remedy=f"fetch it from {entry.page} and put that one file into {folder}/",
            )
        path = files[0]
    return Located(path, entry.name, layout=entry.layout, arch=entry.arch, extra=facts)


def _hub() -> Callable[..., str]:
    from huggingface_hub import hf_hub_download

    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # it tells of every attempt; we tell of the last
    function: Callable[..., str] = hf_hub_download
    return function


def _hugging_face(ref: str) -> Located:
    """``hf://owner/name[@revision][/file]``."""
    owner, _, rest = ref.removeprefix("hf://").partition("/")
    name, _, file = rest.partition("/")
    name, _, revision = name.partition("@")
    if not owner or not name:
        raise UserError(
            f"'{ref}' is incomplete", remedy="write hf://owner/name or hf://owner/name/file", code=2
        )
    wanted = [file] if file else ["model.safetensors", "pytorch_model.bin"]
    path = _from_hub(f"{owner}/{name}", wanted, revision or None, ref)
    settings = {file: _optional(f"{owner}/{name}", file, revision or None) for file in BESIDE}
    there = {file: place for file, place in settings.items() if place is not None}
    return Located(path, name, settings=there, extra={"repository": f"{owner}/{name}", "revision": revision})


def _timm(ref: str) -> Located:
    """A timm model: the file from its hub repository, the preprocessing from timm's own configuration."""
    name = ref.removeprefix("timm:")
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        known = difflib.get_close_matches(name, timm.list_models(pretrained=True), n=3)
        raise UserError(
            f"timm has no pretrained '{name}' on the hub",
            remedy=f"near names: {', '.join(known) or 'none'}",
            code=2,
        )
    path = _from_hub(config.hf_hub_id, ["model.safetensors", "pytorch_model.bin"], None, ref)
    facts = merge(timm_preprocessing(config.to_dict(), ref), timm_network(name, {}, ref))
    return Located(path, name, facts=facts, extra={"repository": config.hf_hub_id})


def _from_hub(repository: str, files: list[str], revision: str | None, ref: str) -> Path:
    get = _hub()
    reasons = []
    for file in files:
        try:
            return Path(get(repository, file, revision=revision)).resolve()
        except Exception as error:  # the hub's errors differ between its versions
            if type(error).__name__ in OFFLINE:
                raise UserError(
                    f"{ref}: {repository} is not in the local cache, and the network could not be reached",
                    remedy="connect, or download the file elsewhere and give its path, with config.json beside it",
                ) from error
            reasons.append(" ".join(str(error).split())[:160] or type(error).__name__)
    raise UserError(
        f"{ref}: cannot be fetched: {reasons[-1]}",
        remedy="download the file elsewhere and give its path, with config.json beside it",
    )


def _optional(repository: str, file: str, revision: str | None) -> Path | None:
    try:
        return Path(_hub()(repository, file, revision=revision)).resolve()
    except UserError:
        raise
    except Exception:  # a repository without this file is fine; the layout is then told by the keys alone
        return None
