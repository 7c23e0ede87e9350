"""Photographs in and out: the course's sample pictures, files, and the way between 8-bit arrays and tensors."""

import re
from os import PathLike
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from PIL import Image, ImageOps
from skimage import data

from .validation import check_choice, check_count, check_grey_levels, check_image, check_shape, refusing

SAMPLES = ("astronaut", "chelsea", "coffee", "rocket")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")      # endings of files that are taken for one
LEAST_LOSS = {"quality": 95, "subsampling": "4:4:4"}    # of JPEG: a restored picture keeps its edges and their colours
# Endings that keep what is special: under some others Pillow drops it without a word.
HOLDS = {"I;16": (".png", ".tif", ".tiff")} | dict.fromkeys(("LA", "RGBA"), (".png", ".tif", ".tiff", ".webp"))
STRIP = 256                                             # rows that are rounded at once, for the memory


def sample(name, size=None, corner=(0, 0)):
    """One of the photographs that come with scikit-image, as (1, 3, H, W) in [0, 1], float64.

    name: one of SAMPLES. size: side of a square crop in pixels, or None for the whole picture.
    corner: (row, column) of the crop's upper-left pixel.
    """
    check_choice("name", name, SAMPLES)
    x = to_tensor(getattr(data, name)())
    if size is None:
        return x
    check_count("size", size)
    check_shape("corner", corner, (0, 0))
    top, left = corner
    crop = x[..., top : top + size, left : left + size]
    if crop.shape[-2:] != (size, size):
        raise ValueError(f"corner {corner!r} and size {size} must lie inside {name}, {x.shape[-2]}x{x.shape[-1]}")
    return crop.contiguous()


def read(path):
    """A picture file as (1, 3, H, W) in [0, 1], float64; the rest as for `read_array`."""
    return to_tensor(read_array(path))


def read_array(path):
    """A picture file as uint8 (H, W, 3): 8 bits a channel, without transparency, upright as its EXIF tag says.

    path: a path or a binary file. OSError where it has more than 8 bits, which Pillow would clip or cut off (of grey
    `upscaling.read_photo` takes 16); where it cannot be read, what Pillow raises: mostly OSError, and
    DecompressionBombError above 179 million pixels.
    """
    if not isinstance(path, (str, PathLike)) and not hasattr(path, "read"):
        raise TypeError(f"path must be a path or a binary file; got {type(path).__name__}")
    with Image.open(path) as file:
        if file.mode.startswith(("I", "F")) or stores_16_bits(file):
            named = "" if hasattr(path, "read") else f"{path}: "
            raise OSError(f"{named}it has more than 8 bits a channel, mode {file.mode}")
        return np.array(upright(file).convert("RGB"))


def decode(name, file):
    """`read_array` of one picture of many: ValueError, with its name, where it cannot be read."""
    with refusing(f"images: {name} cannot be read"):
        return read_array(file)


def upright(file):
    """An opened Pillow image, turned as its EXIF tag says, where that can be read."""
    file.load()                                         # a TIFF turns itself
    try:
        ImageOps.exif_transpose(file, in_place=True)
    except MemoryError:
        raise
    except Exception:                                   # damaged tags; odd ones stop it after the turn, in writing them
        pass
    return file


def stores_16_bits(file):
    """Whether an opened Pillow image holds more than 8 bits a channel in its file, whatever its mode says."""
    # BGR;16 has 16 bits a pixel, not a channel; of PPM and PGM the last argument is the largest level.
    return any(re.search("(?<!BGR);16|SGI16", f"{codec} {args}") or (codec.startswith("ppm") and args[-1] > 255)
               for codec, _, _, args in getattr(file, "tile", ()))


def write(path, x):
    """Write one image (1, 1 or 3, H, W) in [0, 1] to a file, as `write_picture` does."""
    picture = Image.fromarray(to_array(x))
    check_grey_levels("x", x)
    write_picture(path, picture)


def write_picture(path, picture, profile=None, *, rehearse=False):
    """Write a Pillow image in one move: a file of that name is whole, whatever happens. ValueError where it fails.

    path: its ending, one of Pillow's, says which format. profile: ICC, or None. rehearse: all but that move, so that
    what will fail fails before the work and not after it.
    """
    if not isinstance(path, (str, PathLike)):
        raise TypeError(f"path must be a path; got {type(path).__name__}")
    path = Path(path)
    ending = path.suffix.lower()
    with refusing(f"path: {path} cannot be written", MemoryError):
        if path.is_dir():
            raise ValueError("it is a folder")
        if not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent}")
        if Image.registered_extensions().get(ending) not in Image.SAVE or ending in (".ico", ".icns"):     # other sizes
            raise ValueError("its ending must be that of a format of pictures, such as .png")
        if ending not in HOLDS.get(picture.mode, (ending,)):
            raise ValueError(f"{ending} does not hold a picture of mode {picture.mode}; .png does")
        whole = path.resolve()                                             # a link goes on pointing to the file
        part = whole.with_name(f".{uuid4().hex}.part")
        try:
            picture.save(part, format=Image.registered_extensions()[ending], icc_profile=profile, **LEAST_LOSS)
            if not rehearse:
                part.replace(whole)
        finally:
            part.unlink(missing_ok=True)


def to_tensor(array):
    """uint8 (H, W) or (H, W, C), 0 to 255 -> float64 (1, C, H, W), 0 to 1."""
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise TypeError("array must be a uint8 array (H, W) or (H, W, C)")
    planes = np.atleast_3d(array).transpose(2, 0, 1)
    return torch.from_numpy(planes.astype(np.float64) / 255)[None]


def to_array(x):
    """Float (1, 1 or 3, H, W), clipped to [0, 1] -> uint8 (H, W) or (H, W, 3), rounded."""
    check_image("x", x)
    if x.shape[0] != 1 or x.shape[1] not in (1, 3):
        raise ValueError(f"x must be one image (1, 1 or 3, H, W); got {tuple(x.shape)}")
    rows = [(strip.clamp(0, 1) * 255).round().to(torch.uint8) for strip in x[0].split(STRIP, dim=1)]
    return torch.cat(rows, dim=1).permute(1, 2, 0).squeeze(-1).numpy(force=True)
