"""Which files are images, in what order, and what their pixels are: known values in every mode and container."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mast.errors import UserError
from mast.images import class_folders, decode, header, walk

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20  # 0 to 220
DEEP = GREY.astype(np.uint16) * 257  # the same in sixteen bits


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png(depth: int, kind: int, values: np.ndarray) -> bytes:
    """A PNG written by hand: Pillow writes no colour of sixteen bits."""
    rows, width = values.shape[:2]
    raw = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in values)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, rows, depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    )


def tiff12(values: np.ndarray) -> bytes:
    """A TIFF of twelve bits, two values in three bytes."""
    rows, width = values.shape
    packed = b"".join(
        bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255)) for a, b in values.reshape(-1, 2).tolist()
    )
    tags = [
        (256, width),
        (257, rows),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, rows),
        (279, len(packed)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(packed))
        + packed
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)
FEW = Image.fromarray(COLOUR).quantize(4)
TURNED = Image.Exif()
TURNED[0x0112] = 6
RGB = np.repeat(GREY[:, :, None], 3, axis=2)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (encoded(Image.fromarray(GREY), "PNG"), RGB),
        (encoded(Image.fromarray(COLOUR), "PNG"), COLOUR),
        (encoded(Image.fromarray(COLOUR), "BMP"), COLOUR),
        (encoded(Image.fromarray(COLOUR), "TIFF"), COLOUR),
        (encoded(Image.fromarray(COLOUR), "PPM"), COLOUR),
        (encoded(Image.fromarray(COLOUR), "WEBP", lossless=True), COLOUR),
        (encoded(Image.fromarray(DEEP), "PNG"), RGB),
        (encoded(Image.fromarray(DEEP), "TIFF"), RGB),
        (encoded(Image.fromarray(DEEP), "PPM"), RGB),
        (encoded(Image.fromarray(65535 - DEEP), "TIFF", tiffinfo={262: 0}), RGB),
        (tiff12(np.array([[0, 4095, 273 * 5, 273 * 2]])), np.array([[0, 255, 85, 34]])[:, :, None].repeat(3, 2)),
        (png(16, 0, DEEP), RGB),
        (png(16, 2, COLOUR.astype(np.uint16) * 257), COLOUR),
        (png(16, 4, np.stack([DEEP, DEEP * 0], 2)), RGB),
        (png(16, 6, np.concatenate([COLOUR.astype(np.uint16) * 257, DEEP[:, :, None]], 2)), COLOUR),
        (encoded(Image.fromarray(np.concatenate([COLOUR, GREY[:, :, None]], 2)), "PNG"), COLOUR),
        (encoded(Image.fromarray(np.stack([GREY, GREY * 0], 2)), "PNG"), RGB),
        (encoded(FEW, "PNG"), np.asarray(FEW.convert("RGB"))),
        (encoded(Image.fromarray(GREY > 100), "PNG"), np.repeat((GREY > 100)[:, :, None] * 255, 3, 2)),
        (encoded(Image.fromarray(COLOUR), "PNG", exif=TURNED), COLOUR),
    ],
)  # fmt: skip
def test_pixels_are_what_the_file_holds(content: bytes, wanted: np.ndarray, tmp_path: Path) -> None:
    found = np.asarray(decode(content, "x"))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, wanted)
    (tmp_path / "x.png").write_bytes(content)
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "x.png")), wanted)


@pytest.mark.parametrize("seed", range(5))
def test_sixteen_bits_are_scaled_and_not_cut_off(seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 65536, (9, 7), dtype=np.uint16)
    wanted = np.round(values / 257).astype(np.uint8)
    for form in ("PNG", "TIFF", "PPM"):
        np.testing.assert_array_equal(
            np.asarray(decode(encoded(Image.fromarray(values), form)))[:, :, 1], wanted
        )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "x: holds floating-point values"),
        (encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "x: holds signed or 32-bit integer values"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
            "x: cannot be decoded.*none of JPEG",
        ),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "none of JPEG"),
        (b"", "none of JPEG"),
        (encoded(Image.fromarray(COLOUR), "PNG")[:60], "x: cannot be decoded as an image"),
        (encoded(Image.fromarray(COLOUR), "JPEG")[:200], "x: cannot be decoded as an image"),
    ],
)
def test_what_has_no_obvious_meaning_is_refused(content: bytes, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        decode(content, "x")
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, on odd tags
def test_damaged_bytes_give_pixels_or_one_line() -> None:
    rng = np.random.default_rng(0)
    sources = [
        encoded(Image.fromarray(COLOUR), form)
        for form in ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
    ]
    for turn in range(400):
        content = bytearray(sources[turn % len(sources)])
        for place in rng.integers(0, len(content), 3):
            content[place] = rng.integers(256)
        try:
            assert decode(bytes(content), "x").mode == "RGB"
        except UserError as error:
            told = str(error)
            if "\n" in told or not told.startswith("x: "):
                raise AssertionError(told) from error


def test_a_header_tells_what_the_rules_drop() -> None:
    first = encoded(Image.fromarray(COLOUR), "JPEG", exif=TURNED)
    assert header(first) == header(first, "y")
    assert (header(first).orientation, header(first).size, header(first).alpha) == (6, (4, 3), False)
    assert decode(first).size == (4, 3)
    layers = encoded(Image.fromarray(GREY), "TIFF", save_all=True, append_images=[Image.fromarray(GREY // 2)])
    assert header(layers).frames == 2
    np.testing.assert_array_equal(np.asarray(decode(layers))[:, :, 0], GREY)
    assert header(encoded(Image.fromarray(COLOUR).convert("RGBA"), "PNG")).alpha


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(COLOUR).save(path)
    return path


def test_folders_hold_what_a_person_sees_in_them(tmp_path: Path) -> None:
    root = tmp_path / "root"
    wanted = [save(root / name) for name in ("a/1.png", "a/b/2.JPG", "a/b.png", "b/c/d/e.tif")]
    linked = save(tmp_path / "far/3.png").parent
    (root / "b/linked").symlink_to(linked)
    (root / "linked").symlink_to(linked)
    (root / "b/one.png").symlink_to(linked / "3.png")
    for name in ("a/.ipynb_checkpoints/1.png", "a/@eaDir/1.png/THUMB.jpg", ".hidden/x.png", "@eaDir/x.png",
                 "__MACOSX/a/x.png", "a/._1.png"):  # fmt: skip
        save(root / name)
    (root / "a/notes.txt").write_text("")
    (root / "a/anim.gif").write_text("")
    (root / "a/folder.png").mkdir()
    save(root / "loose.png")
    found = class_folders(root)
    assert found.classes == ("a", "b", "linked")
    assert set(found.paths) == {*wanted, root / "b/linked/3.png", root / "b/one.png", root / "linked/3.png"}
    assert list(found.paths) == sorted(found.paths)
    assert [found.classes[label] for label in found.labels] == [
        p.relative_to(root).parts[0] for p in found.paths
    ]
    assert (found.others, found.loose, found.empty) == ({".gif": 1, ".txt": 1}, 1, ())
    assert len(walk(root).images) == len(found.paths) + 1


def test_links_that_lead_nowhere_or_round_are_named(tmp_path: Path) -> None:
    save(tmp_path / "a/b/1.png")
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="up: a link that leads to a folder above it"):
        class_folders(tmp_path)
    (tmp_path / "a/b/up").unlink()
    (tmp_path / "a/b/2.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"2\.png: a link that leads nowhere"):
        class_folders(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a/b/1.png")
    (tmp_path / "a/b").chmod(0)
    with pytest.raises(UserError, match="b: cannot be read: Permission denied"):
        walk(tmp_path)
    (tmp_path / "a/b").chmod(0o700)


def test_a_folder_that_is_not_there_is_not_called_forbidden(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone: cannot be read: No such file") as caught:
        walk(tmp_path / "gone")
    assert "permissions" not in caught.value.remedy


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def raw_profile() -> PngInfo:
    """Exif as ImageMagick writes it into a PNG."""
    found, content = PngInfo(), TURNED.tobytes()
    found.add_text("Raw profile type exif", f"\nexif\n{len(content):8d}\n{content.hex()}\n", zip=True)
    return found


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {"xmp": XMP}), ("PNG", {"pnginfo": raw_profile()}), ("WEBP", {"xmp": XMP})]
)
def test_orientation_is_found_wherever_pillow_finds_it(kind: str, options: dict[str, object]) -> None:
    content = encoded(Image.fromarray(COLOUR), kind, **options)
    with Image.open(io.BytesIO(content)) as image:
        assert image.getexif()[0x0112] == 6  # what Detectron2 turns pictures by
    assert (header(content).orientation, header(content).size, header(content).shown) == (6, (4, 3), (3, 4))
    assert decode(content).size == (4, 3)


def test_pillow_turns_a_tiff_as_it_reads() -> None:
    content = encoded(Image.fromarray(COLOUR), "TIFF", tiffinfo={0x0112: 6})
    found = header(content)
    assert (found.turned, found.size, decode(content).size) == (True, (3, 4), (3, 4))
    np.testing.assert_array_equal(np.asarray(decode(content)), np.rot90(COLOUR, -1))
    assert not header(encoded(Image.fromarray(COLOUR), "TIFF")).turned
