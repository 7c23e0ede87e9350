"""The paper's benchmark: degrade photographs, restore them, count the decibels.

    python -m usrlib.evaluation --images FOLDER --kernels FILE.mat --weights tiny --rows 2:0,3:2.55 --out results.json

What exactly is done is PROTOCOL. `score` is one cell of the benchmark, for any method (y, k, scale, sigma) -> x.
"""

import argparse
import hashlib
import json
import math
import os
import shlex
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from scipy.io import loadmat
from tqdm import tqdm

from . import images, splitting
from .data_step import data_step
from .degradation import bicubic_upsample, blur, downsample
from .fourier import embed
from .kernels import benchmark_kernels
from .metrics import psnr, quantize
from .network import find_weights, load_usrnet
from .validation import check_choice, check_count, check_image, check_level, check_scale

PROTOCOL = (
    "HR is cropped (upper left) to sides that are multiples of lcm(scale, 8), blurred circularly and decimated at "
    "pixel 0. Noise is the stream of NumPy's legacy generator, seeded with 0 before every picture, in order height, "
    "width, channel; y is not clipped. The method is given y, k, scale and sigma. Its result is rounded to 8 bits; "
    "PSNR in RGB, without a border of scale^2 pixels. Noise is in 255ths."
)
LR = {
    "8bit": "The blurred picture is truncated to whole grey levels, as in the authors' script and published figures.",
    "float": "The blurred picture is not rounded.",
}
ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Upper-left corners of the course's own pictures, of a side that is a multiple of lcm(scale, 8) for scales 1 to 4.
OWN, OWN_SIZE = {"astronaut": (10, 110), "chelsea": (30, 90), "coffee": (60, 180), "rocket": (180, 170)}, 240

# The constants of the classical methods were chosen for the best PSNR on training photographs: 6 crops of BSDS400,
# 3 kernels, 8-bit y, five rows (×2, ×3, ×4 without noise, ×3 with 2.55 and 7.65). One value serves all rows: of the
# mean, half or twice of it costs less than 0.1 dB. An 8-bit y is never without noise: ROUNDING is what rounding adds.
ROUNDING = 1 / (255 * math.sqrt(12))
WIENER_POWER = 4e-4                                                 # tried: 1e-4 to 1e-2
TV_LAM, TV_BETAS, TV_STEPS, TV_INNER = 2.5, (0.3, 0.02), 16, 15     # 1 to 1000, (0.1 to 1, 0.005 to 0.1), 8 to 30


# --- The protocol ------------------------------------------------------------------------------------------------

def crop(x, scale):
    """The upper-left part of x whose sides are multiples of lcm(scale, 8)."""
    unit = math.lcm(scale, 8)
    return x[..., : x.shape[-2] // unit * unit, : x.shape[-1] // unit * unit]


def low_resolution(x, k, scale, sigma, lr="8bit"):
    """y = (x ⊗ k)↓s + n with the protocol's noise, the same at every call; float64, not clipped.

    x: (N, C, H, W) in [0, 1], sides multiples of scale. k: (1 or N, 1, h, w). sigma: a number, on the scale of x.
    lr: "8bit" truncates the blurred picture to whole grey levels, "float" does not. Returns (N, C, h, w).
    """
    check_image("x", x)
    check_level("sigma", sigma)
    check_choice("lr", lr, LR)
    levels = blur(255 * x.double(), k)
    if lr == "8bit":
        # Whole up to rounding errors is whole: what becomes of flat areas must not depend on a machine's FFT.
        levels = (levels + 1e-9).floor().clamp(0, 255)
    y = downsample(levels, scale) / 255
    noise = np.random.RandomState(0).normal(0, sigma, (*y.shape[-2:], y.shape[1]))    # the published one
    return y + torch.from_numpy(noise).permute(2, 0, 1).to(y)


def score(restore, x, k, scale, sigma, lr="8bit"):
    """PSNR in decibels of a photograph (1, 3, H, W), degraded by the protocol and restored.

    restore: a method, (y, k, scale, sigma) -> x. The rest as for `low_resolution`, but x of any size.
    """
    check_scale(scale)
    x = crop(x, scale)
    restored = restore(low_resolution(x, k, scale, sigma, lr), k, scale, sigma)
    return psnr(quantize(restored.to(x)), x, border=scale**2)


# --- Methods -----------------------------------------------------------------------------------------------------

def network(name_or_path):
    """A trained USRNet as a method: in float32, on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.allow_tf32 = False        # float32 with all of its digits
    model = load_usrnet(name_or_path).to(device)
    return lambda y, k, scale, sigma: model(y.to(device, torch.float32), k, scale, sigma)


def wiener(y, k, scale, sigma):
    """The least-mean-square-error estimate under a Gaussian prior with the spectrum of photographs, c / |f|^2.

    Let x = m + S^(1/2) u, with m the mean, S = 1 / |f|^2 (f in cycles a pixel, S(0) = 0) and u white of variance c.
    Then y - Am = ↓s ((k ⊗ S^(1/2)) ⊗ u) + n, once more a blur and a decimation: the posterior mean of u is a data
    step from 0 with that kernel, as large as the picture, and alpha = sigma^2 / c. Am is taken to be the mean of y.
    """
    shape = y.shape[-2] * scale, y.shape[-1] * scale
    down, across = (torch.fft.fftfreq(side, dtype=y.dtype, device=y.device).square() for side in shape)
    root = (down[:, None] + across[: shape[1] // 2 + 1]).rsqrt()          # S^(1/2), half a spectrum
    root[0, 0] = 0
    spread = torch.fft.irfft2(torch.fft.rfft2(embed(k.to(y), shape)) * root, s=shape)
    spread = spread.roll((shape[0] // 2, shape[1] // 2), dims=(-2, -1))
    mean = y.mean((-2, -1), keepdim=True)
    start = y.new_zeros(*y.shape[:2], *shape)
    u = data_step(start, y - mean, spread, scale, max(sigma, ROUNDING) ** 2 / WIENER_POWER)
    return mean / k.to(y).sum((-2, -1), keepdim=True) + torch.fft.irfft2(torch.fft.rfft2(u) * root, s=shape)


def tv(y, k, scale, sigma):
    """Half-quadratic splitting with total variation. λ and the path of β are constants: sigma enters as 1/σ^2 in E."""
    prior = partial(splitting.total_variation, iterations=TV_INNER)
    mu = splitting.penalties(TV_LAM, *TV_BETAS, TV_STEPS)
    *_, last = splitting.hqs(y, k, scale, max(sigma, ROUNDING), prior, TV_LAM, mu)
    return last.x


CLASSICAL = {"bicubic": lambda y, k, scale, sigma: bicubic_upsample(y, scale), "wiener": wiener, "tv": tv}


# --- The run -----------------------------------------------------------------------------------------------------

def read_pictures(source, every=1):
    """Pictures 1, 1 + every, ... of a folder, in order of name, or of the course's own crops: {name: uint8 (H, W, 3)}.

    source: a folder, or "own". FileNotFoundError where there is none; ValueError where one is damaged.
    """
    check_count("every", every)
    if source == "own":
        return {name: images.to_array(images.sample(name, OWN_SIZE, OWN[name])) for name in list(OWN)[::every]}
    if not Path(source).is_dir():
        raise FileNotFoundError(f"images must be a folder or 'own'; got {str(source)!r}")
    paths = sorted(path for path in Path(source).iterdir() if path.suffix.lower() in ENDINGS)
    if not paths:
        raise FileNotFoundError(f"images: the folder {str(source)!r} holds no picture ({', '.join(ENDINGS)})")
    pictures = {}
    for path in paths[::every]:
        try:
            pictures[path.name] = images.to_array(images.read(path))
        except OSError as error:
            raise ValueError(f"images: {path.name} cannot be read: {error}") from error
    return pictures


def read_kernels(source):
    """The kernels of a MATLAB file, the cell array `kernels`, as stored: {"k1": (1, 1, h, w), ...}, float64.

    source: the file, or "own" for `benchmark_kernels()`. FileNotFoundError or ValueError where there are none.
    """
    if source == "own":
        kernels = benchmark_kernels().split(1)
    else:
        if not Path(source).is_file():
            raise FileNotFoundError(f"kernels must be a .mat file or 'own'; got {str(source)!r}")
        try:
            cells = loadmat(source).get("kernels")
        except Exception as error:                # SciPy raises whatever the bytes lead it to
            raise ValueError(f"kernels: {Path(source).name} is no MATLAB file up to version 7: {error}") from error
        if cells is None or cells.dtype != object or not cells.size or not all(map(_is_matrix, cells.flat)):
            raise ValueError(f"kernels: {Path(source).name} must hold a cell array `kernels` of finite matrices")
        kernels = [torch.from_numpy(k.astype(np.float64))[None, None] for k in cells.flat]
    return {f"k{number}": k for number, k in enumerate(kernels, 1)}


def _is_matrix(k):
    return k.ndim == 2 and k.size > 0 and k.dtype.kind in "iuf" and np.isfinite(k).all()


def evaluate(restore, pictures, kernels, results, path):
    """Fill the cells that are missing in `results`, row by row, and rewrite the file `path` after each.

    restore: a method. pictures, kernels: as read. results: {"settings": {"lr", ...}, "rows": [...]} as `main` makes.
    """
    missing = [
        (row, kernel, name) for row in results["rows"] for kernel in kernels for name in pictures
        if name not in row["psnr"].get(kernel, {})
    ]
    total = len(results["rows"]) * len(kernels) * len(pictures)
    for row, kernel, name in tqdm(missing, initial=total - len(missing), total=total, unit="picture", disable=None):
        scores = row["psnr"].setdefault(kernel, {})
        x, sigma = images.to_tensor(pictures[name]), row["noise"] / 255
        scores[name] = score(restore, x, kernels[kernel], row["scale"], sigma, results["settings"]["lr"])
        if len(scores) == len(pictures):
            row["means"][kernel] = fmean(scores.values())
        if len(row["means"]) == len(kernels):
            row["mean"] = fmean(row["means"].values())
        _write(path, results)


def table(results):
    """The means as a Markdown table: a line for each row, a column for each kernel; empty where not yet known."""
    kernels = [f"k{number}" for number in range(1, results["settings"]["kernels"]["count"] + 1)]
    lines = [["scale, noise", *kernels, "mean"], ["---"] * (len(kernels) + 2)]
    for row in results["rows"]:
        means = [*(row["means"].get(kernel) for kernel in kernels), row["mean"]]
        cells = ("" if mean is None else f"{mean:.2f}" for mean in means)
        lines.append([f"×{row['scale']}, {row['noise']:g}", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _resume(path, fresh):
    """The results in `path`, where there are any; refused where anything that decides the numbers was another."""
    if not path.exists():
        return fresh
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        other = [key for key, value in fresh["settings"].items() if found["settings"].get(key) != value]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"out: {path} exists and holds no results; choose another name") from None
    if other:
        raise ValueError(f"out: {path} holds results of other {', '.join(other)}; choose another name, or delete it")
    return found


def _write(path, results):
    """In one move: whoever reads `path`, at whatever moment, finds a whole file."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


# --- The command -------------------------------------------------------------------------------------------------

def main(arguments=None):
    """The command line: `python -m usrlib.evaluation --help`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.method == "network") != (options.weights is not None):
        parser.error("--weights goes with --method network, and is needed there")
    try:
        restore = network(options.weights) if options.weights else CLASSICAL[options.method]
        pictures, kernels = read_pictures(options.images, options.every), read_kernels(options.kernels)
        _check_sizes(pictures, kernels, {scale for scale, _ in options.rows})
        fresh = {
            "command": shlex.join(["python", "-m", "usrlib.evaluation", *arguments]),
            "settings": _settings(options, pictures, kernels),
            "rows": [{"scale": scale, "noise": noise, "mean": None, "means": {}, "psnr": {}}
                     for scale, noise in options.rows],
        }
        results = _resume(options.out, fresh)
        _write(options.out, results)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    try:
        evaluate(restore, pictures, kernels, results, options.out)
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
    print(table(results))


def _settings(options, pictures, kernels):
    """All that decides the numbers."""
    weights = None
    if options.weights:
        path = find_weights(options.weights)
        weights = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return {
        "method": options.method, "weights": weights, "rows": options.rows, "lr": options.lr,
        "protocol": f"{PROTOCOL} {LR[options.lr]}",
        "images": {"count": len(pictures), "sha256": _digest(pictures)},
        "kernels": {"count": len(kernels), "sha256": _digest({name: k.numpy() for name, k in kernels.items()})},
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "usrlib": version("usrlib")},
        "device": "cuda" if options.weights and torch.cuda.is_available() else "cpu",
    }


def _digest(arrays):
    """The SHA-256 of named arrays: names, types, shapes, values."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()


def _check_sizes(pictures, kernels, scales):
    """Cropped for any scale, every picture holds the kernels and more than the border."""
    for scale in scales:
        needed = max(2 * scale**2 + 1, *(side for k in kernels.values() for side in k.shape))
        for name, picture in pictures.items():
            if min(crop(torch.from_numpy(picture[..., 0]), scale).shape) < needed:
                raise ValueError(f"images: {name}, cropped for scale {scale}, needs {needed} pixels a side")


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m usrlib.evaluation",
        description="Measure how well a method restores blurred, small and noisy photographs, by the paper's protocol. "
                    "The results go to a file and, as a Markdown table, to the screen. A run that was interrupted goes "
                    "on when the same command is given again.",
        epilog=PROTOCOL,
    )
    add = partial(parser.add_argument, required=True)
    add("--images", metavar="FOLDER", help="a folder of pictures, or 'own': four crops of scikit-image's photographs")
    add("--kernels", metavar="FILE", help="a .mat file with a cell array `kernels`, or 'own': the library's twelve")
    add("--rows", type=_rows, metavar="S:N,...", help="scale:noise, noise in 255ths: 2:0,3:0,3:2.55,3:7.65,4:0")
    add("--out", type=Path, metavar="FILE", help="the JSON file of the results, written after every picture")
    add = parser.add_argument
    add("--method", choices=("network", *CLASSICAL), default="network", help="default: network")
    add("--weights", metavar="NAME", help="of the network: a name that comes with the library, such as tiny, or a file")
    add("--lr", choices=tuple(LR), default="8bit", help=f"8bit (default): {LR['8bit']} float: {LR['float']}")
    add("--every", type=int, default=1, metavar="N", help="take pictures 1, N+1, 2N+1, ... by name")
    return parser


def _rows(text):
    try:
        rows = [[int(scale), float(noise)] for scale, noise in (row.split(":") for row in text.split(","))]
        for scale, noise in rows:
            check_scale(scale)
            check_level("noise", noise)
    except ValueError:
        rows = []
    if not rows or len({tuple(row) for row in rows}) < len(rows):
        raise argparse.ArgumentTypeError(f"{text!r} must be different scale:noise, such as 2:0,3:2.55")
    return rows


if __name__ == "__main__":
    main()
