"""The room pictures against the golden pixels, and every way a picture can be bad. No MindSpore."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mindformers_qwenvl.pictures import opening
from mindformers_qwenvl.pictures.images import (
    CLIP_MEAN,
    CLIP_STD,
    ImageError,
    ImagePolicy,
    ImageRefusedError,
    ImageTransform,
    open_image,
    source_name,
    start_image,
)
from tests.support.golden import GOLDEN, SETS, golden_set
from tests.support.pictures import assert_golden_pixels, draw, golden_images, pixel_goldens

ORIENTATION = 0x0112


@pytest.mark.parametrize(("name", "index"), [(name, index) for name in SETS for index in golden_images(name)])
def test_golden_pixels(name, index):
    golden = golden_set(name)
    transform = ImageTransform(golden.config["visual"]["image_size"])
    pixels = transform.pixels(golden.image(index))
    assert pixels.dtype == np.uint8
    assert_golden_pixels(transform.normalise(pixels), golden, index)


@pytest.mark.parametrize("size", [56, 112, 448])
def test_pixels_are_those_of_the_original_with_any_pillow(size):
    """Odd shapes and modes, of which Pillow 12 and 13 resize some in another order when asked in one call."""
    cases = [case for case in pixel_goldens() if case["image_size"] == size]
    assert len(cases) == 10
    arrays = np.load(GOLDEN / "pixels" / "pixels.npz")
    for case in cases:
        path = GOLDEN / "pixels" / case["image"]
        pixels = ImageTransform(size).pixels(path)
        if size == 56:  # says where they differ
            np.testing.assert_array_equal(pixels, arrays[f"{path.stem}.56"], err_msg=path.name)
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == case["sha256"], path.name


def test_normalise_keeps_leading_axes():
    transform = ImageTransform(8)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    out = transform.normalise(pixels)
    assert out.dtype == np.float32 and out.shape == (2, 3, 3, 8, 8) and out.flags.c_contiguous
    want = (pixels[1, 2, :, :, 1] / 255 - CLIP_MEAN[1]) / CLIP_STD[1]
    np.testing.assert_allclose(out[1, 2, 1], want, atol=1e-6)


def test_normalise_refuses_what_is_not_pixels():
    with pytest.raises(ValueError, match="uint8"):
        ImageTransform(8).normalise(np.zeros((8, 8, 3), np.float32))


def test_every_kind_of_source_gives_the_same_pixels(tmp_path):
    path = draw(tmp_path / "höhe 1.png")
    image = Image.open(path)
    want = np.asarray(image)
    array = np.array(image)
    sources = [path, str(path), path.as_uri(), path.read_bytes(), bytearray(path.read_bytes()), image, array]
    for source in sources:
        np.testing.assert_array_equal(np.asarray(open_image(source)), want)
    np.testing.assert_array_equal(np.asarray(open_image(array[:, :, 0])), np.repeat(array[:, :, :1], 3, axis=2))
    np.testing.assert_array_equal(np.asarray(open_image(array[:, :, :1])), np.repeat(array[:, :, :1], 3, axis=2))
    with_alpha = np.concatenate([array, np.zeros_like(array[:, :, :1])], axis=2)
    np.testing.assert_array_equal(np.asarray(open_image(with_alpha)), want)


def test_root_joins_relative_paths_only(tmp_path):
    path = draw(tmp_path / "train" / "a.png")
    assert open_image("a.png", root=path.parent).size == (20, 12)
    assert open_image(str(path), root=tmp_path).size == (20, 12)


def test_exif_rotation_only_when_asked(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # turn by 90 degrees to see it upright
    path = tmp_path / "turned.jpg"
    Image.open(draw(tmp_path / "a.png")).save(path, exif=exif)
    assert open_image(path).size == (20, 12)
    assert open_image(path, exif_rotation=True).size == (12, 20)
    asis, turned = ImageTransform(16).pixels(path), ImageTransform(16, exif_rotation=True).pixels(path)
    assert not np.array_equal(asis, turned)


def test_missing_files_name_the_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train.*no\.png.*no such file"):
        open_image("no.png", root=tmp_path / "train")
    with pytest.raises(FileNotFoundError, match="a folder"):
        open_image(tmp_path)


def _truncated(path):
    data = draw(path.with_suffix(".jpg"), size=(64, 64)).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _text(path):
    path.write_text("<html>not found</html>")


def _empty(path):
    path.write_bytes(b"")


def _damaged_header(path):
    path.write_bytes(draw(path.with_suffix(".png")).read_bytes()[:20])


@pytest.mark.parametrize("damage", [_truncated, _text, _empty, _damaged_header])
def test_broken_files_name_the_path(tmp_path, damage):
    path = tmp_path / "broken.bin"
    damage(path)
    with pytest.raises(ImageError, match=r"broken\.bin") as error:
        open_image(path)
    assert str(error.value).count("broken.bin") == 1  # said once
    with pytest.raises(ImageError, match="bytes"):
        open_image(path.read_bytes())


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_large_pictures_are_refused_before_decoding(tmp_path):
    path = draw(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png: 20x12 pixels, more than the 239"):
        open_image(path, policy=ImagePolicy(max_pixels=239))
    for side in (10_000, 14_000):  # Pillow warns of the first and raises on the second
        buffer = io.BytesIO()
        Image.new("1", (side, side)).save(buffer, "png")
        (tmp_path / "bomb.png").write_bytes(buffer.getvalue())
        with pytest.raises(ImageError, match=r"bomb\.png"):
            open_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("size", [(100_001, 1), (1, 100_001)])
def test_too_long_pictures_are_refused_before_they_are_resized(tmp_path, size):
    """448 x the rows of a narrow one would be in memory between the two passes."""
    Image.new("L", size).save(tmp_path / "line.png")
    with pytest.raises(ImageRefusedError, match=r"line\.png: 1.*x1.* pixels, a side longer than the 100000") as error:
        ImageTransform(8).pixels(tmp_path / "line.png")
    assert error.value.rule == "max_side"
    allowed = ImageTransform(8, policy=ImagePolicy(max_side=100_001))
    assert allowed.pixels(tmp_path / "line.png").shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("ftp://localhost/a.png", "ftp:// cannot be read"),
        ("file://elsewhere/a.png", "another machine"),
        ("", "not a file name"),
        ("a\0b", "not a file name"),
        (3, "<int>"),
        (np.zeros((4, 4, 2), np.uint8), "array must be uint8"),
        (np.zeros((4, 4, 3), np.float32), "array must be uint8"),
        (np.zeros((0, 4, 3), np.uint8), "array must be uint8"),
    ],
)
def test_unusable_sources(source, reason):
    with pytest.raises(ImageError, match=reason):
        open_image(source)


@pytest.mark.parametrize(
    "settings",
    [{"size": 0}, {"size": 4.5}, {"interpolation": "magic"}, {"mean": (1, 2)}, {"std": (1, 1, 0)}],
)
def test_bad_settings(settings):
    with pytest.raises(ValueError, match=next(iter(settings)) if "size" not in settings else "image_size"):
        ImageTransform(**settings)


def test_stack(tmp_path):
    paths = [draw(tmp_path / f"{i}.png", seed=i) for i in range(2)]
    transform = ImageTransform(8)
    pictures = transform.stack(paths)
    assert pictures.shape == (2, 8, 8, 3) and pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures[1], transform.pixels(paths[1]))
    assert transform.stack([]).shape == (0, 8, 8, 3)
    padded = transform.stack(paths, count=len(paths) + 2)
    np.testing.assert_array_equal(padded[: len(paths)], pictures)
    assert len(padded) == len(paths) + 2 and not padded[len(paths) :].any()
    with pytest.raises(ValueError, match="do not fit into 1"):
        transform.stack(paths, count=1)


def test_a_picture_of_the_caller_is_never_the_result():
    mine = Image.new("RGB", (3, 3))
    open_image(mine).putpixel((0, 0), (255, 0, 0))
    assert mine.getpixel((0, 0)) == (0, 0, 0)


def test_needs_no_mindspore():
    code = "import sys, mindformers_qwenvl.pictures.images; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert not {"mindspore", "mindformers"} & set(run.stdout.split())


def test_a_started_image_is_opened_as_its_path_would_be(tmp_path, monkeypatch):
    for number, name in enumerate(("a.png", "b.jpg")):
        draw(tmp_path / name, seed=number)
        want = np.asarray(open_image(name, root=tmp_path))
        started = start_image(name, root=tmp_path)
        (tmp_path / name).unlink()  # what follows does not go back to the file
        assert np.array_equal(np.asarray(open_image(started)), want)
        assert source_name(started) == str(tmp_path / name)
    draw(tmp_path / "large.png")
    want = np.asarray(open_image("large.png", root=tmp_path))
    monkeypatch.setattr(opening, "READ_WHOLE", 10)
    assert np.array_equal(np.asarray(open_image(start_image("large.png", root=tmp_path))), want)
    for source in (b"bytes", "https://example.com/a.png", "data:image/png;base64,AAAA", np.zeros((2, 2), np.uint8)):
        assert start_image(source) is source


def test_a_single_picture_has_strides_that_mindspore_copies_at_once(tmp_path):
    path = draw(tmp_path / "a.png")
    single, several = ImageTransform(8).stack([path]), ImageTransform(8).stack([path], count=2)
    assert single.shape == (1, 8, 8, 3) and single.strides == several.strides
    assert np.array_equal(single[0], several[0])
