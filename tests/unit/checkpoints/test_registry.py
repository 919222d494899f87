"""Names of checkpoints: the registry, its cards, downloads that resume and are checked, the hubs' names."""

from __future__ import annotations

import hashlib
import http.server
import json
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from checkpoint_sources import MiniViT, Narrow, build

from eval.checkpoints import Normalization, download, inspect, layouts, load, references, registry, vit
from eval.checkpoints.download import fetch
from eval.errors import UserError
from mast.model import parse_arch

CARDS = registry.path().parent / "cards"


def test_every_entry_is_whole() -> None:
    for name, entry in registry.entries().items():
        assert re.fullmatch(r"[a-z0-9.-]+", name)
        assert [bool(entry.url), bool(entry.page), bool(entry.file), bool(entry.hub)].count(True) == 1, name
        assert entry.url == "" or entry.url.startswith("https://")
        assert re.fullmatch(r"(hf://[\w-]+/|timm:)[\w.-]+|", entry.hub)
        assert entry.file or layouts.get(entry.layout).refuse == ""
        assert entry.method
        assert entry.licence
        assert entry.citation
        assert entry.source
        if entry.checksum:
            assert re.fullmatch(r"(md5|sha256):[0-9a-f]{6,64}", entry.checksum)
    for arch in {entry.arch for entry in registry.entries().values()} - {"mobilenet_v2"}:
        if arch.startswith("vit"):
            assert vit.NAME.fullmatch(arch)
        elif arch.startswith(("convnext", "swin")):
            assert re.fullmatch(r"convnext(v2)?_[a-z]+|swin_[a-z]+_window\d+", arch)
        else:
            assert parse_arch(arch).name == arch
    urls = [entry.url for entry in registry.entries().values() if entry.url]
    assert len(urls) == len(set(urls))


def test_every_family_has_a_card_that_names_its_entries() -> None:
    families_of = {entry.family for entry in registry.entries().values()}
    assert {path.stem for path in CARDS.glob("*.md")} == families_of
    for entry in registry.entries().values():
        text = (CARDS / f"{entry.family}.md").read_text("utf-8")
        assert f"`{entry.name}`" in text
        assert entry.licence in text


def test_our_own_checkpoints_come_with_the_repository() -> None:
    ours = [entry for entry in registry.entries().values() if entry.file]
    arms = ("mast5", "mast5-prediction", "vicreg")
    assert [entry.name for entry in ours] == [f"{arm}-imagenette96" for arm in arms]
    for entry in ours:
        path = registry.path().parent / entry.file
        assert path.stat().st_size <= 25 << 20
        certificate = json.loads(Path(f"{path}.certificate.json").read_text("utf-8"))
        assert f"sha256:{certificate['target']['sha256']}" == entry.checksum
        loaded = load(entry.name)
        assert loaded.passport.trained
        assert loaded.passport.layout == "mast"
        assert loaded.passport.extra["recipe"]["method"] == entry.method.lower()
        assert next(loaded.backbone.parameters()).dtype == torch.float32


def test_a_changed_file_of_ours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = registry.path().parent
    (tmp_path / "weights").mkdir()
    (tmp_path / "registry.yaml").write_bytes((there / "registry.yaml").read_bytes())
    monkeypatch.setattr(registry, "path", lambda: tmp_path / "registry.yaml")
    with pytest.raises(UserError, match="is not there"):
        references.locate("mast5-imagenette96")
    (tmp_path / "weights" / "mast5-imagenette96.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="not the file that the registry names"):
        references.locate("mast5-imagenette96")


def test_published_results_exist_for_the_methods_that_are_named() -> None:
    published = registry.path().parent.parent / "results" / "published"
    methods = {
        line.split(",")[0]
        for path in published.glob("*.csv")
        for line in path.read_text("utf-8").splitlines()[1:]
    }
    named = {entry.results for entry in registry.entries().values() if entry.results}
    assert named <= methods


def test_an_entry_on_a_hub_is_found_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def get(repository: str, file: str, revision: str | None = None) -> str:
        asked.append((repository, file))
        if file != "model.safetensors":
            raise FileNotFoundError(file)
        return str(tmp_path / file)

    monkeypatch.setattr(references, "_hub", lambda: get)
    found = references.locate("siglip2-base-16-224")
    assert (found.name, found.layout, found.arch) == ("siglip2-base-16-224", "siglip", "vit_base_patch16")
    assert found.extra["licence"] == "Apache-2.0"
    assert found.extra["url"] == "hf://google/siglip2-base-patch16-224"
    assert asked[0] == ("google/siglip2-base-patch16-224", "model.safetensors")
    assert not references.at_hand("siglip2-base-16-224")
    located = references.locate("radio-v3-base-16")
    assert located.facts["input_size"].value == 512
    assert located.facts["timm"].value["architecture"] == "vit_base_patch16_radio_v3"


def test_timm_knows_the_entries_that_it_holds() -> None:
    import timm

    names = [
        entry.hub.removeprefix("timm:") for entry in registry.entries().values() if entry.hub[:5] == "timm:"
    ]
    assert names
    assert all(timm.get_pretrained_cfg(name).hf_hub_id for name in names)


# --- downloads ---------------------------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one content; may cut a connection off, ignore ranges, or fail."""

    content: ClassVar[bytes] = b""
    cut: ClassVar[int] = 0
    ranges: ClassVar[bool] = True
    requests: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        kind = type(self)
        asked = self.headers.get("Range", "")
        kind.requests.append(asked)
        start = int(asked[6:-1]) if asked and kind.ranges else 0
        if start >= len(kind.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(kind.content) - start))
        self.end_headers()
        self.wfile.write(kind.content[start : kind.cut or None])

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[tuple[str, type[Handler]]]:
    handler = type("H", (Handler,), {"content": bytes(range(256)) * 5_000, "requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/a.pth", handler
        httpd.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_a_download_is_kept_and_not_repeated(server: tuple[str, type[Handler]], tmp_path: Path) -> None:
    url, handler = server
    target = tmp_path / "folder" / "a.pth"
    for _ in range(2):
        assert fetch(url, target, progress=False) == target
        assert target.read_bytes() == handler.content
    assert handler.requests == [""]
    recorded = (tmp_path / "folder" / "a.pth.sha256").read_text().strip()
    assert recorded == hashlib.sha256(handler.content).hexdigest()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_was_cut_off_is_continued(
    ranges: bool, server: tuple[str, type[Handler]], tmp_path: Path
) -> None:
    url, handler = server
    handler.cut, handler.ranges = 700_000, ranges
    target = tmp_path / "a.pth"
    with pytest.raises(UserError, match="700,000 bytes are kept and will be continued"):
        fetch(url, target, progress=False)
    assert not target.exists()
    handler.cut = 0
    fetch(url, target, progress=False)
    assert target.read_bytes() == handler.content
    assert handler.requests == ["", "bytes=700000-"]
    assert not (tmp_path / "a.pth.part").exists()


def test_a_complete_part_needs_no_more_bytes(server: tuple[str, type[Handler]], tmp_path: Path) -> None:
    url, handler = server
    (tmp_path / "a.pth.part").write_bytes(handler.content)
    fetch(url, tmp_path / "a.pth", progress=False)
    assert (tmp_path / "a.pth").read_bytes() == handler.content


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_published_checksums_are_compared(
    kind: str, server: tuple[str, type[Handler]], tmp_path: Path
) -> None:
    url, handler = server
    digest = hashlib.new(kind, handler.content).hexdigest()
    fetch(url, tmp_path / "a.pth", checksum=f"{kind}:{digest[:8]}", progress=False)
    with pytest.raises(UserError, match=f"its {kind} is {digest[:8]}.*not 00000000"):
        fetch(url, tmp_path / "b.pth", checksum=f"{kind}:00000000", progress=False)
    assert not (tmp_path / "b.pth").exists()
    assert not (tmp_path / "b.pth.part").exists()


def test_a_file_that_changed_after_its_first_use_is_refused(
    server: tuple[str, type[Handler]], tmp_path: Path
) -> None:
    target = fetch(server[0], tmp_path / "a.pth", progress=False)
    target.write_bytes(b"other")
    with pytest.raises(UserError, match=r"its sha256 is .*delete it and fetch it again"):
        fetch(server[0], target, progress=False)


def test_offline_says_where_to_put_the_file(tmp_path: Path) -> None:
    target = tmp_path / "a.pth"
    with pytest.raises(UserError, match=f"cannot be fetched.*put it at {target}"):
        fetch("http://127.0.0.1:9/a.pth", target, progress=False)
    target.write_bytes(b"put there by hand")
    assert fetch("http://127.0.0.1:9/a.pth", target, progress=False) == target


def test_only_web_addresses_and_writable_caches(server: tuple[str, type[Handler]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only https and http"):
        fetch("file:///etc/passwd", tmp_path / "a", progress=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="set MAST_CACHE"):
        fetch(server[0], tmp_path / "file" / "a.pth", progress=False)


def test_a_registry_name_is_fetched_and_read(
    server: tuple[str, type[Handler]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = server
    net = build(Narrow)
    keys = {f"module.{k}": v for k, v in net.state_dict().items() if "fc" not in k}
    torch.save({**keys, "module.prototypes.weight": torch.ones(3, 3)}, tmp_path / "swav.pth")
    handler.content = (tmp_path / "swav.pth").read_bytes()
    shared = {"licence": "MIT", "citation": "us", "source": "here"}
    entry = registry.Entry("swav-tiny", "swav", "SwAV", "resnet18-c8", "swav", **shared, url=url)
    hand = registry.Entry(
        "by-hand", "swav", "SwAV", "resnet18-c8", "swav", **shared, page="https://example.org"
    )
    monkeypatch.setattr(registry, "entries", lambda: {"swav-tiny": entry, "by-hand": hand})
    monkeypatch.setenv("MAST_CACHE", str(tmp_path / "cache"))
    passport = load("swav-tiny").passport
    assert passport.name == "swav-tiny"
    assert passport.extra["method"] == "SwAV"
    assert passport.normalization.std[0] == 0.228
    assert not any("does not say" in warning for warning in passport.warnings)
    folder = tmp_path / "cache" / "by-hand"
    with pytest.raises(
        UserError, match=f"fetch it from https://example.org and put that one file into {folder}/"
    ):
        load("by-hand")
    folder.mkdir()
    (tmp_path / "swav.pth").rename(folder / "anything.pth")
    assert load("by-hand").passport.weights_sha256 == passport.weights_sha256


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MAST_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert download.cache_folder() == tmp_path / "mast" / "checkpoints"


# --- hubs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the hub: ``owner/name/file``."""

    def get(repository: str, file: str, revision: str | None = None) -> str:
        path = tmp_path / "hub" / repository / file
        if not path.is_file():
            raise FileNotFoundError(f"404 Client Error: {repository}/{file}")
        return str(path)

    monkeypatch.setattr(references, "_hub", lambda: get)
    return tmp_path / "hub"


def test_hugging_face_names(hub: Path) -> None:
    folder = hub / "us" / "tiny"
    folder.mkdir(parents=True)
    net = build(lambda: MiniViT(128, heads=4))
    torch.save(net.state_dict(), folder / "pytorch_model.bin")
    settings = {"num_attention_heads": 4, "hidden_size": 128, "layer_norm_eps": 1e-6}
    settings["pretrained_cfg"] = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32]}  # type: ignore[assignment]
    (folder / "config.json").write_text(json.dumps(settings))
    loaded = load("hf://us/tiny")
    assert loaded.passport.normalization.mean == (0.5,) * 3
    assert loaded.passport.input_size == 32
    assert loaded.passport.extra["repository"] == "us/tiny"
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(loaded.backbone.features(images), net.features(images), atol=1e-5)
    assert inspect("hf://us/tiny@main/pytorch_model.bin").weights_sha256 == loaded.passport.weights_sha256
    with pytest.raises(UserError, match=r"404 Client Error.*download the file elsewhere"):
        load("hf://us/none")
    with pytest.raises(UserError, match="is incomplete"):
        load("hf://us")


def test_timm_names(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    folder = hub / "timm" / "tiny"
    folder.mkdir(parents=True)
    torch.save(build(Narrow).state_dict(), folder / "pytorch_model.bin")
    facts = {"mean": (0.4,) * 3, "std": (0.3,) * 3, "input_size": (3, 176, 176), "interpolation": "bicubic"}
    config = SimpleNamespace(hf_hub_id="timm/tiny", to_dict=lambda: facts)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: config if name == "tiny" else None)
    passport = load("timm:tiny").passport
    assert passport.normalization == Normalization((0.4,) * 3, (0.3,) * 3)
    assert (passport.input_size, passport.interpolation) == (176, "bicubic")
    with pytest.raises(UserError, match=r"timm has no pretrained 'resnet5'.*near names: .*resnet50"):
        load("timm:resnet5")


@pytest.mark.parametrize("name", references.OFFLINE)
def test_without_a_network_one_line_says_so(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from huggingface_hub import errors

    asked: list[str] = []

    def get(repository: str, file: str, revision: str | None = None) -> str:
        asked.append(file)
        raise getattr(errors, name)("long\nstory")

    monkeypatch.setattr(references, "_hub", lambda: get)
    with pytest.raises(UserError) as caught:
        load("hf://us/tiny")
    told = (
        "hf://us/tiny: us/tiny is not in the local cache, and the network could not be reached (connect, or "
    )
    assert str(caught.value).startswith(told)
    assert "story" not in str(caught.value)
    assert asked == ["model.safetensors"]  # a second file would wait as long


def test_the_attempts_of_the_hub_are_not_told() -> None:
    references._hub()
    assert not logging.getLogger("huggingface_hub.utils._http").isEnabledFor(logging.WARNING)


def test_a_forgotten_slash_is_told() -> None:
    with pytest.raises(UserError, match=r"did you mean hf://us/tiny\?"):
        load("hf:us/tiny")


def test_a_broken_config_beside_the_weights(tmp_path: Path) -> None:
    torch.save(build(Narrow).state_dict(), tmp_path / "a.pth")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: not readable"):
        load(str(tmp_path / "a.pth"))


def test_random_controls() -> None:
    one, same, other = load("random:resnet10-c8"), load("random:resnet10-c8@0"), load("random:resnet10-c8@1")
    assert one.passport.layout == "random"
    assert not one.passport.trained
    assert one.passport.weights_sha256 == same.passport.weights_sha256 != other.passport.weights_sha256
    assert one.passport.sha256 == one.passport.weights_sha256
    for bad in ("random:resnet11", "random:resnet10@x", "random:"):
        with pytest.raises(UserError) as caught:
            load(bad)
        assert caught.value.code == 2
