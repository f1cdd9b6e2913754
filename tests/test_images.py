import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from detkit.images import (
    Frame,
    ThinImageError,
    check_shape,
    load_image,
    read_frame,
    read_image,
    read_photo,
    resize_image,
    resized_size,
)

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
EXPECTED = torch.from_numpy(PIXELS).permute(2, 0, 1)


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(PIXELS).save(path)
    return path


def rotated_jpeg(folder):
    """Stored 4 high and 6 wide, to be shown 6 high and 4 wide."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = folder / "rotated.jpg"
    Image.new("RGB", (6, 4), (10, 200, 30)).save(path, exif=exif)
    return path


@pytest.mark.parametrize(
    "source",
    [Image.fromarray(PIXELS), PIXELS, np.asarray(Image.fromarray(PIXELS)), EXPECTED, PIXELS[:, ::-1][:, ::-1]],
    ids=["pil", "array", "read-only array", "tensor", "array with negative strides"],
)
def test_every_kind_of_source_gives_the_same_pixels(source):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_image(source)
    assert loaded.dtype == torch.uint8
    assert torch.equal(loaded, EXPECTED)


def test_paths(png):
    for loaded in (load_image(png), load_image(str(png)), read_image(png)):
        assert torch.equal(loaded, EXPECTED)


def test_an_array_is_copied():
    pixels = PIXELS.copy()
    loaded = load_image(pixels)
    pixels[:] = 0
    assert torch.equal(loaded, EXPECTED)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_every_pil_mode_becomes_rgb(mode):
    loaded = load_image(Image.fromarray(PIXELS).convert(mode))
    assert loaded.shape == (3, 4, 6)
    assert loaded.dtype == torch.uint8
    if mode in ("RGBA", "CMYK"):
        assert torch.equal(loaded, EXPECTED)


def test_palette_colours_are_looked_up():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert load_image(image)[:, 0].T.tolist() == [[255, 0, 0], [0, 0, 255]]


def files_of(folder, values):
    """The values as a 16-bit PNG, a TIFF, a PIL image, an array and a tensor."""
    paths = [folder / "grey.png", folder / "grey.tif"]
    for path in paths:
        Image.fromarray(values).save(path)
    return [*paths, Image.fromarray(values), values, torch.from_numpy(np.stack([values] * 3))]


@given(arrays(np.uint16, (3, 4)))
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_16_bit_has_one_scale_whatever_the_values_and_the_door(tmp_path, values):
    wanted = torch.from_numpy((values // 257).astype(np.uint8)).expand(3, -1, -1)
    for source in files_of(tmp_path, values):
        assert torch.equal(load_image(source), wanted)


@given(arrays(np.uint8, (4, 5, 3)), st.sampled_from([np.float16, np.float32, np.float64]))
@settings(deadline=None)
def test_floats_of_0_to_1_are_the_same_image_as_whole_numbers(pixels, kind):
    for source in ((pixels / 255).astype(kind), torch.from_numpy((pixels / 255).astype(kind)).permute(2, 0, 1)):
        assert torch.equal(load_image(source), load_image(pixels))


def test_float_tiff(tmp_path):
    path = tmp_path / "float.tif"
    Image.fromarray(np.array([[0, 0.4, 1]], dtype=np.float32)).save(path)
    assert load_image(path)[0].tolist() == [[0, 102, 255]]
    for wrong in (1.5, -0.1, float("nan"), 65535):
        Image.fromarray(np.array([[0, wrong]], dtype=np.float32)).save(path)
        with pytest.raises(ValueError, match=r"float\.tif: image values of type float32 must lie in 0\.\.1"):
            load_image(path)


def test_12_bit_values_in_16_bit_are_dark_and_reported(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("detkit.images._reported_dark", set())
    path = tmp_path / "scanner.png"
    Image.fromarray(np.full((2, 2), 4095, dtype=np.uint16)).save(path)
    assert load_image(path).unique().tolist() == [15]
    assert "scanner.png: the values of this 16-bit image reach 4095 of 65535" in caplog.text


def test_black_and_white_is_bool():
    assert load_image(PIXELS > 100).unique().tolist() == [0, 255]


def test_images_above_the_limit_of_pixels(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.new("1", (3000, 2000)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(ValueError, match=r"large\.png: .*6000000 pixels.*DETKIT_MAX_PIXELS"):
        read_image(path)
    monkeypatch.setenv("DETKIT_MAX_PIXELS", "6000000")
    assert read_image(path).shape == (3, 2000, 3000) and Image.MAX_IMAGE_PIXELS == 1_000_000
    monkeypatch.setenv("DETKIT_MAX_PIXELS", "5999999")
    with pytest.raises(ValueError, match="DETKIT_MAX_PIXELS allows 5999999"):
        read_image(path)
    monkeypatch.setenv("DETKIT_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="must be a whole number"):
        read_image(path)


def test_16_bit_grey_is_scaled(tmp_path):
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    path = tmp_path / "grey16.png"
    Image.fromarray(values).save(path)
    assert load_image(path)[:, 0].tolist() == [[0, 100, 255]] * 3


def test_grey_array_has_three_equal_channels():
    loaded = load_image(PIXELS[:, :, 0])
    assert torch.equal(loaded, EXPECTED[:1].expand(3, -1, -1))


def test_a_photo_is_its_upright_picture_at_every_door(tmp_path):
    path = rotated_jpeg(tmp_path)
    with Image.open(path) as image:
        assert load_image(image).shape == (3, 6, 4)
    assert torch.equal(load_image(path), read_image(path)) and read_image(path).shape == (3, 6, 4)


@pytest.mark.parametrize("suffix", ["tif", "png", "webp", "avif", "jpg"])
def test_formats_with_exif(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(PIXELS).save(path, exif=exif)
    pixels, frame = read_photo(path)
    assert pixels.shape == (3, 6, 4) and frame == Frame((6, 4), 6) == read_frame(path)
    assert (pixels.float() - EXPECTED.rot90(-1, (1, 2)).float()).abs().mean() < (1 if suffix in ("tif", "png") else 30)


def test_damaged_exif_data_leaves_the_photo_as_stored(tmp_path):
    for number, block in enumerate((b"Exif\0\0junk", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"")):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(PIXELS).save(path, exif=block)
        assert read_image(path).shape == (3, 4, 6)


@pytest.mark.parametrize("read", [load_image, read_image])
def test_unreadable_files_are_named(read, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole, truncated, text = tmp_path / "whole.jpg", tmp_path / "truncated.jpg", tmp_path / "text.jpg"
    Image.fromarray(noise).save(whole)
    truncated.write_bytes(whole.read_bytes()[:1500])
    text.write_text("not an image")
    for path in (truncated, text, tmp_path / "missing.jpg", tmp_path):
        with pytest.raises(ValueError, match=path.name):
            read(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((4, 6, 4), dtype=np.uint8), r"\[h, w, 3\]"),
        (torch.zeros(4, 6, 3), r"\[3, h, w\]"),
        (torch.zeros(1, 3, 4, 6), r"\[3, h, w\]"),
        (torch.zeros(3, 0, 5), "no pixels"),
        (torch.full((3, 4, 6), -1.5), "normalised"),
        (torch.full((3, 4, 6), 256.0), "0..255"),
        (torch.full((3, 4, 6), float("nan")), "0..255"),
        (torch.full((3, 4, 6), 1.01), r"float32 must lie in 0\.\.1 .*255 as uint8"),
        (np.full((4, 6, 3), 1000, dtype=np.int32), "0..255"),
        (np.full((4, 6, 3), "a"), "numbers"),
        (torch.zeros(3, 4, 6, dtype=torch.complex64), "real numbers"),
        ("https://example.com/a.jpg", "is a URL: download the image"),
        (np.full((4, 6), -1), "0..255"),
        (None, "NoneType"),
        (b"bytes", "bytes"),
    ],
)
def test_what_is_not_an_image(source, message):
    with pytest.raises(ValueError, match=message):
        load_image(source)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1056)),  # DETR: 800 x 1066
        ((640, 480), (1056, 800)),
        ((427, 640), (800, 1184)),  # 800 x 1199
        ((1000, 300), (1328, 400)),  # 1333 x 400
        ((300, 1000), (400, 1328)),
        ((800, 800), (800, 800)),
        ((32, 32), (800, 800)),
        ((612, 612), (800, 800)),
    ],
)
def test_the_size_rule_of_vidt(size, expected):
    assert resized_size(size, 800, 1333, 16) == expected


def test_the_size_rule_of_detr():
    assert resized_size((480, 640), 800, 1333) == (800, 1066)
    assert resized_size((333, 500), 800, 1333) == (800, 1201)
    assert resized_size((1000, 300), 800, 1333) == (1333, 400)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1), (3, 2000), (1, 888)])
def test_extreme_shapes_keep_one_block(size):
    height, width = resized_size(size, 800, 1333, 16)
    assert min(height, width) >= 16
    assert max(height, width) <= 1333
    assert height % 16 == width % 16 == 0
    assert (height > width) == (size[0] > size[1])


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 2000)])
def test_thin_images_are_refused(size):
    with pytest.raises(ThinImageError, match=f"{size[1]} x {size[0]} pixels is too thin: with 1333 pixels for"):
        check_shape(size, 1333, 16)
    check_shape((32, 5000), 1333, 16)


sides = st.integers(1, 9000)


@settings(deadline=None)
@given(sides, sides, st.integers(16, 1400), st.integers(16, 2000), st.sampled_from([1, 8, 16, 32]))
def test_a_resized_image_keeps_its_aspect_and_never_passes_the_longest_side(height, width, shortest, longest, multiple):
    assume(multiple <= shortest <= longest)
    found = resized_size((height, width), shortest, longest, multiple)
    factor = min(shortest / min(height, width), longest / max(height, width))
    wanted = (factor * height, factor * width)
    rounding = 0.5 * max(wanted) / max(1, min(wanted))  # of the shorter side to whole pixels, as the longer one sees it
    assert max(found) <= longest
    for side, ideal in zip(found, wanted, strict=True):
        assert side % multiple == 0 and -multiple - rounding - 1 < side - ideal < max(multiple, rounding + 1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32, torch.float64, torch.bfloat16])
def test_resize_keeps_dtype_and_a_flat_colour(dtype):
    image = torch.tensor([10, 100, 250]).to(dtype)[:, None, None].expand(3, 30, 50)
    resized = resize_image(image, (16, 96))
    assert resized.dtype == dtype
    assert resized.shape == (3, 16, 96)
    assert (resized - image[:, :1, :1]).abs().max() <= 1e-3


def test_resize_to_the_same_size_changes_nothing():
    assert resize_image(EXPECTED, (4, 6)) is EXPECTED


def test_shrinking_averages_all_pixels():
    image = torch.zeros(3, 64, 64)
    image[:, ::2] = 200
    assert resize_image(image, (8, 8)).sub(100).abs().max() < 8


def test_resize_agrees_with_pil():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(noise).resize((48, 32), Image.Resampling.BILINEAR)).astype(int)
    resized = resize_image(torch.from_numpy(noise).permute(2, 0, 1), (32, 48)).permute(1, 2, 0).numpy()
    assert np.abs(resized - expected).max() <= 1


@pytest.mark.parametrize("value", [1.0000001, 1.0005, -1e-8])
def test_rounding_beyond_the_range_of_floats_is_no_error(value):
    image = torch.full((3, 4, 4), value)
    assert load_image(image).unique().tolist() == [255 if value > 0.5 else 0]


def test_values_that_are_not_finite_are_called_so():
    image = torch.zeros(3, 4, 4)
    image[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"they are not all finite"):
        load_image(image)


@pytest.mark.parametrize(("high", "hint"), [(200, "of 8 bit, multiply them by 257"), (4000, "of 12 bit")])
def test_dark_arrays_of_16_bit_are_reported_like_files(monkeypatch, caplog, high, hint):
    monkeypatch.setattr("detkit.images._reported_dark", set())
    load_image(np.full((4, 4, 3), high, np.uint16))
    assert f"reach {high} of 65535" in caplog.text and hint in caplog.text
    caplog.clear()
    monkeypatch.setattr("detkit.images._reported_dark", set())
    load_image(np.zeros((4, 4, 3), np.uint16))
    load_image(np.full((4, 4, 3), 60000, np.uint16))
    assert caplog.text == ""
