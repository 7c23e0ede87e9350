"""The paper's benchmark: degrade photographs, restore them, count the decibels.

    python -m usrlib.evaluation --images FOLDER --kernels FILE.mat --weights tiny --rows 2:0,3:2.55 --out results.json

What exactly is done is PROTOCOL (with `--kernels bicubic`, BICUBIC: the paper's second table). `score` is one cell of
the benchmark, for any method (y, k, scale, sigma) -> x.
"""

import argparse
import hashlib
import json
import math
import shlex
import sys
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from scipy.io import loadmat
from scipy.stats import t as student
from tqdm import tqdm

from . import images, splitting
from .data_step import data_step
from .degradation import bicubic_downsample, blur, downsample
from .fourier import embed
from .kernels import benchmark_kernels, bicubic_kernel, keys_cubic
from .metrics import luma, psnr, quantize, ssim
from .network import find_weights, load_denoiser, load_usrnet, use_all_digits, write_json
from .validation import check_choice, check_count, check_image, check_level, check_noise, refusing

PROTOCOL = (
    "HR is cropped (upper left) to sides that are multiples of lcm(scale, 8), blurred circularly and decimated at "
    "pixel 0. Noise is the stream of NumPy's legacy generator, seeded with 0 before every picture, in order height, "
    "width, channel; y is not clipped. The method is given y, k, scale and sigma. Its result is rounded to 8 bits; "
    "PSNR and SSIM in RGB, without a border of scale^2 pixels. Noise is in 255ths."
)
BICUBIC = (
    "HR is cropped as above and reduced as by MATLAB's imresize, bicubic with antialiasing. Noise as above. The method "
    "is given the bicubic kernel. PSNR and SSIM of Y, of 8 bits as MATLAB gives it, without a border of scale pixels."
)
LR = {
    "8bit": "The blurred picture is truncated to whole grey levels, as in the authors' script and published figures; "
            "the bicubically reduced one is rounded.",
    "float": "Nothing is rounded before the noise.",
}
# Upper-left corners of the course's own pictures, of a side that is a multiple of lcm(scale, 8) for scales 1 to 4.
OWN, OWN_SIZE = {"astronaut": (10, 110), "chelsea": (30, 90), "coffee": (60, 180), "rocket": (180, 170)}, 240

# The constants of the classical methods were chosen for the best PSNR on training photographs: 6 crops of BSDS400,
# 3 kernels, 8-bit y, five rows (×2, ×3, ×4 without noise, ×3 with 2.55 and 7.65). One value serves all rows: half or
# twice of it costs less than 0.1 dB in their mean. An 8-bit y is never without noise: ROUNDING is what rounding adds.
WIENER_POWER = 4e-4                                              # tried: 1e-4 to 1e-2
TV_LAM, TV_BETAS, TV_STEPS, TV_INNER = 2.5, (0.3, 0.02), 16, 15  # tried: 1 to 1000, (0.1 to 1, 0.005 to 0.1), 8 to 30
PNP_STEPS = 24                                                   # tried: 8 to 24; 8 cost 0.1 dB
TOLERANCE = {"psnr": 0.01, "ssim": 0.001}                        # between two machines


# --- The protocol ------------------------------------------------------------------------------------------------

def crop(x, scale):
    """The upper-left part of x whose sides are multiples of lcm(scale, 8)."""
    unit = math.lcm(scale, 8)
    return x[..., : x.shape[-2] // unit * unit, : x.shape[-1] // unit * unit]


def low_resolution(x, k, scale, sigma, lr="8bit"):
    """y = (x ⊗ k)↓s + n with the protocol's noise, the same at every call; float64, not clipped.

    x: (N, C, H, W) in [0, 1], sides multiples of scale. k: (1 or N, 1, h, w), or None: reduced as by MATLAB's imresize.
    sigma: a number, on the scale of x. lr: a key of LR. Returns (N, C, h, w).
    """
    check_image("x", x)
    check_noise("sigma", sigma)
    check_choice("lr", lr, LR)
    x = 255 * x.double()
    levels = bicubic_downsample(x, scale) if k is None else downsample(blur(x, k), scale)
    if lr == "8bit":
        # Whole up to rounding errors is whole: what becomes of flat areas must not depend on a machine's FFT.
        levels = (levels + (0.5 if k is None else 1e-9)).floor().clamp(0, 255)
    y = levels / 255
    noise = np.random.RandomState(0).normal(0, sigma, (*y.shape[-2:], y.shape[1]))    # the published one
    return y + torch.from_numpy(noise).permute(2, 0, 1).to(y)


def score(restore, x, k, scale, sigma, lr="8bit"):
    """(PSNR in decibels, SSIM) of a photograph (1, 3, H, W), degraded by the protocol and restored.

    restore: a method, (y, k, scale, sigma) -> x. The rest as for `low_resolution`, but x is cropped to a
    multiple of scale first; what is left of it without the border holds the window of SSIM, 11 pixels a side.
    """
    check_count("scale", scale)
    x = crop(x, scale)
    y = low_resolution(x, k, scale, sigma, lr)
    pair = quantize(restore(y, _bicubic_kernel(scale) if k is None else k, scale, sigma).to(x)), x
    if k is None:
        pair, border = [quantize(luma(one)) for one in pair], scale
    else:
        border = scale**2
    return psnr(*pair, border), ssim(*pair, border)


def _bicubic_kernel(scale):
    return bicubic_kernel(scale, max(25, 5 * scale))


def interval(values):
    """(mean, half the width of its 95 % interval) of scores, one a picture: Student's t, pictures drawn at random.

    values: at least two floats; of two methods, their differences picture by picture tell more than two intervals.
    """
    values = np.asarray(list(values), dtype=float)
    if values.size < 2:
        raise ValueError(f"values must be at least two scores; got {values.size}")
    return values.mean(), student.ppf(0.975, values.size - 1) * values.std(ddof=1) / math.sqrt(values.size)


# --- Methods -----------------------------------------------------------------------------------------------------

def network(name_or_path):
    """A trained USRNet as a method: in float32, on the GPU where there is one, of which it turns TF32 off for good."""
    model, device = _ready(load_usrnet(name_or_path))
    return lambda y, k, scale, sigma: model(y.to(device, torch.float32), k, scale, sigma)


def plug_and_play(name_or_path):
    """Half-quadratic splitting with a trained denoiser as a method, otherwise as `network`."""
    denoiser, device = _ready(load_denoiser(name_or_path))

    def restore(y, k, scale, sigma):
        check_level("sigma", sigma)
        sigma = max(sigma, splitting.ROUNDING)
        path = splitting.plug_and_play_path(sigma, PNP_STEPS)
        *_, last = splitting.hqs(y.to(device, torch.float32), k, scale, sigma, denoiser, *path)
        return last.x
    return restore


def _ready(model):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    use_all_digits()
    return model.to(device), device


def wiener(y, k, scale, sigma):
    """The linear estimate of least mean square error, under a prior with the spectrum of photographs, c / |f|^2.

    Let x = m + S^(1/2) u, with m the mean, S = 1 / |f|^2 (f in cycles a pixel, S(0) = 0) and u white of variance c.
    Then y - Am = ↓s ((k ⊗ S^(1/2)) ⊗ u) + n, once more a blur and a decimation: the posterior mean of u is a data
    step from 0 with that kernel, as large as the picture, and alpha = sigma^2 / c. Am is taken to be the mean of y.
    """
    check_level("sigma", sigma)
    shape = y.shape[-2] * scale, y.shape[-1] * scale
    down, across = (torch.fft.fftfreq(side, dtype=y.dtype, device=y.device).square() for side in shape)
    root = (down[:, None] + across[: shape[1] // 2 + 1]).rsqrt()          # S^(1/2), half a spectrum
    root[0, 0] = 0
    spread = torch.fft.irfft2(torch.fft.rfft2(embed(k.to(y), shape)) * root, s=shape)
    spread = spread.roll((shape[0] // 2, shape[1] // 2), dims=(-2, -1))
    mean = y.mean((-2, -1), keepdim=True)
    start = y.new_zeros(*y.shape[:2], *shape)
    u = data_step(start, y - mean, spread, scale, max(sigma, splitting.ROUNDING) ** 2 / WIENER_POWER)
    return mean / k.to(y).sum((-2, -1), keepdim=True) + torch.fft.irfft2(torch.fft.rfft2(u) * root, s=shape)


def tv(y, k, scale, sigma):
    """Half-quadratic splitting with total variation. λ and the path of β are constants: sigma enters as 1/σ^2 in E."""
    check_level("sigma", sigma)
    prior = partial(splitting.total_variation, iterations=TV_INNER)
    mu = splitting.penalties(TV_LAM, *TV_BETAS, TV_STEPS)
    *_, last = splitting.hqs(y, k, scale, max(sigma, splitting.ROUNDING), prior, TV_LAM, mu)
    return last.x


def bicubic(y, k, scale, sigma):
    """Bicubic enlargement (Keys, a = -1/2), laid where the middle of the kernel says that y lies; it wraps around."""
    weights, k = [], k.to(y)
    for axis in (-2, -1):
        share, side = k.sum(-3 - axis) / k.sum((-2, -1))[..., None], y.shape[axis]      # (1 or N, 1, h or w)
        middle = (share * (torch.arange(share.shape[-1]).to(y) - share.shape[-1] // 2)).sum(-1, keepdim=True)
        place = (torch.arange(scale * side).to(y) + middle) / scale              # y[j] sees x around s j - middle
        away = place[..., None] - torch.arange(side).to(y)
        weights.append(sum(keys_cubic((away + side / 2) % side - side / 2 + n * side) for n in range(-2, 3)))
    return weights[0] @ y @ weights[1].mT


CLASSICAL = {"bicubic": bicubic, "wiener": wiener, "tv": tv}
TRAINED = {"network": network, "pnp": plug_and_play}


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
    paths = sorted(path for path in Path(source).iterdir()
                   if path.suffix.lower() in images.PICTURES and not path.is_dir())
    if not paths:
        raise FileNotFoundError(f"images: the folder {str(source)!r} holds no picture ({', '.join(images.PICTURES)})")
    return {path.name: images.decode(path.name, path) for path in paths[::every]}


def read_kernels(source):
    """The kernels of a MATLAB file, the cell array `kernels`, as stored: {"k1": (1, 1, h, w), ...}, float64.

    source: the file, "own" for `benchmark_kernels()`, "bicubic" for {"bicubic": None}, as `low_resolution` takes it.
    FileNotFoundError or ValueError where there are none.
    """
    if source == "bicubic":
        return {"bicubic": None}
    if source == "own":
        kernels = benchmark_kernels().split(1)
    else:
        if not Path(source).is_file():
            raise FileNotFoundError(f"kernels must be a .mat file, 'own' or 'bicubic'; got {str(source)!r}")
        with refusing(f"kernels: {Path(source).name} is no MATLAB file up to version 7"):
            cells = loadmat(source).get("kernels")
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
        x, sigma = images.to_tensor(pictures[name]), row["noise"] / 255
        scores = score(restore, x, kernels[kernel], row["scale"], sigma, results["settings"]["lr"])
        for metric, value in zip(("psnr", "ssim"), scores, strict=True):
            row[metric].setdefault(kernel, {})[name] = value
        if len(row["psnr"][kernel]) == len(pictures):
            row["means"][kernel] = fmean(row["psnr"][kernel].values())
        if len(row["means"]) == len(kernels):
            row["mean"] = fmean(row["means"].values())
            row["mean_ssim"] = fmean(fmean(scores.values()) for scores in row["ssim"].values())
            each = [fmean(scores[name] for scores in row["psnr"].values()) for name in pictures]
            row["interval"] = interval(each)[1] if len(each) > 1 and math.isfinite(row["mean"]) else None
        write_json(path, results)


def table(results):
    """The means as a Markdown table: a line for each row, a column for each kernel; empty where not yet known."""
    kernels = list(dict.fromkeys(kernel for row in results["rows"] for kernel in row["means"]))
    lines = [["scale, noise", *kernels, "mean", "SSIM"], ["---"] * (len(kernels) + 3)]
    for row in results["rows"]:
        cells = ["" if mean is None else f"{mean:.2f}" for mean in map(row["means"].get, kernels)]
        mean = "" if row["mean"] is None else f"{row['mean']:.2f}"
        mean += "" if row["interval"] is None else f" ± {row['interval']:.2f}"
        similarity = "" if row["mean_ssim"] is None else f"{row['mean_ssim']:.3f}"
        lines.append([f"×{row['scale']}, {row['noise']:g}", *cells, mean, similarity])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def differences(results, expected):
    """What keeps two results from being the same, in words: a list, empty where all cells agree to TOLERANCE."""
    found = [
        f"{key}: {results['settings'][key]} here, {expected['settings'].get(key)} there"
        for key in ("method", "weights", "rows", "lr", "images")
        if results["settings"][key] != expected["settings"].get(key)
    ]
    here, there = _cells(results), _cells(expected)
    for cell in here | there:
        pair = here.get(cell, math.nan), there.get(cell, math.nan)
        if pair[0] != pair[1] and not abs(pair[0] - pair[1]) <= TOLERANCE[cell[0]]:       # both may be infinite
            found.append(f"{' '.join(cell)}: {pair[0]:.4f} here, {pair[1]:.4f} there")
    return found


def _cells(results):
    return {
        (metric, f"×{row['scale']}, {row['noise']:g},", kernel, name): value for row in results["rows"]
        for metric in TOLERANCE for kernel, scores in row[metric].items() for name, value in scores.items()
    }


def _resume(path, fresh):
    """The results in `path`, where there are any; refused where anything that decides the numbers was another."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"out: there is no folder {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"out: {path} is a folder; a file is expected")
    if not path.exists():
        return fresh
    found = _read("out", path)
    other = [key for key, value in fresh["settings"].items() if found["settings"].get(key) != value]
    if other:
        raise ValueError(f"out: {path} holds results of other {', '.join(other)}; choose another name, or delete it")
    return found


def _read(argument, path):
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        _cells(found), found["settings"].get("rows")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{argument}: {path} holds no results; choose another name") from None
    return found


# --- The command -------------------------------------------------------------------------------------------------

def main(arguments=None):
    """The command line: `python -m usrlib.evaluation --help`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.method in TRAINED) != (options.weights is not None):
        parser.error(f"--weights goes with --method {' or '.join(TRAINED)}, and is needed there")
    try:
        expected = _read("against", options.against) if options.against else None
        weights = _weights(options.weights)
        restore = TRAINED[options.method](options.weights) if options.method in TRAINED else CLASSICAL[options.method]
        if _weights(options.weights) != weights:
            raise ValueError(f"name_or_path: {options.weights} was replaced while it was read; try again")
        pictures, kernels = read_pictures(options.images, options.every), read_kernels(options.kernels)
        _check_sizes(pictures, kernels, {scale for scale, _ in options.rows})
        fresh = {
            "command": shlex.join(["python", "-m", "usrlib.evaluation", *arguments]),
            "settings": _settings(options, weights, pictures, kernels),
            "rows": [{"scale": scale, "noise": noise, "mean": None, "interval": None, "mean_ssim": None, "means": {},
                      "psnr": {}, "ssim": {}} for scale, noise in options.rows],
        }
        results = _resume(options.out, fresh)
        write_json(options.out, results)
    except (OSError, ValueError) as error:
        parser.error(str(error).replace("name_or_path", "--weights"))
    try:
        evaluate(restore, pictures, kernels, results, options.out)
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
    except OSError as error:                # the disk is full, say
        sys.exit(f"{error}; the same command goes on from here")
    print(table(results))
    if expected is not None:
        found = differences(results, expected)
        if found:
            sys.exit("\n".join([f"{options.out} differs from {options.against}, {len(found)} times:", *found[:10]]))
        print(f"{options.out} matches {options.against}: every picture within {TOLERANCE['psnr']} dB")


def _weights(name_or_path):
    """Which file of weights that is at this moment."""
    if name_or_path is None:
        return None
    path = find_weights(name_or_path)
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _settings(options, weights, pictures, kernels):
    """All that decides the numbers."""
    return {
        "method": options.method, "weights": weights, "rows": options.rows, "lr": options.lr,
        "protocol": " ".join([PROTOCOL, *[BICUBIC] * (options.kernels == "bicubic"), LR[options.lr]]),
        "images": {"count": len(pictures), "sha256": _digest(pictures)},
        "kernels": {"count": len(kernels), "sha256": _digest(kernels)},
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "device": "cuda" if options.weights and torch.cuda.is_available() else "cpu",
    }


def _digest(arrays):
    """The SHA-256 of named arrays: names, types, shapes, values."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        array = np.asarray(0.0 if array is None else array)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()


def _check_sizes(pictures, kernels, scales):
    """Cropped for any scale, every picture holds the kernels and more than the border."""
    for scale in scales:
        sides = [side for k in kernels.values() for side in (_bicubic_kernel(scale) if k is None else k).shape]
        needed = max(2 * scale**2 + 11, *sides)                        # 11: the window of SSIM
        for name, picture in pictures.items():
            if min(crop(picture[..., 0], scale).shape) < needed:
                raise ValueError(f"images: {name}, cropped for scale {scale}, needs {needed} pixels a side")


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m usrlib.evaluation",
        description="Measure how well a method restores blurred, small and noisy photographs, by the paper's protocol. "
                    "The results go to a file and, as a Markdown table, to the screen. A run that was interrupted goes "
                    "on when the same command is given again.",
        epilog=f"{PROTOCOL} With --kernels bicubic: {BICUBIC}",
    )
    add = partial(parser.add_argument, required=True)
    add("--images", metavar="FOLDER", help="a folder of pictures, or 'own': four crops of scikit-image's photographs")
    add("--kernels", metavar="FILE", help="a .mat file with a cell array `kernels`; 'own': our twelve; or 'bicubic'")
    add("--rows", type=_rows, metavar="S:N,...", help="scale:noise, noise in 255ths: 2:0,3:0,3:2.55,3:7.65,4:0")
    add("--out", type=Path, metavar="FILE", help="the JSON file of the results, written after every picture")
    add = parser.add_argument
    add("--method", choices=(*TRAINED, *CLASSICAL), default="network", help="default: network")
    add("--weights", metavar="NAME", help="needed for network and pnp: a known name, such as tiny, or a file")
    add("--lr", choices=tuple(LR), default="8bit", help=f"8bit (default): {LR['8bit']} float: {LR['float']}")
    add("--against", type=Path, metavar="FILE", help="results to compare with: fails where a picture's differ")
    add("--every", type=int, default=1, metavar="N", help="take pictures 1, N+1, 2N+1, ... by name")
    return parser


def _rows(text):
    try:
        rows = [[int(scale), float(noise)] for scale, noise in (row.split(":") for row in text.split(","))]
        for scale, noise in rows:
            check_count("scale", scale)
            check_level("noise", noise)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} must be scale:noise,..., such as 2:0,3:2.55: {error}") from None
    if len({tuple(row) for row in rows}) < len(rows):
        raise argparse.ArgumentTypeError(f"{text!r} holds a row twice")
    return rows


if __name__ == "__main__":
    main()
