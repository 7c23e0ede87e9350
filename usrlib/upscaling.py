"""A real photograph: its borders do not wrap around, it may be large, and nobody knows its kernel and its noise.

    python -m usrlib photo.jpg out.png --scale 2

The model blurs in a circle; a camera does not. `upscale` gives the picture a margin that leads smoothly from each
border to the opposite one (after Liu and Jia, ICIP 2008), restores it, in overlapping tiles where it is large, and
cuts the margin off.
"""

import argparse
import math
import warnings
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION
from scipy.ndimage import distance_transform_edt
from tqdm import tqdm

from . import images
from .evaluation import bicubic, network
from .kernels import bicubic_kernel, gaussian_kernel
from .validation import check_count, check_image, check_kernel, check_level, check_noise, refusing

# The prior follows a shift of its input only by multiples of 8 pixels; in pixels of y, to hold at any scale.
GRID = 8
# Default widths, about 0.35 scale: within 0.4 dB of the best for pictures reduced sharply (bicubic, or mean of blocks).
# On these the authors' 1.5 and 2.0 for x3 and x4 ring.
WIDTHS = {1: 0.4, 2: 0.7, 3: 1.0, 4: 1.4}
# In 255ths, of an estimate: the kernel is never known exactly, and too small a sigma brings artefacts.
LEAST_NOISE = 1.0
# The same for files of these formats, whose compression hides noise from an estimate and adds errors of its own: for
# JPEG of quality 75 to 98 it is 0.2 dB below the best sigma in the mean, and 0.8 at most.
COMPRESSED, COMPRESSED_NOISE = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF"), 5.0


# --- Borders and tiles -------------------------------------------------------------------------------------------

@torch.no_grad()            # or the graph of every tile would be kept
def upscale(restore, y, k, scale, sigma, tile=1024):
    """Restore photographs whose borders do not wrap around, of any size: (N, C, h, w) -> (N, C, scale h, scale w).

    restore: a method, (y, k, scale, sigma) -> x, such as a USRNet. y: in [0, 1], 3 channels for a USRNet. k: (1 or N,
    1, kh, kw), sum 1, of any size. sigma: noise, on the scale of y, as the method takes it. tile: about the side of
    what is restored at once, in pixels of the result, which bounds the memory beside y and x; None: everything. Tiles
    overlap by what the kernel's inversion reaches, so small ones take longer in all; below 270 to 550, by kernel and
    scale, a smaller one makes no difference. No gradient goes through.
    With `bicubic_kernel(scale)`, or a Gaussian whose shift is -(scale - 1) / 2 both ways, x lies over y as an ordinary
    enlargement does; with a centred kernel it lies (scale - 1) / 2 pixels up and left of it.
    """
    if not callable(restore):
        raise TypeError(f"restore must be callable, restore(y, k, scale, sigma) -> x; got {type(restore).__name__}")
    check_image("y", y)
    check_kernel(k)
    check_count("scale", scale)
    check_noise("sigma", sigma, batch=y.shape[0])
    if tile is not None:
        check_count("tile", tile)
    k = _trimmed(k)
    reach = max(_reach(one, scale) for one in k[:, 0]) / scale
    margin, context = _on_grid(reach), _on_grid(2 * reach)
    whole = wrap(y, [_on_grid(side + 2 * margin) for side in y.shape[-2:]], (margin, margin))
    room = math.inf if tile is None else tile / scale
    axes = [_windows(*sides, margin, context, room, scale)
            for sides in zip(y.shape[-2:], whole.shape[-2:], strict=True)]
    x = y.new_empty(*y.shape[:2], scale * y.shape[2], scale * y.shape[3])
    for down, across in tqdm(list(product(*axes)), unit="tile", disable=None):
        part = whole[..., down.taken, across.taken]
        shape = part.shape[-2] + down.spare, part.shape[-1] + across.spare
        part = restore(wrap(part, shape, (down.corner, across.corner)), k, scale, sigma)
        x[..., down.kept, across.kept] = part[..., down.inner, across.inner]
    return x


def wrap(y, shape, corner):
    """y with its upper left at `corner` of a picture of `shape` (H, W) that wraps around smoothly: (N, C, H, W).

    What is added is biharmonic, Δ²u = 0: it goes on with the values and the slopes of the border. (With the values
    alone, Δu = 0, the restored border is no better than after replication.)
    """
    for axis, other in ((-1, -2), (-2, -1)):
        spare = shape[axis] - y.shape[axis]
        if spare:
            rows = y.transpose(axis, -2)
            rows = torch.cat([rows, _bridge(rows, spare, wraps=y.shape[other] == shape[other])], dim=-2)
            y = rows.roll(corner[axis], dims=-2).transpose(axis, -2)
    return y


def _bridge(y, count, wraps):
    """`count` biharmonic rows from the last row of y to its first; the ends of a row are joined or, if not, mirrored.

    A Fourier transform along the rows leaves a small banded system across them for each frequency.
    """
    width = y.shape[-1]
    ends = y[..., torch.arange(-2, 2) % y.shape[-2], :].double()          # the last two rows, the first two
    ends = torch.fft.rfft(ends if wraps else torch.cat([ends, ends.flip(-1)], dim=-1))
    period = width if wraps else 2 * width
    angle = 2 * math.pi * torch.arange(ends.shape[-1], dtype=torch.float64, device=y.device) / period
    same, beside = (torch.ones(count + 4 - n, dtype=torch.float64, device=y.device).diag(n) for n in (0, 1))
    weights = []
    for some in angle.split(256):                                          # so many at a time, for the memory
        laplacian = (4 - 2 * some.cos())[:, None, None] * same - beside - beside.T
        biharmonic = (laplacian @ laplacian)[:, 2:-2]
        weights.append(torch.linalg.solve(biharmonic[..., 2:-2], -biharmonic[..., [0, 1, -2, -1]]))
    rows = torch.einsum("fre,...ef->...rf", torch.cat(weights).to(ends), ends)
    return torch.fft.irfft(rows, n=period)[..., :width].to(y)


class _Window(NamedTuple):
    """One axis of a tile, in pixels of y; the last two in those of the result."""

    taken: slice    # of the wrapped picture
    spare: int      # pixels to add, so that the window wraps around by itself,
    corner: int     # and how many of them before it
    inner: slice    # what to keep of the window restored
    kept: slice     # the same pixels in x


def _windows(side, whole, margin, context, room, scale):
    """The windows that cover an axis of `side` pixels, `whole` with its margins; all begin on the grid."""
    step = whole if whole <= room else _on_grid(side / math.ceil(side / max(room - 2 * context - margin, 4 * GRID)))
    windows = []
    for start in range(0, side, step):
        stop = min(start + step, side)
        low, high = max(0, margin + start - context), min(whole, margin + start + step + context)
        spare = margin if high - low < whole else 0             # the whole wraps around by itself already
        # Nothing is put before the first pixel of the wrapped picture, nor after its last: the prior is to see there
        # what it sees when nothing is cut, the border of the array.
        corner = 0 if low == 0 else margin if high == whole else _on_grid(margin / 2)
        offset = corner + margin - low
        inner, kept = (slice(scale * (start + n), scale * (stop + n)) for n in (offset, 0))
        windows.append(_Window(slice(low, high), spare, corner, inner, kept))
    return windows


def _reach(k, scale):
    """The width of the margin, and half as far as what lies outside a tile still tells, in pixels of the result.

    For the tiny network and 25x25 kernels: pictures in tiles and in one differ by 0.5 grey levels at most. Only wide
    kernels at x1 with little noise are not met, whose inversion reaches without end.
    """
    wide = max(_moments(k)[1]) > 2
    return max((96 if wide else 48) if scale <= 2 else 48 if wide else 32, *(side / 2 for side in k.shape))


def _trimmed(k):
    """Kernels (N, 1, h, w) without the zeros around them that can go and leave the centre where it is."""
    for axis in (-2, -1):
        middle = k.shape[axis] // 2
        used = k.movedim(axis, 0).flatten(1).any(dim=1).nonzero()
        reach = int((used - middle).abs().max()) if len(used) else 0
        k = k.narrow(axis, middle - reach, min(2 * reach + 1, k.shape[axis] - middle + reach))
    return k


def _on_grid(length):
    return math.ceil(length / GRID) * GRID


def _moments(k):
    """Where the middle of a kernel (h, w) lies from (h // 2, w // 2), and its standard deviation, (down, right)."""
    k = k.clamp(min=0).double().cpu()       # without negative lobes: with them a variance could be negative
    middles, spreads = [], []
    for axis, side in enumerate(k.shape):
        share, place = k.sum(1 - axis) / k.sum(), torch.arange(side) - side // 2
        middles.append((share * place).sum().item())
        spreads.append((share * (place - middles[-1]) ** 2).sum().sqrt().item())
    return middles, spreads


# --- Noise -------------------------------------------------------------------------------------------------------

def estimate_noise(y):
    """A rough guess at the standard deviation of white noise in a photograph (1, C, h, w), on its scale: a float.

    From the blocks of 8x8 pixels that are flattest under second differences both ways, none with black or white in it.
    Texture adds to it: on sharp photographs it says, in the median, 0.8, 3.0, 5.6 and 20.3 for noise of 0, 2.55, 5 and
    20, in 255ths, and 7 for one that is texture everywhere. Noise that was smoothed later, by compression, a denoiser
    or resizing, is not seen. Below 10 pixels a side, and where all is black or white: 0.
    """
    check_image("y", y)
    if min(y.shape[-2:]) < 10:
        return 0.0
    planes = y.transpose(0, 1)
    variance = F.avg_pool2d((planes.diff(n=2, dim=-1).diff(n=2, dim=-2) / 6).square(), 8)       # 6 keeps that of noise
    clipped = F.max_pool2d((planes - 0.5).abs()[..., 1:-1, 1:-1], 8) > 0.48
    flattest = variance.masked_fill(clipped, math.nan).flatten(1).nanquantile(0.05, dim=1).nan_to_num(0.0)
    return flattest.sqrt().mean().item() / 0.747            # where that quantile lies for noise of deviation 1


# --- Files -------------------------------------------------------------------------------------------------------

class Photo(NamedTuple):
    """A picture file: y (1, 1 or 3, h, w), float32 in [0, 1], and what its enlargement should share with it."""

    y: torch.Tensor
    alpha: torch.Tensor | None    # (1, 1, h, w), float32 in [0, 1]: 0 is transparent
    bits: int                     # 8, or 16 for grey
    profile: bytes | None         # ICC
    compressed: bool              # with losses, as JPEG is; what may be so counts as so
    notes: list                   # what the user should be told


def read_photo(path):
    """A picture file of any kind that Pillow reads, upright. ValueError where there is none, or a damaged one."""
    with refusing(f"{path} cannot be read"), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)           # at twice its size comes an error
        with Image.open(path) as file:
            return _as_photo(file)


def _as_photo(file):
    notes, alpha = [], None
    compressed = file.format in COMPRESSED or file.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")
    deep, grey = file.mode.startswith("I"), file.mode in ("1", "L", "LA", "La")
    if getattr(file, "n_frames", 1) > 1:
        notes.append(f"only the first of {file.n_frames} frames is taken")
    if images.stores_16_bits(file) and not deep:
        notes.append("8 of its 16 bits a channel are used: Pillow reads 16 only of grey pictures without transparency")
    profile = None if file.mode in ("CMYK", "LAB") else file.info.get("icc_profile")
    picture = images.upright(file)
    if deep:
        levels = np.asarray(picture).astype(np.float32) / 65535
        if levels.min() < 0 or levels.max() > 1:
            raise ValueError("it has more than 16 bits")
        if picture.has_transparency_data:
            notes.append("its transparency is not kept: with 16 bits Pillow does not apply it")
        if getattr(file, "tag_v2", {}).get(PHOTOMETRIC_INTERPRETATION) == 0:      # white is zero; Pillow turns 8 bits
            levels = 1 - levels
        return Photo(torch.from_numpy(levels)[None, None], None, 16, profile, compressed, notes)
    if file.mode == "F":
        raise ValueError("its values are floats; 8 or 16 bits are expected")
    if picture.has_transparency_data:
        picture = picture.convert("LA" if grey else "RGBA")
        alpha = images.to_tensor(np.asarray(picture.getchannel("A"))).float()
    array = np.asarray(picture.convert("L" if grey else "RGB"))
    if alpha is not None and alpha.any():       # what is behind full transparency must not bleed into what is seen
        array = array[tuple(distance_transform_edt(alpha[0, 0] == 0, return_distances=False, return_indices=True))]
    return Photo(images.to_tensor(array).float(), alpha, 8, profile, compressed, notes)


def to_picture(x, alpha, bits):
    """A result (1, 1 or 3, H, W) as a Pillow image of so many bits. alpha: its transparency (1, 1, H, W), or None."""
    if bits == 16:
        return Image.fromarray(np.concatenate([(rows.clamp(0, 1) * 65535).round().cpu().numpy().astype(np.uint16)
                                               for rows in x[0, 0].split(images.STRIP)]))
    picture = Image.fromarray(images.to_array(x))
    if alpha is not None:
        picture.putalpha(Image.fromarray(images.to_array(alpha)))
    return picture


def read_kernel(text, scale):
    """A kernel (1, 1, h, w) of sum 1 and notes for the user. text: as for --kernel, or None (WIDTHS)."""
    centre = -(scale - 1) / 2         # decimation keeps the first pixel of a block; a camera's lies in its middle
    text = f"gaussian:{WIDTHS[scale]}" if text is None else text
    if text == "bicubic":
        return bicubic_kernel(scale), []
    if text.startswith("gaussian:"):
        try:
            given = [float(word) for word in text.removeprefix("gaussian:").split(",")]
            width, stretch, angle = (*given, *(1.0, 0.0)[len(given) - 1 :])
        except ValueError:
            width = stretch = angle = math.nan
        if not (0.01 <= width <= 20 and 0.01 <= stretch * width <= 20 and math.isfinite(angle)):
            raise ValueError(f"--kernel {text}: the width, and the width times the stretch, must lie between 0.01 and "
                             "20 and the angle be a number, as in gaussian:1.2 or gaussian:1.2,1.5,30")
        size = max(25, 2 * math.ceil(4 * width * max(stretch, 1) - centre) + 1)
        variances = (stretch * width) ** 2, width**2
        return gaussian_kernel(size, variances, math.radians(angle), (centre, centre)), []
    if not text.lower().endswith((".png", ".npy")):
        raise ValueError("--kernel must be gaussian:WIDTH or gaussian:WIDTH,STRETCH,ANGLE, bicubic, or a file .png or "
                         f".npy; got {text!r}")
    with refusing("--kernel"):
        if text.lower().endswith(".npy"):
            with refusing(f"{text} cannot be read"):
                k = torch.from_numpy(np.load(text, allow_pickle=False).astype(np.float64, casting="same_kind"))
        else:
            drawn = read_photo(text)                    # what is transparent is black
            k = (drawn.y * (1 if drawn.alpha is None else drawn.alpha)).double().mean((0, 1))
    k = k[0, 0] if k.ndim == 4 and k.shape[:2] == (1, 1) else k        # as this library has them
    total = k.sum().item()
    if k.ndim != 2 or not k.isfinite().all() or not 0 < total < math.inf:
        raise ValueError(f"--kernel: {text} must hold a matrix of finite numbers whose sum is above 0, and finite")
    k, notes = k / total, []
    if abs(total - 1) > 1e-3 and text.lower().endswith(".npy"):
        notes.append(f"the kernel sums to {total:.4g}; it is divided by that")
    if min(k.shape) >= 9 and k[1:-1, 1:-1].mean() < (1 - 1e-9) * k.mean():     # a box is level, up to rounding
        notes.append("its frame is brighter than what it frames: is the kernel black on white?")
    moved = [centre - middle for middle in _moments(k)[0]]
    if max(map(abs, moved)) > 0.1:
        down, right = moved
        notes.append("against an ordinary enlargement this kernel moves the picture "
                     f"{abs(down):.1f} pixels {'up' if down < 0 else 'down'} and "
                     f"{abs(right):.1f} to the {'left' if right < 0 else 'right'}")
    return k[None, None], notes


# --- The command -------------------------------------------------------------------------------------------------

def main(arguments=None):
    """The command line: `python -m usrlib --help`."""
    parser = _parser()
    options = parser.parse_args(arguments)
    scale = options.scale
    try:
        photo = read_photo(options.photo)
        k, notes = read_kernel(options.kernel, scale)
        restore = network(options.weights)
        size = scale * photo.y.shape[3], scale * photo.y.shape[2]
        mode = to_picture(photo.y, photo.alpha, photo.bits).mode
        images.write_picture(options.out, Image.new(mode, size), photo.profile, rehearse=True)
        for note in photo.notes + notes:
            print(f"note: {note}")
        noise = options.sigma
        if noise is None:
            found, least = 255 * estimate_noise(photo.y), COMPRESSED_NOISE if photo.compressed else LEAST_NOISE
            noise = max(found, least)
            how = "the least that is taken, where less is found or nothing to find it in"
            if found > least:
                how = "a rough estimate from the flattest parts; texture everywhere makes it too high"
            elif photo.compressed:
                how = "the least that is taken of a compressed file, which hides its noise and adds errors of its own"
            print(f"noise: {noise:.1f}/255, {how}; --sigma sets it")
        check_level("--sigma", noise)
        if noise > 255:
            raise ValueError(f"--sigma is in 255ths, at most 255; got {noise:g}")
        if 0 < noise < LEAST_NOISE / 4:
            print(f"note: --sigma is in 255ths, of which {noise:g} is next to nothing")
        if noise > 25:
            print("note: the weights of the library were trained for noise of up to 25/255")
        x = upscale(restore, photo.y.expand(1, 3, -1, -1), k, scale, noise / 255)
        x = x if photo.y.shape[1] == 3 else x.mean(1, keepdim=True)
        alpha = None if photo.alpha is None else upscale(bicubic, photo.alpha, k, scale, 0.0)      # to lie over x
        images.write_picture(options.out, to_picture(x, alpha, photo.bits), photo.profile)
    except KeyboardInterrupt:
        parser.exit(1, "interrupted; nothing was written\n")
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        line = (str(error).splitlines() or ["out of memory"])[0]
        line = line.removeprefix("path: ").replace("name_or_path", "--weights")
        parser.exit(1, f"{parser.prog}: error: {line}\n")
    print(f"{options.out}: {size[0]} x {size[1]} pixels")


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m usrlib",
        description="Enlarge and sharpen one photograph with a trained USRNet. Grey stays grey, transparency, colour "
                    "profile and 16 bits (of grey pictures) are kept, other metadata not, and the result is upright.",
        epilog="Too wide a kernel or too small a sigma brings ringing and artefacts; too narrow, too large, a soft "
               "picture. A kernel from a file has the pixels of the result and is convolved with it (turn one made for "
               "correlation by 180 degrees); it is divided by its sum, and its centre is at pixel (h // 2, w // 2).",
    )
    add = parser.add_argument
    add("photo", help="a picture file")
    add("out", help="the result; its ending decides the format. A file of that name is replaced, the photograph too")
    add("--scale", type=int, choices=tuple(WIDTHS), default=2, help="times larger (default: 2; 1 only deblurs)")
    widths = ", ".join(f"{width} at x{scale}" for scale, width in WIDTHS.items())
    add("--kernel", metavar="KERNEL", help="how the picture was blurred: gaussian:WIDTH in pixels of the result, "
        "gaussian:WIDTH,STRETCH,ANGLE (STRETCH times as wide along ANGLE; 0 degrees lie horizontally, and they grow "
        f"clockwise), bicubic, or a file .png, white on black, or .npy (default: gaussian, {widths})")
    add("--sigma", type=float, metavar="SIGMA", help="standard deviation of its noise, in 255ths: 2.55 is "
        f"what Python calls 0.01 (default: estimated, at least {LEAST_NOISE:g}, of a JPEG {COMPRESSED_NOISE:g})")
    add("--weights", default="tiny", metavar="NAME", help="a name known to the library, or a file (default: tiny)")
    return parser
