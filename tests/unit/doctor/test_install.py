"""The Detectron2 installer, on a small wheel made here: same layout as the pinned one, faults included."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from eval.doctor import install
from eval.errors import UserError

PYTHON_FILES = {
    "detectron2/__init__.py": "__version__ = '0.7.2'\n",
    "detectron2/data/__init__.py": "",
    "detectron2/data/common.py": "value = 1\n",
    "detectron2/checkpoint/__init__.py": "",
    "detectron2/engine/__init__.py": "",
    "detectron2/evaluation/__init__.py": "",
    "detectron2/model_zoo/__init__.py": "",
    "detectron2/model_zoo/configs/Base.yaml": "VERSION: 2\n",
    "detectron2/modeling/__init__.py": "",
}
STRAY_FILES = {
    "detectron2/_C.cpython-310-x86_64-linux-gnu.so": "\x7fELF",
    "tools/__init__.py": "",
    "sal_detectron2-0.7.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: sal-detectron2\nVersion: 0.7.2\n",
    "sal_detectron2-0.7.2.dist-info/LICENSE": "Apache License\n",
}


def sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def pin(folder: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> Path:
    """Make a wheel and pin it; what it should hold is `files`, whatever the installer ships a list of."""
    wheel = folder / "sal_detectron2-0.7.2-cp310-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in {**files, **STRAY_FILES}.items():
            archive.writestr(name, content)
    hashes = folder / "hashes"
    hashes.write_text("".join(f"{sha256(text)}  {name}\n" for name, text in files.items()), encoding="utf-8")
    monkeypatch.setattr(install, "HASHES", hashes)
    monkeypatch.setattr(install, "PACKAGE_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    return wheel


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return pin(tmp_path, monkeypatch, PYTHON_FILES)


def tree(folder: Path) -> set[str]:
    files = (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return {file.relative_to(folder).as_posix() for file in files}


def test_only_the_python_part_and_the_configurations_are_installed(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    said = install.install(target, wheel)
    assert said.startswith("Detectron2 installed.")
    installed = tree(target)
    assert {name for name in installed if not name.startswith(install.DIST_INFO)} == set(PYTHON_FILES)
    assert sorted(path.name for path in target.iterdir()) == [
        "detectron2",
        install.DIST_INFO,
    ]  # no scratch left
    assert install.check(target).endswith("files:  9 of 9 files equal sal-detectron2 0.7.2")


def test_the_record_names_every_file_with_its_hash_and_the_origin(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install.install(target, wheel.parent)  # the folder that holds the wheel will do as well
    (distribution,) = importlib.metadata.distributions(path=[str(target)])
    assert (distribution.name, distribution.version) == ("detectron2", "0.7.2+python")
    rows = list(csv.reader((target / install.DIST_INFO / "RECORD").read_text(encoding="utf-8").splitlines()))
    assert {row[0] for row in rows} == tree(target)
    for name, digest, size in rows:
        if not name.endswith("RECORD"):
            content = (target / name).read_bytes()
            encoded = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert (digest, int(size)) == (f"sha256={encoded}", len(content))
    found = install.locate(target)
    assert found is not None
    assert found.ours
    assert found.origin.startswith("this installer, from sal-detectron2 0.7.2 (sha256 ")


def test_pip_can_uninstall_it(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    venv.create(environment)
    site = next(environment.glob("lib/python*/site-packages"))
    install.install(site, wheel)
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    subprocess.run([*pip, "uninstall", "--yes", "detectron2"], check=True, capture_output=True)
    assert tree(site) == set()


def test_an_existing_one_is_taken(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install.install(target, wheel)
    said = install.install(target, tmp_path / "no such wheel")  # not even looked at
    assert said.startswith("Detectron2 imports; nothing to install.")
    assert str(target / "detectron2") in said


def test_upstream_from_source_is_taken_with_its_differences_named(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "site"
    upstream = {**PYTHON_FILES, "detectron2/data/common.py": "value = 2\n", "detectron2/new.py": ""}
    for name, content in {
        **upstream,
        "detectron2/modeling/__init__.py": "changed = True\n",
        "detectron2-0.6.dist-info/METADATA": "Metadata-Version: 2.1\nName: detectron2\nVersion: 0.6\n",
        "detectron2-0.6.dist-info/INSTALLER": "pip\n",
        "detectron2-0.6.dist-info/direct_url.json": '{"url": "https://example.org/d2.git",'
        ' "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef"}}',
    }.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(content, encoding="utf-8")
    monkeypatch.setattr(install, "UPSTREAM_FILES", {"detectron2/data/common.py": sha256("value = 2\n")})
    said = install.check(target)
    assert "pip, package detectron2 0.6 from https://example.org/d2.git at commit 0123456789ab" in said
    assert "7 of 9 files equal" in said
    assert "1 equal upstream a59f0563 (detectron2/data/common.py)" in said
    assert "1 differ (detectron2/modeling/__init__.py)" in said
    assert "1 not in the list (detectron2/new.py)" in said
    assert install.install(target).startswith("Detectron2 imports; nothing to install.")


def test_changed_and_missing_files_are_found_and_repaired(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install.install(target, wheel)
    (target / "detectron2/data/common.py").write_text("value = 3\n", encoding="utf-8")
    (target / "detectron2/engine/__init__.py").unlink()
    with pytest.raises(UserError, match=r"1 differ \(detectron2/data/common.py\); 1 missing") as caught:
        install.check(target)
    assert caught.value.code == 1
    assert caught.value.remedy == f"run `python -m eval.doctor.install --target {target}`"
    assert install.install(target, wheel).startswith("Detectron2 installed.")
    install.check(target)
    assert sorted(path.name for path in target.iterdir()) == ["detectron2", install.DIST_INFO]


def test_a_copy_by_hand_is_taken_when_intact_and_refused_when_not(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    for name, content in PYTHON_FILES.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(content, encoding="utf-8")
    assert "no installation record" in install.check(target)
    (target / "detectron2/data/common.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    with pytest.raises(UserError, match="is not intact"):
        install.check(target)
    (target / "detectron2/data/__init__.py").write_text("raise RuntimeError('broken')\n", encoding="utf-8")
    with pytest.raises(UserError, match="does not import: RuntimeError: broken"):
        install.install(target, wheel)
    assert "RuntimeError" in (target / "detectron2/data/__init__.py").read_text(encoding="utf-8")  # not ours


@pytest.mark.parametrize(
    ("line", "message", "remedy"),
    [
        ("import fvcore_of_no_such_name", "its dependency fvcore_of_no_such_name is missing", "[detection]"),
        ("raise ImportError('odd')", "ImportError: odd", "pip uninstall detectron2"),
        ("import os; os._exit(7)", "the importing process ended with status 7", "to see all of it"),
        (
            "raise ModuleNotFoundError('x', name='pkg_resources')",
            "setuptools 81 or newer has no pkg_resources",
            "setuptools<81",
        ),
    ],
)
def test_what_keeps_it_from_importing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str, remedy: str
) -> None:
    wheel = pin(tmp_path, monkeypatch, {**PYTHON_FILES, "detectron2/engine/__init__.py": f"{line}\n"})
    with pytest.raises(UserError, match=r"is in place in .* but does not import") as caught:
        install.install(tmp_path / "site", wheel)
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def test_a_wheel_that_is_not_the_pinned_one_is_refused(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("detectron2/more.py", "")
    with pytest.raises(UserError, match=r"is not the pinned package: sha256 [0-9a-f]{64}, expected"):
        install.install(tmp_path / "site", wheel)
    assert not (tmp_path / "site").exists()


def test_a_list_that_does_not_belong_to_the_wheel_is_refused(wheel: Path, tmp_path: Path) -> None:
    install.HASHES.write_text(f"{'0' * 64}  detectron2/__init__.py\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"detectron2/__init__.py in .* differs from hashes"):
        install.install(tmp_path / "site", wheel)
    assert list((tmp_path / "site").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot write Detectron2 to .*file/site: Not a directory") as caught:
        install.install(tmp_path / "file" / "site", wheel)
    assert "--target DIR" in caught.value.remedy


def test_an_interrupted_install_leaves_nothing_that_imports(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "site"
    replace = install._replace

    def stop_at_the_package(new: Path, final: Path, old: Path) -> None:
        if final.name == "detectron2":
            raise KeyboardInterrupt
        replace(new, final, old)

    monkeypatch.setattr(install, "_replace", stop_at_the_package)
    with pytest.raises(KeyboardInterrupt):
        install.install(target, wheel)
    assert install.locate(target) is None
    monkeypatch.setattr(install, "_replace", replace)
    install.install(target, wheel)
    install.check(target)


def test_without_pip_it_says_how_to_fetch_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="has no pip") as caught:
        install._download(tmp_path)
    assert "pip download --no-deps --only-binary=:all: --python-version 3.10 sal-detectron2==0.7.2" in str(
        caught.value
    )


def test_pip_is_asked_for_the_pinned_package_and_its_failure_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def offline(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        messages = (
            "WARNING: Retrying after connection broken by 'NewConnectionError'\n"
            "ERROR: Could not find a version that satisfies the requirement sal-detectron2==0.7.2\n"
            "ERROR: No matching distribution found for sal-detectron2==0.7.2\n"
        )
        return subprocess.CompletedProcess(command, 1, "", messages)

    monkeypatch.setattr("subprocess.run", offline)
    with pytest.raises(
        UserError, match="no connection to the package index; No matching distribution"
    ) as caught:
        install._download(tmp_path)
    assert "\n" not in str(caught.value)
    assert "--from WHEEL" in caught.value.remedy
    assert asked[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "sal-detectron2==0.7.2" in asked[0]


def test_a_python_of_the_operating_system_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "EXTERNALLY-MANAGED").write_text("", encoding="utf-8")
    monkeypatch.setattr("sys.prefix", sys.base_prefix)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(UserError, match="managed by the operating system") as caught:
        install._site_packages()
    assert caught.value.code == 2


def test_a_clone_of_the_repository_is_not_taken_for_the_package(tmp_path: Path) -> None:
    (tmp_path / "detectron2" / "configs").mkdir(parents=True)
    assert install.locate(tmp_path) is None
    with pytest.raises(UserError, match="no Detectron2 in"):
        install.check(tmp_path)


def test_the_command_line_gives_one_line_and_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install.main(["--check", "--target", str(tmp_path)]) == 1
    assert install.main(["--target", str(tmp_path), "--from", str(tmp_path / "none.whl")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert errors[0].startswith(f"error: no Detectron2 in {tmp_path} (run `python -m eval.doctor.install")
    with pytest.raises(SystemExit) as caught:
        install.main(["--chekc"])
    assert caught.value.code == 2


def test_the_shipped_list_has_the_python_part_alone() -> None:
    expected = install.expected_files()
    assert len(expected) == 306
    assert all(name.startswith("detectron2/") and len(digest) == 64 for name, digest in expected.items())
    assert {Path(name).suffix for name in expected} == {".py", ".yaml"}
    assert "detectron2/model_zoo/configs/COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml" in expected
    assert set(install.UPSTREAM_FILES) < set(expected)


def test_the_installed_detectron2_is_intact() -> None:
    """Whatever set this environment up: the real list against the real files."""
    found = install.locate()
    assert found is not None, "run `make setup` or `python -m eval.doctor.install`"
    if found.recorded and not found.ours:
        pytest.skip(f"a Detectron2 of another origin: {found.origin}")
    assert install.verify(found.package).equal == 306
