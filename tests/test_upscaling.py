"""A real photograph: borders, tiles, alignment; files of every kind; errors in one line."""

import contextlib
import io
import math
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile  # scikit-image brings it
import torch
import torch.nn.functional as F
from dense import random_kernel, uniform
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import usrlib
from usrlib import evaluation, images, upscaling
from usrlib.upscaling import GRID, estimate_noise, read_kernel, upscale, wrap

KERNELS = usrlib.benchmark_kernels()


@pytest.fixture(scope="module")
def tiny():
    return usrlib.load_usrnet("tiny")


def photograph(height, width, name="astronaut", corner=(0, 0)):
    x = images.sample(name)
    x = torch.cat([x, x.flip(-1)], dim=-1)[..., corner[0] :, corner[1] :]
    return x[..., :height, :width]


def nearest(y, k, scale, sigma):
    return y.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


def data_step(y, k, scale, sigma):
    return usrlib.data_step(nearest(y, k, scale, sigma), y, k, scale, 1e-3)


# --- Borders -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("height, width", [(7, 11), (1, 9), (6, 1), (1, 1), (2, 2)])
def test_a_wrapped_picture_holds_the_picture_and_goes_on_smoothly_in_a_circle(height, width):
    y = uniform(1, 2, height, width)
    whole = wrap(y, (height + 8, width + 12), (3, 5))
    assert whole.shape == (1, 2, height + 8, width + 12)
    assert torch.equal(whole[..., 3 : 3 + height, 5 : 5 + width], y)
    if height > 1:                                                   # one row alone has no slope to go on with
        twice = laplacian(laplacian(whole))
        assert max(twice[..., :3, :].abs().max(), twice[..., 3 + height :, :].abs().max()) < 1e-11
    assert torch.allclose(wrap(torch.ones_like(y), whole.shape[-2:], (3, 5)), torch.ones_like(whole))


def laplacian(x):
    return 4 * x - sum(x.roll(shift, axis) for shift in (-1, 1) for axis in (-2, -1))


def test_columns_are_added_as_rows_are():
    y = uniform(1, 1, 8, 6)
    assert torch.allclose(wrap(y, (8, 16), (0, 4)), wrap(y.mT, (16, 8), (4, 0)).mT, rtol=0, atol=1e-13)
    assert torch.equal(wrap(y, (8, 6), (0, 0)), y)


def test_borders_gain_over_plain_replication(tiny):
    """Pictures cut out of larger blurred ones, in a frame of 8 pixels; inside, nothing is lost."""
    gains = []
    for name, number, scale in (("chelsea", 8, 2), ("coffee", 3, 4), ("rocket", 2, 1)):
        x = photograph(144, 144, name, (180, 200) if name == "rocket" else (60, 150)).float()
        y = usrlib.degrade(x, KERNELS[number : number + 1], scale, 2.55 / 255, torch.Generator().manual_seed(0))
        x, y = x[..., 24:-24, 24:-24], y[..., 24 // scale : -24 // scale, 24 // scale : -24 // scale]
        arguments = KERNELS[number : number + 1], scale, 2.55 / 255
        plain = tiny(torch.nn.functional.pad(y, (16,) * 4, mode="replicate"), *arguments)
        plain = plain[..., 16 * scale : -16 * scale, 16 * scale : -16 * scale]
        smooth = upscale(tiny, y, *arguments)
        gains.append([frame(smooth, x) - frame(plain, x), usrlib.psnr(smooth, x, 16) - usrlib.psnr(plain, x, 16)])
    border, inside = np.mean(gains, axis=0)
    assert border > 0.5 and inside > -0.05


def frame(a, b):
    """PSNR in the outermost 8 pixels."""
    error = (a - b).square()
    error[..., 8:-8, 8:-8] = 0
    return -10 * math.log10(error.sum() / (error.numel() - error[..., 8:-8, 8:-8].numel()))


# --- Tiles -------------------------------------------------------------------------------------------------------

@given(st.integers(1, 90), st.integers(1, 200), st.integers(1, 4), st.sampled_from([None, 1, 200, 500]))
def test_every_pixel_comes_from_its_place(height, width, scale, tile):
    y = torch.arange(float(height * width)).view(1, 1, height, width)
    assert torch.equal(upscale(nearest, y, torch.ones(1, 1, 1, 1), scale, 0.0, tile), nearest(y, None, scale, 0.0))


@pytest.mark.parametrize("number, scale, sigma, height, width, tile", [
    (3, 1, 2.55, 88, 200, 200), (8, 2, 0.0, 40, 200, 280), (10, 2, 2.55, 120, 60, 280), (8, 3, 0.0, 32, 140, 300),
    (3, 4, 2.55, 32, 96, 320),
])
def test_tiles_leave_no_seams(tiny, number, scale, sigma, height, width, tile):
    k, calls = KERNELS[number : number + 1], []

    def restore(y, *arguments):
        calls.append(y.shape)
        return tiny(y, *arguments)

    x = photograph(scale * height, scale * width)
    y = usrlib.degrade(x, k, scale, sigma / 255, torch.Generator().manual_seed(0)).float()
    whole = upscale(restore, y, k, scale, sigma / 255, tile=None)
    assert len(calls) == 1
    tiled = upscale(restore, y, k, scale, sigma / 255, tile)
    assert len(calls) > 2
    assert (tiled - whole).abs().max() < 1 / 255


def test_in_a_batch_every_picture_may_have_its_noise(tiny):
    y, sigma = uniform(2, 3, 12, 10).float(), torch.tensor([0.01, 0.05]).view(2, 1, 1, 1)
    k = usrlib.gaussian_kernel(9, (1.0, 1.0)).float()
    both = upscale(tiny, y, k, 2, sigma)
    for one in (0, 1):
        alone = upscale(tiny, y[one : one + 1], k, 2, sigma[one].item())
        torch.testing.assert_close(both[one : one + 1], alone, rtol=0, atol=1e-5)


def test_in_a_batch_every_kernel_has_the_margin_that_the_widest_needs():
    y, k = uniform(2, 1, 24, 24), torch.cat([usrlib.gaussian_kernel(25, (w**2, w**2)) for w in (0.7, 3.0)])
    together = upscale(evaluation.wiener, y, k, 2, 0.01)
    assert torch.allclose(together[1:], upscale(evaluation.wiener, y[1:], k[1:], 2, 0.01), rtol=0, atol=1e-9)


@pytest.mark.parametrize("height, width", [(25, 25), (24, 25), (25, 8)])
def test_zeros_around_a_kernel_change_nothing(height, width):
    seen, k = [], usrlib.gaussian_kernel(25, (2.0, 1.0), 0.5)[..., :height, :width]

    def restore(y, k, scale, sigma):
        seen.append(y.shape)
        return data_step(y, k, scale, sigma)

    y, roomy = uniform(1, 1, 40, 300), torch.zeros(1, 1, 513, 400).double()
    top, left = 256 - height // 2, 200 - width // 2
    roomy[..., top : top + height, left : left + width] = k
    results = [upscale(restore, y, kernel, 2, 0.0, tile=200) for kernel in (k, roomy)]
    assert torch.allclose(*results, rtol=0, atol=1e-9) and seen[: len(seen) // 2] == seen[len(seen) // 2 :]


def test_tiles_are_bounded_and_begin_where_the_prior_can_follow():
    seen = []

    def restore(y, k, scale, sigma):
        seen.append(y)
        return nearest(y, k, scale, sigma)

    y = torch.stack(torch.meshgrid(torch.arange(90.0), torch.arange(700.0), indexing="ij"))[None].double()
    upscale(restore, y, torch.ones(1, 1, 25, 25) / 625, 2, 0.0, tile=640)
    assert len(seen) > 4
    for part in seen:
        assert max(part.shape[-2:]) <= 640 / 2 and not any(side % GRID for side in part.shape[-2:])
        middle = [side // 2 for side in part.shape[-2:]]              # a pixel of y, which says where it lies
        assert all((part[0, axis, middle[0], middle[1]].item() - middle[axis]) % GRID == 0 for axis in (0, 1))


# --- Alignment and kernels ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("text", ["gaussian:1.0", "bicubic"])
def test_the_result_lies_where_an_ordinary_enlargement_lies(scale, text):
    blob = usrlib.gaussian_kernel(32, (9.0, 9.0), shift=(1.5, -2.25)).float()
    k, notes = read_kernel(text, scale)
    assert not notes and k.sum().item() == pytest.approx(1)
    x = upscale(data_step, blob, k, scale, 0.0)
    ordinary = Image.fromarray(blob[0, 0].numpy()).resize((32 * scale, 32 * scale), Image.Resampling.BICUBIC)
    assert centroid(x[0, 0]) == pytest.approx(centroid(torch.from_numpy(np.array(ordinary))), abs=0.02 * scale)


def centroid(x):
    x = x.double() / x.sum()
    return [(x.sum(1 - axis) @ torch.arange(side).double()).item() for axis, side in enumerate(x.shape)]


def test_a_gaussian_may_be_an_oval():
    k, notes = read_kernel("gaussian:1.2,1.5,30", 2)
    expected = usrlib.gaussian_kernel(25, (1.8**2, 1.2**2), math.radians(30), shift=(-0.5, -0.5))
    assert not notes and torch.allclose(k, expected, rtol=1e-9)
    assert centroid(k[0, 0, :, 18:])[0] > centroid(k[0, 0])[0]        # clockwise: to the right it lies lower
    assert torch.equal(read_kernel("gaussian:1.2,1", 2)[0], read_kernel("gaussian:1.2", 2)[0])


def test_a_drawing_is_white_on_black_and_transparent_is_black(tmp_path):
    path = np.zeros((25, 25), np.uint8)
    path[12, 6:19] = 255
    for name, picture in (("right", Image.fromarray(path)), ("inverted", Image.fromarray(255 - path))):
        picture.save(tmp_path / f"{name}.png")
    stencil = Image.new("RGBA", (25, 25), "white")
    stencil.putalpha(Image.fromarray(path))
    stencil.save(tmp_path / "stencil.png")
    (right, notes), (_, warned), (seen, _) = (
        read_kernel(str(tmp_path / f"{name}.png"), 1) for name in ("right", "inverted", "stencil"))
    assert torch.allclose(seen, right) and not notes and "black on white?" in " ".join(warned)
    np.save(tmp_path / "box.npy", np.full((9, 12), 1.0))
    assert not any("black" in note for note in read_kernel(str(tmp_path / "box.npy"), 1)[1])


def test_a_wide_gaussian_is_not_truncated():
    k, _ = read_kernel("gaussian:9", 4)
    assert k[0, 0, 0].max() < 1e-3 * k.max() and k[0, 0, :, -1].max() < 1e-3 * k.max()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_kernel_is_read_from_a_picture(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (5, 7)).astype(kind)
    Image.fromarray(pixels).save(tmp_path / "k.PNG")
    k, notes = read_kernel(str(tmp_path / "k.PNG"), 2)
    assert k.shape == (1, 1, 5, 7) and "moves the picture" in notes[0] and len(notes) == 1
    np.testing.assert_allclose(k[0, 0], pixels / pixels.sum(dtype=np.float64), rtol=1e-5)


def test_a_kernel_is_read_from_an_array_and_what_is_odd_about_it_is_said(tmp_path):
    path = str(tmp_path / "k.npy")
    np.save(path, usrlib.bicubic_kernel(3)[0, 0].numpy())
    k, notes = read_kernel(path, 3)
    assert torch.allclose(k, usrlib.bicubic_kernel(3), rtol=0, atol=1e-12) and not notes
    np.save(path, 2 * np.ones((3, 3), np.float32))
    k, notes = read_kernel(path, 2)
    assert torch.allclose(k, torch.full((1, 1, 3, 3), 1 / 9, dtype=torch.float64))
    assert notes[0] == "the kernel sums to 18; it is divided by that"
    assert "moves the picture 0.5 pixels up and 0.5 to the left" in notes[1]


@pytest.mark.parametrize("array", [np.ones(3), np.ones((1, 3, 3)), np.zeros((3, 3)), -np.ones((3, 3)), np.ones((0, 3)),
                                   np.array([[1.0, math.nan]]), np.array([["a"]]), np.array([[None]])])
def test_arrays_that_are_no_kernels_are_refused(tmp_path, array):
    np.save(tmp_path / "k.npy", array)
    with pytest.raises(ValueError, match=r"--kernel: .*k\.npy"):
        read_kernel(str(tmp_path / "k.npy"), 2)


# --- Noise -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("noise", [1.0, 2.55, 7.65, 25.0])
def test_noise_is_found_where_there_is_little_else(noise):
    ramp = torch.linspace(0.2, 0.8, 200, dtype=torch.float64).expand(1, 3, 200, 200)
    y = ramp + noise / 255 * torch.randn(ramp.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert 255 * estimate_noise(y) == pytest.approx(noise, rel=0.05)


@pytest.mark.parametrize("noise, low, high", [(0.0, 0.1, 2.0), (2.55, 2.4, 3.6), (7.65, 7.2, 9.0)])
@pytest.mark.parametrize("name", images.SAMPLES)
def test_noise_in_photographs_is_guessed_roughly(name, noise, low, high):
    y = usrlib.degrade(images.sample(name, 296), KERNELS[1:2], 2, noise / 255, torch.Generator().manual_seed(0))
    assert low < 255 * estimate_noise((255 * y.clamp(0, 1)).round() / 255) < high


def test_black_and_white_are_not_taken_for_freedom_from_noise():
    noisy = 0.5 + 0.02 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    clipped = torch.cat([noisy, torch.zeros(1, 1, 64, 64), torch.ones(1, 1, 64, 64)], dim=-1)
    assert estimate_noise(clipped) == pytest.approx(estimate_noise(noisy), rel=0.1)


@pytest.mark.parametrize("y", [torch.zeros(1, 3, 40, 40), torch.ones(1, 1, 1, 1), torch.rand(1, 3, 9, 200)])
def test_where_nothing_can_be_told_the_noise_is_0(y):
    assert estimate_noise(y) == 0.0


@pytest.mark.parametrize("changed, named", [
    ({"y": None}, "y"), ({"y": torch.zeros(3, 4, 4)}, "y"), ({"y": torch.full((1, 3, 4, 4), math.nan)}, "y"),
    ({"k": None}, "k"), ({"k": torch.ones(3, 3)}, "k"), ({"scale": 0}, "scale"), ({"scale": 1.5}, "scale"),
    ({"sigma": -1.0}, "sigma"), ({"sigma": math.nan}, "sigma"), ({"tile": 0}, "tile"), ({"tile": 64.0}, "tile"),
])
def test_a_bad_argument_is_refused_by_name(changed, named):
    arguments = {"y": uniform(1, 3, 4, 4), "k": random_kernel(1, 1, 3, 3), "scale": 2, "sigma": 0.0}
    with pytest.raises((ValueError, TypeError), match=rf"^{named}\b"):
        upscale(nearest, **(arguments | changed))


# --- Files -------------------------------------------------------------------------------------------------------

COLOURS = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
RGB = Image.fromarray(COLOURS)
GREY = Image.fromarray(COLOURS[..., 0])
DEEP = Image.fromarray(COLOURS[..., 0].astype(np.uint16) * 200 + 77)
MASK = Image.fromarray(np.kron([[0, 255], [128, 255]], np.ones((5, 6)))[:9].astype(np.uint8))


def with_alpha(picture):
    picture = picture.copy()
    picture.putalpha(MASK)
    return picture


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """The command line with an instant network, in a folder of its own: (picture, options) -> result, what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(upscaling, "network", lambda name: nearest)

    def run(picture, *options, name="in.png", out="out.png", **settings):
        if isinstance(picture, bytes):
            (tmp_path / name).write_bytes(picture)
        elif picture is not None:
            picture.save(tmp_path / name, **settings)
        upscaling.main([name, out, *options])
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name, out})     # nothing is left behind
        with Image.open(tmp_path / out) as result:
            result.load()
        return result, capsys.readouterr().out

    return run


def twice(array):
    return np.asarray(array).repeat(2, 0).repeat(2, 1)


def assert_enlarged(result, alpha):
    """The transparency of the result is that of the picture, enlarged; near the frame Pillow goes on otherwise."""
    expected = alpha.convert("F").resize(result.size, Image.Resampling.BICUBIC)      # 8 bits are clipped on the way
    found, expected = (np.asarray(band, float)[4:-4, 4:-4] for band in (result.getchannel("A"), expected))
    np.testing.assert_allclose(found, expected.clip(0, 255), rtol=0, atol=0.51)


@pytest.mark.parametrize("picture, name, mode", [
    (RGB, "in.png", "RGB"), (RGB.convert("CMYK"), "in.tif", "RGB"), (RGB.quantize(8), "in.png", "RGB"),
    (GREY, "in.png", "L"), (GREY.convert("1"), "in.png", "L"), (with_alpha(RGB), "in.png", "RGBA"),
    (with_alpha(GREY), "in.png", "LA"), (DEEP, "in.png", "I;16"), (DEEP, "in.tif", "I;16"), (DEEP, "in.pgm", "I;16"),
    (RGB.crop((0, 0, 1, 1)), "in.png", "RGB"), (RGB.crop((0, 0, 12, 1)), "in.png", "RGB"),
    (GREY.crop((0, 0, 1, 9)), "in.png", "L"), (with_alpha(RGB).crop((0, 0, 1, 1)), "in.png", "RGBA"),
    (DEEP.crop((0, 0, 1, 1)), "in.png", "I;16"),
])
def test_pictures_of_every_kind_come_out_as_they_went_in(command, picture, name, mode):
    result, said = command(picture, name=name)
    assert result.mode == mode and result.size == (2 * picture.width, 2 * picture.height)
    assert "note" not in said and "noise: " in said
    with Image.open(name) as file:
        if mode == "I;16":
            np.testing.assert_array_equal(np.asarray(result), twice(file))
            return
        opaque, expected = result.convert("RGB"), file.convert("RGB")
    seen = twice(np.ones(expected.size[::-1], bool))
    if "A" in mode:
        assert_enlarged(result, picture.getchannel("A"))
        seen = twice(np.asarray(picture.getchannel("A")) > 0) | (not picture.getchannel("A").getextrema()[1])
    np.testing.assert_array_equal(np.asarray(opaque)[seen], twice(expected)[seen])


@pytest.mark.parametrize("picture, key, mode", [(RGB.quantize(4), 1, "RGBA"), (GREY, int(COLOURS[0, 0, 0]), "LA"),
                                                (RGB, tuple(COLOURS[0, 0].tolist()), "RGBA")])
def test_a_transparent_colour_becomes_an_alpha_channel(command, picture, key, mode):
    result, _ = command(picture, transparency=key)
    assert result.mode == mode
    with Image.open("in.png") as file:
        alpha = file.convert("RGBA").getchannel("A")
    assert alpha.getextrema() == (0, 255)
    assert_enlarged(result, alpha)


def test_hidden_colours_do_not_bleed_into_what_is_seen(command, monkeypatch):
    monkeypatch.setattr(upscaling, "network", lambda name: evaluation.bicubic)
    picture = np.zeros((48, 48, 4), np.uint8)
    picture[12:36, 12:36] = 250, 160, 40, 255
    result = np.asarray(command(Image.fromarray(picture))[0]).astype(int)
    assert abs(result[result[..., 3] > 0, :3] - (250, 160, 40)).max() <= 1


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_transparency_lies_over_the_colours_whatever_the_kernel(command, monkeypatch, scale):
    monkeypatch.setattr(upscaling, "network", lambda name: evaluation.bicubic)
    kernel = Path.cwd().parent / "k.npy"
    np.save(kernel, usrlib.motion_kernel(9, torch.Generator().manual_seed(0)).numpy())          # of shape (1, 1, 9, 9)
    grey = GREY.point(lambda level: max(level, 1))                                              # nothing is hidden
    result, said = command(Image.merge("LA", (grey, grey)), "--kernel", str(kernel), "--scale", str(scale))
    assert ("moves the picture" in said) == (scale > 1)
    colour, alpha = (np.asarray(band, int) for band in result.split())
    np.testing.assert_allclose(colour, alpha, rtol=0, atol=1)


@pytest.mark.parametrize("picture", [RGB, DEEP, with_alpha(GREY)])
def test_a_turned_photograph_comes_out_upright(command, picture):
    exif = Image.Exif()
    exif[274] = 6
    result, _ = command(picture, exif=exif)
    assert result.size == (18, 24) and not result.getexif().get(274)
    colours = COLOURS if picture is RGB else np.asarray(picture if picture is DEEP else picture.convert("L"))
    found = result if picture is DEEP else result.convert("RGB" if picture is RGB else "L")
    seen = np.ones(result.size[::-1], bool)
    if "A" in result.getbands():
        alpha = picture.getchannel("A").transpose(Image.Transpose.ROTATE_270)
        assert_enlarged(result, alpha)
        seen = twice(np.asarray(alpha) > 0)
    np.testing.assert_array_equal(np.asarray(found)[seen], twice(np.rot90(colours, -1))[seen])


@pytest.mark.parametrize("ending", [".avif", ".webp", ".tif", ".jp2", ".tga"])
def test_the_other_formats_of_pillow_are_written(tmp_path, ending):
    if Image.registered_extensions().get(ending) not in Image.SAVE:
        pytest.skip("this Pillow does not write it")
    images.write_picture(tmp_path / f"out{ending}", RGB)
    assert Image.open(tmp_path / f"out{ending}").size == RGB.size


@pytest.mark.parametrize("ending", [".gif", ".tga", ".sgi"])
def test_a_picture_too_large_for_its_format_is_said_in_one_line(tmp_path, ending):
    with pytest.raises(ValueError, match="cannot be written"):
        images.write_picture(tmp_path / f"out{ending}", Image.new("RGB", (70_000, 1)))


def test_an_sgi_of_16_bits_is_not_cut_to_8_in_silence(tmp_path):
    Image.fromarray(COLOURS[..., 0]).save(tmp_path / "in.sgi", bpc=2)
    assert any("8 of its 16 bits" in note for note in upscaling.read_photo(tmp_path / "in.sgi").notes)


@pytest.mark.parametrize("largest, refused", [(100, False), (255, False), (65535, True)])
@pytest.mark.parametrize("kind", [b"P3", b"P6"])
def test_a_ppm_of_more_than_8_bits_is_not_cut_to_8_in_silence(tmp_path, kind, largest, refused):
    levels = np.arange(12) * largest // 11
    body = b" ".join(b"%d" % level for level in levels) if kind == b"P3" else \
        levels.astype(">u2" if largest > 255 else ">u1").tobytes()
    (tmp_path / "in.ppm").write_bytes(kind + b"\n2 2\n%d\n" % largest + body)
    with contextlib.ExitStack() as stack:
        if refused:
            stack.enter_context(pytest.raises(OSError, match="more than 8 bits"))
        images.read_array(tmp_path / "in.ppm")
    assert any("8 of its 16 bits" in note for note in upscaling.read_photo(tmp_path / "in.ppm").notes) == refused


def test_a_bmp_of_16_bits_a_pixel_is_read(command):
    header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 14 + 40 + 12 + 8, 0, 0, 66, 40, 2, 2, 1, 16, 3, 8, 0, 0, 0, 0)
    red, white = 0b11111 << 11, 0xFFFF
    file = header + struct.pack("<III", 0b11111 << 11, 0b111111 << 5, 0b11111) + struct.pack("<4H", red, white, 0, red)
    result, said = command(file, name="in.bmp")
    assert "note" not in said
    np.testing.assert_array_equal(np.asarray(result), twice([[[0, 0, 0], [255, 0, 0]], [[255, 0, 0], [255] * 3]]))


@pytest.mark.parametrize("picture", [GREY, DEEP])
def test_white_may_be_zero(command, picture):
    levels, file = np.asarray(picture), io.BytesIO()
    tifffile.imwrite(file, levels ^ np.iinfo(levels.dtype).max, photometric="miniswhite")
    result, _ = command(file.getvalue(), name="in.tif")
    np.testing.assert_array_equal(np.asarray(result), twice(levels))


def test_transparency_that_goes_with_16_bits_is_not_kept_and_that_is_said(command):
    assert "note: its transparency is not kept" in command(DEEP, transparency=0)[1]


def test_a_colour_profile_is_kept(command):
    assert command(RGB, icc_profile=b"profile")[0].info["icc_profile"] == b"profile"


def test_a_profile_for_ink_is_dropped(command):
    assert "icc_profile" not in command(RGB.convert("CMYK"), name="in.tif", icc_profile=b"profile")[0].info


def test_of_an_animation_the_first_frame_is_taken_and_that_is_said(command):
    frames = [GREY.convert("P"), GREY.transpose(Image.Transpose.ROTATE_180).convert("P")]
    result, said = command(frames[0], name="in.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(np.asarray(result.convert("L")), twice(COLOURS[..., 0]))
    assert "note: only the first of 2 frames is taken" in said


def test_of_deep_colours_8_bits_are_used_and_that_is_said(command):
    rows = np.concatenate([np.zeros((9, 1), np.uint8), (COLOURS.astype(">u2") * 257).view(np.uint8).reshape(9, -1)], 1)
    header, body = struct.pack(">IIBBBBB", 12, 9, 16, 2, 0, 0, 0), zlib.compress(rows.tobytes())
    picture = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))
        for tag, data in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    )
    with pytest.raises(OSError, match="more than 8 bits"):         # what is measured or trained on must not lose any
        images.read(io.BytesIO(picture))
    result, said = command(picture)
    np.testing.assert_array_equal(np.asarray(result), twice(COLOURS))
    assert said.startswith("note: 8 of its 16 bits")


def test_the_result_may_replace_the_photograph(command):
    result, _ = command(RGB, out="in.png")
    assert result.size == (24, 18)


@pytest.mark.parametrize("name, options", [("in.jpg", {"quality": 85}), ("in.webp", {}),
                                           ("in.tif", {"compression": "jpeg"})])
def test_of_a_compressed_file_more_noise_is_taken_and_that_is_said(command, name, options):
    assert "noise: 5.0/255, the least that is taken of a compressed file" in command(GREY, name=name, **options)[1]


@pytest.mark.parametrize("quality", [75, 95])
def test_for_a_compressed_photograph_it_pays(tiny, tmp_path, quality):
    x, (k, _) = images.sample("coffee", 192, (60, 200)).float(), read_kernel("gaussian:1.8", 2)
    y = usrlib.degrade(x, k.float(), 2, 1 / 255, torch.Generator().manual_seed(0))
    Image.fromarray(images.to_array(y)).save(tmp_path / "y.jpg", quality=quality)
    photo = upscaling.read_photo(tmp_path / "y.jpg")
    least, more = (usrlib.psnr(upscale(tiny, photo.y, k.float(), 2, noise / 255), x, 8)
                   for noise in (upscaling.LEAST_NOISE, upscaling.COMPRESSED_NOISE))
    assert photo.compressed and more > max(least, usrlib.psnr(usrlib.bicubic_upsample(y, 2), x, 8)) + 1


def test_sigma_is_in_255ths_and_the_defaults_are_what_help_says(command, monkeypatch, capsys):
    seen = []

    def restore(y, k, scale, sigma):
        seen.append((k, scale, sigma))
        return nearest(y, k, scale, sigma)

    monkeypatch.setattr(upscaling, "network", lambda name: restore)
    assert "noise" not in command(RGB, "--sigma", "5.1", "--scale", "3")[1]
    width, centre = upscaling.WIDTHS[3], -1.0
    k, scale, sigma = seen[0]
    assert torch.equal(k, usrlib.gaussian_kernel(25, (width**2, width**2), shift=(centre, centre)))
    assert (scale, sigma) == (3, pytest.approx(0.02))
    command(RGB, "--sigma", "0", "--kernel", "bicubic")
    assert seen[1][1:] == (2, 0.0) and torch.equal(F.pad(seen[1][0], (8,) * 4), usrlib.bicubic_kernel(2))
    with pytest.raises(SystemExit, match="0"):
        upscaling.main(["--help"])
    words = " ".join(capsys.readouterr().out.split())
    for said in ("0.4 at x1, 0.7 at x2, 1.0 at x3, 1.4 at x4", "in 255ths", "(default: 2", "gaussian:WIDTH", "w // 2",
                 "default: tiny"):
        assert said in words


# --- Errors ------------------------------------------------------------------------------------------------------

def refusal(capsys, *options):
    """The one line that the command says of these options instead of working."""
    with pytest.raises(SystemExit) as stop:
        upscaling.main(list(map(str, options)))
    assert stop.value.code in (1, 2)
    lines = capsys.readouterr().err.strip().splitlines()
    if stop.value.code == 1:
        assert len(lines) == 1                                       # what argparse refuses comes after its usage
    assert lines[-1].startswith("python -m usrlib: error: ")
    return lines[-1]


@pytest.mark.parametrize("options, message", [
    (["--scale", "5"], "--scale"), (["--scale", "two"], "--scale"), (["--scale", "2.5"], "--scale"),
    (["--sigma", "much"], "--sigma"), (["--sigma", "-1"], "sigma"), (["--sigma", "nan"], "sigma"),
    (["--weights", "nobody"], "--weights must be one of"), (["--weights", "in.png"], "--weights"),
    *((["--kernel", f"gaussian:{width}"], f"--kernel gaussian:{width}: the width, and the width times the stretch")
      for width in ("", "a", "0", "-1", "nan", "inf", "1e9", "1e-200", "1,0", "1,1e-9", "5,5",
                    "1,1,nan", "1,2,x", "1,2,3,4")),
    *((["--kernel", text], "--kernel must be gaussian:WIDTH or") for text in ("box", "k.mat", "")),
    (["--kernel", "nowhere.npy"], "--kernel: nowhere.npy cannot be read: No such file"),
    (["--kernel", "nowhere.png"], "--kernel: nowhere.png cannot be read: No such file"),
    (["--kernel", "complex.npy"], "--kernel: complex.npy cannot be read: Cannot cast array"),
    (["--kernel", "black.png"], "black.png must hold a matrix of finite numbers whose sum is above 0"),
])
def test_bad_options_are_refused(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    RGB.save("in.png")
    Image.new("L", (3, 3)).save("black.png")
    np.save("complex.npy", np.ones((3, 3), complex))
    assert message in refusal(capsys, "in.png", "out.png", *options)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("out, picture, message", [
    ("out", RGB, "its ending must be"), ("out.xyz", RGB, "its ending must be"),
    ("out.ico", RGB, "its ending must be"), ("out.npy", RGB, "its ending must be"),
    ("nowhere/out.png", RGB, "there is no folder nowhere"), ("folder.png", RGB, "it is a folder"),
    ("in.png/out.png", RGB, "there is no folder in.png"), ("", RGB, "it is a folder"),
    ("out.jpg", with_alpha(RGB), ".jpg does not hold a picture of mode RGBA"),
    ("out.gif", with_alpha(RGB), ".gif does not hold a picture of mode RGBA"),
    ("out.bmp", with_alpha(GREY), ".bmp does not hold a picture of mode LA"),
    ("out.webp", DEEP, ".webp does not hold a picture of mode I;16"),
])
def test_what_cannot_be_written_is_known_before_the_work(tmp_path, monkeypatch, capsys, out, picture, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(upscaling, "upscale", None)
    (tmp_path / "folder.png").mkdir()
    picture.save("in.png")
    assert f"{out} cannot be written: " in (said := refusal(capsys, "in.png", out)) and message in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "in.png"]


def test_damaged_missing_huge_and_foreign_files_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save("whole.png")
    Image.new("F", (3, 3)).save("floats.tif")
    Image.fromarray(np.full((2, 2), 70000, np.int32)).save("deep.tif")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "huge.ppm").write_bytes(b"P6\n100000 100000\n255\n")
    for name, message in (("half.png", ""), ("text.png", "cannot identify"), ("empty.png", "cannot identify"),
                          ("nowhere.png", "No such file or directory"), (".", ""), ("huge.ppm", "exceeds limit"),
                          ("floats.tif", "floats"), ("deep.tif", "more than 16 bits")):
        assert f"{name} cannot be read: " in (said := refusal(capsys, name, "out.png")) and message in said
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("error, message", [(MemoryError("no memory"), "error: no memory"),
                                            (RuntimeError("can't allocate memory"), "error: can't allocate memory"),
                                            (KeyboardInterrupt(), "interrupted; nothing was written")])
def test_whatever_stops_the_work_leaves_no_file(tmp_path, monkeypatch, capsys, error, message):
    def restore(*arguments):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(upscaling, "network", lambda name: restore)
    RGB.save("in.png")
    with pytest.raises(SystemExit, match="1"):
        upscaling.main(["in.png", "out.png"])
    said = capsys.readouterr().err
    assert message in said and "\n" not in said.strip() and [path.name for path in tmp_path.iterdir()] == ["in.png"]


# --- The whole ---------------------------------------------------------------------------------------------------

def test_a_kernel_larger_than_the_picture_is_no_obstacle(tiny):
    x = upscale(tiny, torch.full((1, 3, 2, 3), 0.4), torch.ones(1, 1, 41, 41) / 41**2, 2, 0.01)
    assert x.shape == (1, 3, 4, 6) and (x - 0.4).abs().max() < 0.02


def test_the_command_enlarges_a_photograph_better_than_bicubic(tmp_path):
    x = photograph(192, 192, "astronaut", (20, 150))
    small = Image.fromarray(images.to_array(usrlib.bicubic_downsample(x, 2)))
    small.save(tmp_path / "in.png")
    command = [sys.executable, "-m", "usrlib", "in.png", "out.png", "--scale", "2"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "noise: " in run.stdout and run.stdout.endswith("out.png: 192 x 192 pixels\n") and not run.stderr
    ordinary = images.to_tensor(np.asarray(small.resize((192, 192), Image.Resampling.BICUBIC)))
    assert usrlib.psnr(images.read(tmp_path / "out.png"), x) > usrlib.psnr(ordinary, x) + 0.5
