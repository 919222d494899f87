"""The doctor: what works is found to work, and each broken thing is named with its remedy, alone."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from eval.detection import selfcheck
from eval.doctor import install
from eval.doctor import machine as doctor


@pytest.fixture(scope="module")
def full() -> dict[str, Any]:
    """The whole report of this environment, made once."""
    return doctor.report()


def by_name(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in report["checks"]}


def test_everything_needed_works_here(full: dict[str, Any]) -> None:
    failed = [check for check in full["checks"] if check["status"] == "failed"]
    assert failed == []
    assert full["ok"]
    detection = {name for name, check in by_name(full).items() if name.startswith("Detectron2")}
    assert detection == {"Detectron2 files", *(f"Detectron2 {name}" for name in selfcheck.CHECKS)}


def test_detectron2_is_really_run(full: dict[str, Any]) -> None:
    checks = by_name(full)
    assert "Mask R-CNN on" in checks["Detectron2 forward"]["detail"]
    assert "5 losses on" in checks["Detectron2 training step"]["detail"]  # RPN 2, box head 2, mask head 1
    assert checks["Detectron2 COCO evaluation"]["detail"].endswith("AP 100 (bbox, segm)")
    assert checks["Detectron2 VOC evaluation"]["detail"].endswith("AP 100 (bbox)")


def test_the_facts_are_those_of_this_machine(full: dict[str, Any]) -> None:
    assert full["versions"]["numpy"] == importlib.metadata.version("numpy")
    assert full["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert full["threads"]["cores"] == os.cpu_count()
    assert 0 < full["memory"]["available"] <= full["memory"]["total"]
    assert full["disk"]["working folder"]["path"] == os.getcwd()
    assert full["devices"][0]["device"] == "cpu"
    found = install.locate()
    assert found is not None
    assert full["detectron2"]["folder"] == str(found.package)


def test_the_report_is_json_and_reads_well(full: dict[str, Any]) -> None:
    assert json.loads(json.dumps(full)) == full
    text = doctor.render(full)
    assert "  torch          " in text
    assert str(full["detectron2"]["folder"]) in text
    assert text.count("\n  ok ") >= 10
    assert "Everything that was tried works." in text


def test_quick_runs_no_detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("started")

    monkeypatch.setattr(doctor, "_selfcheck", forbidden)
    checks = by_name(doctor.report(quick=True))
    assert checks["Detectron2 files"]["status"] == "ok"
    assert {checks[f"Detectron2 {name}"]["status"] for name in selfcheck.CHECKS} == {"skipped"}


def test_no_detectron2_is_a_failure_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "locate", lambda target=None: None)
    report = doctor.report()
    checks = by_name(report)
    assert not report["ok"]
    assert report["detectron2"] is None
    assert checks["Detectron2 files"]["remedy"] == "python -m eval.doctor.install"
    assert checks["Detectron2 forward"]["status"] == "skipped"
    text = doctor.render(report)
    assert "FAIL Detectron2 files: no Detectron2" in text
    assert "       to do: python -m eval.doctor.install" in text
    assert text.endswith("1 failed: Detectron2 files")


def test_a_machine_without_a_temporary_folder_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose root is read-only and that has no tmpfs."""

    def none_usable() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none_usable)
    report = doctor.report()
    checks = by_name(report)
    assert not report["ok"]
    assert checks["temporary folder"]["status"] == "failed"
    assert "TMPDIR" in checks["temporary folder"]["remedy"]
    assert checks["torch"]["status"] == "ok"
    assert checks["Detectron2 forward"]["detail"] == "no temporary folder"
    assert list(report["disk"]) == ["working folder"]
    assert "FAIL temporary folder" in doctor.render(report)


def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str) -> dict[str, dict[str, Any]]:
    """Run Detectron2's checks with `lines` executed in their process first."""
    start = "import os, sys\nfrom eval.detection.selfcheck import CHECKS, main\n"
    (tmp_path / "broken.py").write_text(f"{start}{lines}\nsys.exit(main(sys.argv[1:]))\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(selfcheck, "__name__", "broken")
    return {check["name"].removeprefix("Detectron2 "): check for check in doctor._detectron2_checks()}


def test_one_failing_check_hides_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One check raises and one takes the process down: both are named, the rest are still run."""
    lines = """
def fails():
    raise RuntimeError("operator torchvision::nms does not exist")

CHECKS["import"] = CHECKS["COCO evaluation"] = lambda: "fine"
CHECKS["forward"] = fails
CHECKS["training step"] = lambda: os._exit(11)
"""
    checks = broken(monkeypatch, tmp_path, lines)
    assert checks["forward"]["status"] == "failed"
    assert "torch torchvision" in checks["forward"]["remedy"]
    assert checks["training step"]["status"] == "failed"
    assert checks["training step"]["detail"] == "the process ended with status 11"
    assert checks["COCO evaluation"]["detail"] == "fine"
    assert checks["VOC evaluation"]["detail"] == "the truth as prediction gives AP 100 (bbox)"


def test_a_failed_import_skips_the_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checks = broken(monkeypatch, tmp_path, "sys.modules['fvcore'] = None")
    assert checks["import"]["status"] == "failed"
    assert "fvcore" in checks["import"]["detail"]
    assert checks["forward"]["status"] == "skipped"
    assert checks["forward"]["detail"] == "it does not import"


def test_a_process_that_does_not_start_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checks = broken(monkeypatch, tmp_path, "sys.exit('no such thing')")
    assert checks["import"]["detail"] == "the process ended with status 1: no such thing"
    assert checks["VOC evaluation"]["status"] == "skipped"


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "TIMEOUT", 1.5)
    checks = broken(monkeypatch, tmp_path, "import time\nCHECKS['import'] = lambda: time.sleep(60)")
    assert checks["import"]["detail"].startswith("not done after")
    assert checks["import"]["status"] == "failed"


def test_a_missing_and_an_old_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = [
        "numpy>=1.26",
        "torch>=999",
        "no-such-package>=1",
        'yacs>=0.1; extra == "detection"',
        'not-asked-for; extra == "dev"',
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: declared)
    check = doctor._check("packages", doctor._packages)
    version = importlib.metadata.version("torch")
    assert check["status"] == "failed"
    assert check["detail"] == f"torch {version}, >=999 needed; no-such-package is missing"
    assert "make setup" in check["remedy"]


def test_a_full_disk_and_small_shared_memory_are_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"total": 64 * 2**20, "free": 10 * 2**20})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    full_disk = doctor._check("temporary folder", doctor._temporary_folder)
    assert full_disk["status"] == "warning"
    assert "TMPDIR" in full_disk["remedy"]
    if Path("/dev/shm").is_dir():
        shared = doctor._check("shared memory", doctor._shared_memory)
        assert (shared["status"], "--shm-size" in shared["remedy"]) == ("warning", True)
        assert "has 64 MiB" in shared["detail"]
