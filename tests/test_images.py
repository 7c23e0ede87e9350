"""Photographs in and out."""

import io
import struct

import numpy as np
import pytest
import torch
from dense import uniform
from PIL import Image

from usrlib import images


@pytest.fixture
def colours():
    return np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3)])
def test_arrays_survive_the_way_to_tensors_and_back(shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    x = images.to_tensor(array)
    assert x.shape == (1, 3 if len(shape) == 3 else 1, 7, 5) and x.dtype == torch.float64
    assert x[0, 0, 2, 3].item() == array[2, 3].flat[0] / 255
    np.testing.assert_array_equal(images.to_array(x), array)
    np.testing.assert_array_equal(images.to_array(x.float()), array)


def test_every_grey_level_survives():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(images.to_array(images.to_tensor(levels).float()), levels)


def test_to_array_rounds_and_clips():
    x = torch.tensor([-0.5, 0.4 / 255, 0.6 / 255, 1.0, 7.0]).view(1, 1, 1, 5)
    assert images.to_array(x).tolist() == [[0, 0, 1, 255, 255]]


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_files_survive_writing_and_reading(tmp_path, colours, name):
    images.write(tmp_path / name, images.to_tensor(colours))
    np.testing.assert_array_equal(images.to_array(images.read(tmp_path / name)), colours)


def test_a_path_may_be_a_string(tmp_path, colours):
    images.write(str(tmp_path / "a.png"), images.to_tensor(colours))
    assert images.read(str(tmp_path / "a.png")).shape == (1, 3, 7, 5)


def test_greyscale_files_are_read_in_three_equal_channels(tmp_path, colours):
    images.write(tmp_path / "grey.png", images.to_tensor(colours[:, :, 0]))
    assert Image.open(tmp_path / "grey.png").mode == "L"
    np.testing.assert_array_equal(images.to_array(images.read(tmp_path / "grey.png")), colours[:, :, [0, 0, 0]])


def test_palette_files_are_read_in_their_colours(tmp_path):
    picture = Image.new("RGB", (4, 3), (200, 30, 60))
    picture.putpixel((1, 2), (10, 250, 90))
    picture.quantize(2).save(tmp_path / "palette.png")
    assert Image.open(tmp_path / "palette.png").mode == "P"
    np.testing.assert_array_equal(images.to_array(images.read(tmp_path / "palette.png")), np.asarray(picture))


def test_transparency_is_dropped(tmp_path, colours):
    alpha = np.arange(35, dtype=np.uint8).reshape(7, 5)
    Image.fromarray(np.dstack([colours, alpha])).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(images.to_array(images.read(tmp_path / "rgba.png")), colours)


@pytest.mark.parametrize("tag, turned", [(3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)),
                                         (8, lambda a: np.rot90(a))])
def test_a_photograph_is_read_upright_as_its_exif_tag_says(tmp_path, colours, tag, turned):
    exif = Image.Exif()
    exif[274] = tag
    Image.fromarray(colours).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(images.to_array(images.read(tmp_path / "turned.png")), turned(colours))


def test_an_odd_tag_of_exif_does_not_keep_a_photograph_from_being_read(tmp_path, colours):
    Image.fromarray(colours).save(tmp_path / "in.jpg", quality=100, subsampling="4:4:4")
    upright = images.read_array(tmp_path / "in.jpg")
    # Orientation 6, and a resolution that is text.
    tags = struct.pack("<HHHIIHHI4sI", 2, 0x112, 3, 1, 6, 0x11A, 2, 1, b"72", 0) + b"\0" * 64
    block = b"Exif\0\0II*\0\x08\0\0\0" + tags
    data = (tmp_path / "in.jpg").read_bytes()
    (tmp_path / "in.jpg").write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:])
    np.testing.assert_array_equal(images.read_array(tmp_path / "in.jpg"), np.rot90(upright, -1))


def test_a_photograph_with_damaged_exif_is_read_as_it_lies(tmp_path, colours):
    Image.fromarray(colours).save(tmp_path / "in.png", exif=b"Exif\0\0garbagegarbage")
    np.testing.assert_array_equal(images.read_array(tmp_path / "in.png"), colours)


@pytest.mark.parametrize("x", [None, np.zeros((3, 4, 4)), torch.zeros(1, 3, 0, 4)])
def test_what_is_no_picture_is_not_written(tmp_path, x):
    with pytest.raises((TypeError, ValueError), match="x must"):
        images.write(tmp_path / "a.png", x)


@pytest.mark.parametrize("name", images.SAMPLES)
def test_samples_are_colour_photographs(name):
    x = images.sample(name)
    assert x.shape[:2] == (1, 3) and min(x.shape[-2:]) >= 300 and x.dtype == torch.float64
    assert x.min() >= 0 and x.max() <= 1 and x.std() > 0.1


def test_a_crop_is_that_part_of_the_picture():
    crop = images.sample("chelsea", 40, (20, 30))
    assert torch.equal(crop, images.sample("chelsea")[..., 20:60, 30:70])
    assert torch.equal(images.sample("chelsea", 40), images.sample("chelsea")[..., :40, :40])
    assert crop.is_contiguous()


@pytest.mark.parametrize(
    "arguments, named",
    [(("nobody",), "name"), (("chelsea", 0), "size"), (("chelsea", 2.5), "size"), (("chelsea", 9999), "size"),
     (("chelsea", 10, (-1, 0)), "corner"), (("chelsea", 10, (0, 450)), "corner"), (("chelsea", 10, 5), "corner"),
     (("chelsea", 10, (0.5, 0)), "corner")],
)
def test_samples_refuse_and_name_bad_arguments(arguments, named):
    with pytest.raises((ValueError, TypeError), match=rf"\b{named}\b"):
        images.sample(*arguments)


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros(4, np.uint8), torch.zeros(4, 4), [[1, 2]]])
def test_to_tensor_refuses_what_is_not_an_8_bit_picture(array):
    with pytest.raises(TypeError, match="array must be"):
        images.to_tensor(array)


@pytest.mark.parametrize("x", [uniform(2, 3, 4, 4), uniform(1, 2, 4, 4), uniform(3, 4, 4), np.zeros((1, 3, 4, 4)),
                               torch.full((1, 1, 2, 2), float("nan"))])
def test_to_array_refuses_what_is_not_one_picture(x):
    with pytest.raises((ValueError, TypeError), match=r"\bx\b"):
        images.to_array(x)


def test_sixteen_bits_are_refused_rather_than_clipped(tmp_path):
    Image.fromarray(np.array([[0, 256, 65535]], np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(OSError, match=r"deep\.png: it has more than 8 bits"):
        images.read(tmp_path / "deep.png")


@pytest.mark.parametrize("path", [None, 3, ["a.png"]])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(TypeError, match="path must be"):
        images.read(path)


@pytest.mark.parametrize("path", [None, 3, io.BytesIO()])
def test_to_what_is_no_path_nothing_is_written(path):
    with pytest.raises(TypeError, match="path must be"):
        images.write(path, uniform(1, 3, 4, 4))


@pytest.mark.parametrize("name", ["picture", "picture.xyz", ".png", "a.psd"])
def test_a_file_without_the_ending_of_a_format_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"path: .* cannot be written: its ending"):
        images.write(tmp_path / name, uniform(1, 3, 4, 4))


def test_what_cannot_be_written_leaves_the_old_file_as_it_was(tmp_path):
    images.write(tmp_path / "kept.webp", uniform(1, 3, 4, 4))
    before = (tmp_path / "kept.webp").read_bytes()
    with pytest.raises(ValueError, match=r"path: .* cannot be written"):
        images.write(tmp_path / "kept.webp", uniform(1, 3, 2, 17_000))
    assert (tmp_path / "kept.webp").read_bytes() == before and len([*tmp_path.iterdir()]) == 1


def test_grey_levels_from_0_to_255_are_warned_of(tmp_path):
    with pytest.warns(UserWarning, match=r"x is expected in \[0, 1\]"):
        images.write(tmp_path / "white.png", 255 * uniform(1, 3, 4, 4))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        images.read(tmp_path / "nowhere.png")
