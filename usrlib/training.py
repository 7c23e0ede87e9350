"""Training USRNet: `python -m usrlib.training --images FOLDER_OR_TAR --config tiny --out FOLDER`.

The photographs are decoded once, into one array of bytes on the device; crops, kernels, noise and the degradation
itself are made there, a batch at a time. Every sample is a function of (seed, step, its index in the batch) alone:
a run continues after a kill as if nothing had happened (on a CPU to the last bit; a GPU may add in another order), and
several processes share a batch without talking.
"""

import argparse
import copy
import csv
import io
import math
import os
import platform
import re
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from . import images
from .degradation import blur, downsample
from .kernels import gaussians, motion_kernel
from .metrics import psnr
from .network import (
    ResidualBlock,
    ResUNet,
    USRNet,
    load_denoiser,
    load_usrnet,
    read_card,
    replace_file,
    save_weights,
    use_all_digits,
)
from .splitting import ROUNDING, levels, plug_and_play_path
from .validation import check_choice, check_count, check_counts, check_level, refusing, trusted_values

KERNEL_SIZE = 25                   # pixels
MOTION_SEEDS = range(1000, 3048)   # kernels rendered before training; those of the benchmark have seeds below 1000
HELD_OUT = 32                      # one photograph in so many is never trained on
HELD_OUT_SEED = 2**40              # what is measured on them is the same for every run of one task


# Of the error of a batch, (N, C, H, W). "psnr" is minus the mean PSNR of the crops, up to a factor and a constant. The
# PSNR of whole pictures hears their busy crops more; "rms" lies between the two (notebook 09, sections 9.2, 9.7). The 1
# in both: below an error of one grey level there is nothing to gain.
LOSSES = {
    "absolute": lambda error: error.abs().mean(),
    "psnr": lambda error: (255 * error).square().mean((1, 2, 3)).log1p().mean(),
    "rms": lambda error: (1 + (255 * error).square().mean((1, 2, 3))).sqrt().mean(),
}


def _soap(parameters, rate):
    """Adam in the eigenbasis of the gradients' second moments (Vyas et al., "SOAP", arXiv 2409.11321)."""
    from pytorch_optimizer import SOAP  # a package of a hundred optimisers, which takes a second

    return SOAP(parameters, rate, weight_decay=0.0)


OPTIMISERS = {"adam": torch.optim.Adam, "soap": _soap}
CHECKS = {int: check_count, float: check_level, tuple: check_counts, str: check_choice, bool: check_choice}


def _option(default, text, most=None, **bounds):
    """A field of `Config`, with its line of --help and its bounds: the greatest value, and those for its check."""
    return field(default=default, metadata={"help": text, "most": most, "bounds": bounds})


@dataclass(frozen=True)
class Config:
    """All that decides the result of a run, the photographs apart. Noise is in 255ths, sizes in pixels."""

    iterations: int = _option(6, "K; 0 trains the prior alone, as a denoiser", least=0)
    channels: tuple = _option((16, 32, 64, 64), "of the prior, from the finest level to the coarsest",
                              least=3)                      # a new prior passes three colours on
    blocks: int = _option(2, "residual blocks of the prior at every level, on either way")
    hidden: int = _option(32, "width of H")
    scales: tuple = _option((1, 2, 3, 4), "one a batch, in turn")
    noise: float = _option(25.0, "sigma is uniform from 0 to this, in 255ths ...")
    noiseless: float = _option(0.25, "... except for this fraction of the samples, where it is 0", most=1)
    eight_bit: float = _option(0.5, "fraction blurred to 8 bits, truncated, as the authors' code does", most=1)
    crop: int = _option(96, "pixels of a side of the sharp picture")
    batch: int = _option(48, "crops in a step, over all processes")
    steps: int = _option(100_000, "of the whole run")
    learning_rate: float = _option(1e-3, "after the warm-up; then a cosine down to a hundredth of it", positive=True)
    warmup: int = _option(500, "steps in which the learning rate rises from 0", least=0)
    loss: str = _option("absolute", f"what is made small: {' or '.join(LOSSES)}", choices=LOSSES)
    optimiser: str = _option("adam", "adam, or soap: Adam in the eigenbasis of the gradients' second moments",
                             choices=OPTIMISERS)
    clip: float = _option(1.0, "upper bound of the gradient's norm", positive=True)
    average: float = _option(0.999, "decay of the moving average of the weights, which is what is kept", most=1)
    bf16: bool = _option(True, "the prior in bfloat16; the data step never is", choices=(True, False))
    seed: int = _option(0, "of the weights at the start, and of every sample", most=2**62, least=0)

    def __post_init__(self):
        for entry in fields(self):
            name, value, kind, most = entry.name, getattr(self, entry.name), type(entry.default), entry.metadata["most"]
            CHECKS[kind](name, value, **entry.metadata["bounds"])
            if most is not None and value > most:
                raise ValueError(f"{name} must not exceed {most}; got {value}")
            # The command line gives lists, and the card is JSON, which knows no numbers of NumPy.
            object.__setattr__(self, name, tuple(map(int, value)) if kind is tuple else kind(value))
        if not self.iterations and self.scales != (1,):
            raise ValueError(f"scales must be 1 alone where iterations is 0, for a denoiser; got {self.scales}")
        multiple = math.lcm(2 ** (len(self.channels) - 1), *self.scales)
        if self.crop % multiple or self.crop < KERNEL_SIZE:
            raise ValueError(f"crop must be a multiple of {multiple}, at least {KERNEL_SIZE}; got {self.crop}")

    def rate(self, step):
        """The learning rate of a step: linear warm-up, then half a cosine."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


CONFIGS = {
    "tiny": Config(),
    "full": Config(iterations=8, channels=(64, 128, 256, 512), hidden=64, steps=200_000, learning_rate=2e-4),
    "denoiser": Config(iterations=0, scales=(1,), noise=50.0, noiseless=0.0, eight_bit=0.0, steps=20_000),
}


# --- Chance ------------------------------------------------------------------------------------------------------

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64     # as signed integers of 64 bits, whose products wrap around
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


class Dice:
    """Random numbers that are a function of (seed, step, index): the generator SplitMix64, one for every sample.

    seed, step: ints. index: int64 tensor (N,), the samples' places in the global batch; its device is used.
    Each throw has a name, so that adding one changes none of the others.
    (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.)
    """

    def __init__(self, seed, step, index):
        key = torch.zeros_like(index)
        for number in (seed, step, index):
            key = _mix(key + (torch.as_tensor(number) + 1) * _GOLDEN)
        self.key = key

    def bits(self, name, *shape):
        """64 random bits for every sample and entry: int64 (N, *shape)."""
        stream = _mix(self.key + int.from_bytes(sha256(name.encode()).digest()[:7], "big"))
        counter = torch.arange(1, math.prod(shape) + 1, device=stream.device)
        return _mix(stream[:, None] + counter * _GOLDEN).view(-1, *shape)

    def uniform(self, name, *shape, low=0.0, high=1.0):
        """Uniform on [low, high): float32 (N, *shape)."""
        return low + (high - low) * ((self.bits(name, *shape) >> 40) & 0xFFFFFF).float() / 2**24

    def chance(self, name, probability, *shape):
        """True with the given probability: bool (N, *shape)."""
        return self.uniform(name, *shape) < probability

    def below(self, name, count):
        """An integer from 0 to count - 1, count an int or an int64 tensor (N,), below 2^51: int64 (N,)."""
        throw = (self.bits(name) >> 32) & 0xFFFFFFFF
        return (throw * (count >> 20) + (throw * (count & 0xFFFFF) >> 20)) >> 12     # throw * count >> 32, in 64 bits

    def normal(self, name, *shape):
        """Standard normal, after Box and Muller: float32 (N, *shape)."""
        bits = self.bits(name, *shape)
        radius = (-2 * ((((bits >> 32) & 0xFFFFFFFF) + 1).float() / 2**32).log()).sqrt()
        return radius * (math.tau * (bits & 0xFFFFFFFF).float() / 2**32).cos()


def _mix(x):
    x = (x ^ ((x >> 30) & (1 << 34) - 1)) * _MIX_1       # masked: >> copies the sign
    x = (x ^ ((x >> 27) & (1 << 37) - 1)) * _MIX_2
    return x ^ ((x >> 31) & (1 << 33) - 1)


# --- Pairs -------------------------------------------------------------------------------------------------------

class Photographs:
    """Photographs of any sizes as one array of bytes on a device.

    arrays: uint8 (H, W, 3), a non-empty list. source: what the weights' card says of them.
    """

    def __init__(self, arrays, device="cpu", source="arrays"):
        arrays = list(arrays)
        if not arrays or any(array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 for array in arrays):
            raise ValueError("arrays must be a non-empty list of uint8 arrays (H, W, 3)")
        sizes = [array.shape[0] * array.shape[1] for array in arrays]
        self.pixels = torch.empty(sum(sizes), 3, dtype=torch.uint8, device=device)
        self.start = torch.tensor([0, *accumulate(sizes)], device=device)
        self.height, self.width = torch.tensor([array.shape[:2] for array in arrays], device=device).T
        self.smallest = min((array.shape[:2] for array in arrays), key=min)
        self.checksum = 0                                     # of all bytes: a run goes on with these and no others
        for array, part in zip(map(np.ascontiguousarray, arrays), self.pixels.split(sizes), strict=True):
            part.copy_(torch.tensor(array).view(-1, 3))
            self.checksum = crc32(array, self.checksum)
        self.source = f"{source}: {len(arrays)} pictures, {sum(sizes) / 1e6:.1f} megapixels"

    def chosen(self, dice):
        """Which photograph each sample is cut from, a large one more often: int64 (N,)."""
        return torch.searchsorted(self.start, dice.below("photograph", self.start[-1]), right=True) - 1

    def crops(self, dice, size):
        """A random crop for every sample, turned and mirrored at random: float32 (N, 3, size, size)."""
        photo = self.chosen(dice)
        width = self.width[photo]
        top = dice.below("top", self.height[photo] - size + 1)
        left = dice.below("left", width - size + 1)
        axis = torch.arange(size, device=photo.device)
        index = (self.start[photo] + top * width + left).view(-1, 1, 1) + axis[:, None] * width.view(-1, 1, 1) + axis
        return _turn(dice, "photograph", self.pixels[index].permute(0, 3, 1, 2).float() / 255)


def read_photographs(paths, device="cpu"):
    """Folders and tar files of photographs -> two `Photographs`, (to train on, held out).

    One photograph in HELD_OUT is held out, and at least one, by a hash of its name; tiles of one photograph,
    NAME_row_column, stay together. Raises ValueError where there are not two or one cannot be read.
    """
    files = [file for path in paths for file in files_of(Path(path))]         # a name may come twice, even in one tar
    if not files:
        raise ValueError(f"images must hold pictures, {' '.join(images.PICTURES)}; "
                         f"found none in {' '.join(map(str, paths))}")
    with ThreadPoolExecutor() as pool:
        decoded = pool.map(images.decode, *zip(*files, strict=True))
        arrays = list(tqdm(decoded, "decoding", len(files), leave=False, disable=None))
    kept, held_out = [], []
    chosen = held_out_of(name for name, _ in files)
    for (name, _), array in zip(files, arrays, strict=True):
        (held_out if photograph(name) in chosen else kept).append(array)
    if not kept:
        raise ValueError(f"images must be at least two photographs, one to hold out; got {len(arrays)} pictures of one")
    source = ", ".join(Path(path).name for path in paths)
    return tuple(Photographs(part, device, source) for part in (kept, held_out))


def files_of(path):
    """(name, file) of every picture in a folder or a tar file, in the order of their names."""
    if path.is_dir():
        names = sorted(file for file in path.rglob("*") if file.suffix.lower() in images.PICTURES and not file.is_dir())
        yield from ((str(file.relative_to(path)), file) for file in names)
        return
    if not path.is_file() or not tarfile.is_tarfile(path):
        raise ValueError(f"images must be folders or tar files; got {path}")
    with refusing(f"images: {path.name} cannot be read"), tarfile.open(path) as archive:
        found = [(member.name, io.BytesIO(archive.extractfile(member).read())) for member in archive
                 if member.isfile() and Path(member.name).suffix.lower() in images.PICTURES]
    yield from sorted(found, key=lambda each: each[0])           # read in the archive's order: it may be compressed


def photograph(name):
    """The photograph that a file is a tile of, where its name ends in two numbers: its name without them."""
    return re.sub(r"_\d{1,5}_\d{1,5}$", "", Path(name).stem)            # and not the number of IMG_1234


def held_out_of(names):
    """The photographs never to train on: one in HELD_OUT, by a hash of the name, and at least one. A set of names."""
    hashes = {name: int.from_bytes(sha256(name.encode()).digest()[:8], "big") for name in map(photograph, names)}
    return {name for name, value in hashes.items() if value % HELD_OUT == 0} or {min(hashes, key=hashes.get)}


def _turn(dice, what, x):
    """One of the eight symmetries of the square for every sample of (N, C, size, size)."""
    x = torch.where(dice.chance(f"{what} transposed", 0.5, 1, 1, 1), x.mT, x)
    x = torch.where(dice.chance(f"{what} upside down", 0.5, 1, 1, 1), x.flip(-2), x)
    return torch.where(dice.chance(f"{what} mirrored", 0.5, 1, 1, 1), x.flip(-1), x)


class Batch(NamedTuple):
    """What one training step sees: x, y, k as everywhere, scale an int, sigma (N, 1, 1, 1)."""

    x: torch.Tensor
    y: torch.Tensor
    k: torch.Tensor
    scale: int
    sigma: torch.Tensor


class Sampler:
    """Degraded photographs for training: sampler(step, index) -> Batch.

    photographs: Photographs. config: Config. Kernels are half Gaussian, of two widths from sqrt(0.4) to sqrt(12)
    pixels, half of these off the centre by up to 1.5 pixels either way, and half camera shake.
    """

    def __init__(self, photographs, config):
        if min(photographs.smallest) < config.crop:
            raise ValueError("crop must not exceed the smallest picture, of {} rows and {} columns; got {}".format(
                *photographs.smallest, config.crop))
        self.photographs, self.config, self.device = photographs, config, photographs.pixels.device
        if config.iterations:
            self.shakes = _shakes().to(self.device)

    def __call__(self, step, index):
        """step: int. index: the samples' places in the global batch, a range or an int64 tensor."""
        config = self.config
        dice = Dice(config.seed, step, torch.as_tensor(index, device=self.device))
        x = self.photographs.crops(dice, config.crop)
        sigma = dice.uniform("sigma", 1, 1, 1, high=config.noise / 255)
        sigma = torch.where(dice.chance("noiseless", config.noiseless, 1, 1, 1), 0.0, sigma)
        scale = config.scales[step % len(config.scales)]
        if config.iterations:
            shakes = _turn(dice, "shake", self.shakes[dice.below("which shake", len(self.shakes))])
            k = torch.where(dice.chance("shake", 0.5, 1, 1, 1), shakes, _gaussian(dice))
            with trusted_values():
                y = downsample(blur(x, k), scale)
            # Whole up to rounding is whole, as in `evaluation.low_resolution`: flat areas are not to be speckled.
            truncated = (255 * y + 1e-3).floor().clamp(0, 255) / 255
            y = torch.where(dice.chance("eight bit", config.eight_bit, 1, 1, 1), truncated, y)
        else:
            k, y = x.new_ones(1, 1, 1, 1), x                                # a denoiser: the scale is 1
        return Batch(x, y + sigma * dice.normal("noise", *y.shape[1:]), k, scale, sigma)


@lru_cache
def _shakes():
    """The pool of camera shakes, rendered once: float32 (len(MOTION_SEEDS), 1, KERNEL_SIZE, KERNEL_SIZE)."""
    return torch.cat([motion_kernel(KERNEL_SIZE, torch.Generator().manual_seed(n)) for n in MOTION_SEEDS]).float()


def _gaussian(dice):
    """A random Gaussian for every sample: float32 (N, 1, KERNEL_SIZE, KERNEL_SIZE)."""
    widths = dice.uniform("widths", 2, 1, 1, low=0.4**0.5, high=12**0.5)
    angle = dice.uniform("angle", 1, 1, high=math.pi)
    shift = dice.uniform("shift", 2, 1, 1, low=-1.5, high=1.5) * dice.chance("shifted", 0.5, 1, 1, 1)
    return gaussians(KERNEL_SIZE, widths**2, angle, shift)


# --- The loop ----------------------------------------------------------------------------------------------------

class Diverged(RuntimeError):
    """The loss or a gradient is no longer finite, or the loss has risen far above what it was."""


class Trainer:
    """A network in training: `step` by step, with everything that a checkpoint must hold.

    config: Config. photographs: Photographs; their device is where all of it happens. model: what to train further,
    or None for a new one; origin: the card it came with. The processes of torch.distributed, where it is initialised,
    share a batch. Turns TF32 off for good: what is not in bfloat16 is in float32, with all of its digits.
    """

    def __init__(self, config, photographs, model=None, origin=None):
        joined = dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)
        if config.batch % self.world:
            raise ValueError(f"batch must be a multiple of the number of processes, {self.world}; got {config.batch}")
        if model is not None and _shapes(model) != _shapes(new_model(config)):
            raise ValueError("model must have the architecture of config; its weights, of --weights, have others")
        self.config, self.sampler, self.origin = config, Sampler(photographs, config), origin
        use_all_digits()
        share = config.batch // self.world
        self.index = torch.arange(self.rank * share, (self.rank + 1) * share, device=self.sampler.device)
        self.model = (model or new_model(config)).to(self.sampler.device).requires_grad_(True).train()
        self.averaged = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.parallel = nn.parallel.DistributedDataParallel(self.model) if self.world > 1 else self.model
        self.optimiser = OPTIMISERS[config.optimiser](self.model.parameters(), config.learning_rate)
        self.commit = _commit()                         # now: by the end of the run the tree may have moved on
        self.done = 0                                   # steps
        self.seconds = 0.0                              # of training, over all resumed parts
        self.sums = torch.zeros(3, device=self.sampler.device)     # of loss, gradient norm, steps since `report`

    def step(self):
        """One batch, one change of the weights (SOAP's first only measures). Nothing waits for the device, but SOAP."""
        config = self.config
        batch = self.sampler(self.done, self.index)
        for group in self.optimiser.param_groups:
            group["lr"] = config.rate(self.done)
        loss = LOSSES[config.loss](predict(self.parallel, batch, config.bf16) - batch.x)
        self.optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        try:
            self.optimiser.step()
        except torch.linalg.LinAlgError as error:           # SOAP's eigenvectors, of gradients that are not finite
            raise Diverged(f"no step can be made at step {self.done}: {error}") from error
        self.done += 1
        # Young averages forget faster, or the untrained weights would linger in them.
        decay = min(config.average, (1 + self.done) / (10 + self.done))
        get_ema_multi_avg_fn(decay)(list(self.averaged.parameters()), self._as_seen(), None)
        self.sums += torch.stack([loss.detach(), norm, torch.ones_like(norm)])

    def _as_seen(self):
        """The weights that the loss has seen. In bfloat16 the filters are rounded, and it fits what is left of them:
        used without that rounding, they would change the brightness of the picture (notebook 09, section 9.8).
        """
        return [weight.bfloat16().to(weight.dtype) if self.config.bf16 and "hyper." not in name else weight
                for name, weight in self.model.named_parameters()]

    def report(self):
        """Mean loss and gradient norm since the last report; raises `Diverged` where they are not finite."""
        sums = self.sums.clone()
        if self.world > 1:
            dist.all_reduce(sums)
        loss, norm = (sums[:2] / sums[2]).tolist()
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise Diverged(f"loss {loss}, gradient norm {norm} in the steps up to {self.done}")
        self.sums.zero_()
        return loss, norm

    def state(self):
        """All that the rest of the run depends on. There is no state of a random generator: see `Dice`."""
        return {
            "config": asdict(self.config), "origin": self.origin, "done": self.done, "seconds": self.seconds,
            "photographs": self.sampler.photographs.source, "checksum": self.sampler.photographs.checksum,
            "model": self.model.state_dict(), "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def restore(self, state):
        """Continue from a `state`; ValueError where it belongs to another configuration or other photographs."""
        theirs, ours = asdict(Config()) | state["config"], asdict(self.config)     # an older one may lack a field
        different = [f"{name}, there {value} and here {ours.get(name)}"
                     for name, value in theirs.items() if ours.get(name) != value]
        if different:
            raise ValueError(f"config must be that of the checkpoint; it differs in {'; '.join(different)}")
        if state["checksum"] != self.sampler.photographs.checksum:
            raise ValueError(f"images must be those of the checkpoint, {state['photographs']}, to the last byte")
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.done, self.seconds, self.origin = state["done"], state["seconds"], state["origin"]

    def agree(self, flag):
        """Whether the first process says so: the clocks of several need not agree."""
        if self.world == 1:
            return flag
        answer = torch.tensor(float(flag), device=self.sampler.device)
        dist.broadcast(answer, src=0)
        return bool(answer.item())


def new_model(config, denoiser=None):
    """A network of `config`'s architecture, near the loop it is to become. Seeded by config.seed.

    Its prior changes little: the way from head to tail passes the picture on, what is added to it on the way is a tenth
    of PyTorch's default. H starts at α = 0.01 and β = 0.05 for everything. With a denoiser (a trained ResUNet) the
    network is born as plug and play: that is its prior, and H knows the path of `splitting.plug_and_play_path`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)      # and not those of the GPUs, which are not given back
        model = USRNet(config.iterations, config.channels, config.blocks, config.hidden) if config.iterations else \
            ResUNet(config.channels, config.blocks)
    prior = model.prior if config.iterations else model
    with torch.no_grad():
        for name, weight in prior.named_parameters():
            if "conv2" in name or (name.startswith("up") and name.endswith(".0.weight")):
                weight.mul_(0.1)
        for layer in (prior.head, prior.tail):
            layer.weight[:3].mul_(0.1)
            layer.weight[range(3), range(3), 1, 1] += 1
        if config.iterations:
            last = model.hyper.layers[4]
            last.weight.mul_(0.1)
            last.bias.copy_(torch.tensor([0.01, 0.05]).expm1().log().repeat_interleave(config.iterations))
    if denoiser is not None:
        if not config.iterations or _shapes(denoiser) != _shapes(prior):
            raise ValueError("denoiser must have the architecture of the prior of config, which must have iterations")
        prior.load_state_dict(denoiser.state_dict())
        _teach_path(model.hyper, config)
    return model


@torch.no_grad()
def widened(model, config):
    """A network of config's architecture that is at first the same function as `model`, a smaller one or none smaller.

    What is old hears only what is old, by the old weights; what is new hears everything, by those of `new_model`
    (notebook 09, (9.11); after Chen, Goodfellow and Shlens, "Net2Net", ICLR 2016). H has a row for every iteration:
    where there are more, the first ones are done twice, and the function is nearly the same.
    Raises ValueError where model does not fit into config's architecture, or its iterations twice not into config's.
    """
    large = new_model(config)
    narrow, wide = _shapes(model), _shapes(large)
    if narrow == wide:
        return model
    had = len(model.hyper.layers[4].bias) // 2 if config.iterations else 0
    if narrow.keys() != wide.keys() or config.iterations > 2 * had or \
            any(old > new for name in wide for old, new in zip(narrow[name], wide[name], strict=True)):
        raise ValueError("model must have the architecture of config or one that fits into it, with the same levels "
                         "and blocks and at least half the iterations; its weights, of --weights, have another")
    again = [max(k // 2, k - (config.iterations - had)) for k in range(config.iterations)]
    for (name, layer), old in zip(large.named_modules(), model.modules(), strict=True):
        for what, weight in layer.named_parameters(recurse=False):
            part = getattr(old, what)
            if name == "hyper.layers.4":
                part = part.unflatten(0, (2, had))[:, again].flatten(0, 1)         # all α, then all β
            if isinstance(layer, nn.ConvTranspose2d):                              # it has (in, out, 2, 2)
                weight, part = weight.transpose(0, 1), part.transpose(0, 1)
            weight[: len(part)] = 0
            weight[tuple(map(slice, part.shape))] = part
    return large


def _teach_path(hyper, config):
    """Fit H to the path of plug and play in the mean absolute logarithm, over noise levels, the same for all scales."""
    noise = torch.linspace(0, 1, 101) ** 3 * config.noise / 255             # the path bends where there is little noise
    paths = [levels(sigma, *plug_and_play_path(sigma, config.iterations))
             for sigma in noise.clamp(min=ROUNDING).tolist()]
    target = torch.tensor(paths).mT.flatten(1).log().repeat(len(config.scales), 1)          # all α, then all β
    given = torch.cartesian_prod(torch.tensor(config.scales, dtype=noise.dtype), noise).flip(1)
    optimiser = torch.optim.Adam(hyper.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0.01, total_iters=5000)
    for _ in range(5000):
        ((hyper.layers(given) + 1e-6).log() - target).abs().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()


@torch.no_grad()
def activity(model, sampler, count=8):
    """How often each hidden unit of the residual blocks is above zero: {name of the block: float32 (channels,)}.

    model: USRNet or ResUNet. sampler: what it is shown, one batch of `count` for each scale; all places, samples and
    iterations count alike.
    """
    shares = {}
    with ExitStack() as hooks:
        for name, block in model.named_modules():
            if isinstance(block, ResidualBlock):
                shares[name] = []
                hooks.enter_context(block.conv1.register_forward_hook(
                    lambda _, z, hidden, seen=shares[name]: seen.append((hidden > 0).float().mean((0, 2, 3)))))
        for step in range(len(sampler.config.scales)):
            predict(model, sampler(step, range(count)))
    return {name: torch.stack(seen).mean(0) for name, seen in shares.items()}


@torch.no_grad()
def revive(model, sampler, least=0.01):
    """Give the silent hidden units of the prior another life, and say how many got one: an int.

    A unit that is above zero in less than `least` of all places hears no gradient there, and hardly ever will. It gets
    a new filter, as strong as those of its neighbours, and what it says counts for nothing at first: the function
    stays the one it would be without the silent units. (Sokar et al., "The Dormant Neuron Phenomenon in Deep
    Reinforcement Learning", ICML 2023, recycle so.) Draws from PyTorch's generator, seeded with sampler.config.seed.
    """
    total = 0
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(sampler.config.seed)
        for name, share in activity(model, sampler).items():
            silent = share < least
            if silent.any() and not silent.all():
                total += int(silent.sum())
                block = model.get_submodule(name)
                heard = block.conv1.weight[~silent]
                fresh = torch.randn(int(silent.sum()), *heard.shape[1:])
                block.conv1.weight[silent] = fresh.to(heard) * heard.square().mean().sqrt()
                block.conv2.weight[:, silent] = 0
    return total


def _load(config, weights):
    """A network to train on: from weights of its own or of a smaller one, or born around a denoiser."""
    if not config.iterations:
        return widened(load_denoiser(weights), config)
    try:
        denoiser = load_denoiser(weights)
    except ValueError:                      # of what is neither, load_usrnet says what is wrong
        return widened(load_usrnet(weights), config)
    return new_model(config, denoiser)


def _shapes(model):
    return {name: weight.shape for name, weight in model.named_parameters()}


def predict(model, batch, bf16=False):
    """The model's guess at batch.x: a USRNet is asked to invert the degradation, a ResUNet to denoise."""
    with trusted_values(), torch.autocast(batch.y.device.type, torch.bfloat16, enabled=bf16):
        module = getattr(model, "module", model)
        return model(batch.y, batch.sigma) if isinstance(module, ResUNet) else \
            model(batch.y, batch.k, batch.scale, batch.sigma)


@torch.no_grad()
def held_out_psnr(model, photographs, config, count=16):
    """Mean PSNR in dB at each scale of config, from the least, over `count` crops of photographs held out: floats."""
    scales = sorted(set(config.scales))
    sampler = Sampler(photographs, replace(config, seed=HELD_OUT_SEED, scales=scales))
    batches = (sampler(step, range(count)) for step in range(len(scales)))
    return [psnr(predict(model, batch).clamp(0, 1), batch.x) for batch in batches]


COLUMNS = ("step", "seconds", "loss", "gradient_norm", "learning_rate", "images_per_second", "held_out_psnr")


def run(trainer, held_out, out, *, resume=False, time_limit=math.inf, report_every=100, save_every=1000):
    """Train to the end of trainer.config, or stop with a checkpoint while `time_limit`, in seconds, is not yet over.

    It stops where the next `report_every` steps and a save, as long as the last ones, would not fit any more; the first
    are made in any case.
    held_out: Photographs to measure on. out: folder for checkpoint.pt, log.csv, and the averaged weights with their
    card. resume: continue from the checkpoint there. report_every, save_every: steps, the second a multiple of the
    first, and that enough for a steady mean: a loss of three times its least is taken for divergence. Of several
    processes the first writes. Returns True where the run is complete.
    Raises `Diverged`, with the last good checkpoint left in place; FileExistsError, ValueError.
    """
    out, config, begin = Path(out), trainer.config, time.perf_counter()
    checkpoint, log = out / "checkpoint.pt", out / "log.csv"
    check_run(out, resume, report_every, save_every)
    Sampler(held_out, config)                # refuses pictures that are too small now, not at the first save
    rows = []
    if resume:
        try:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            with log.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= state["done"]]
            if trainer.state().keys() - state.keys() or not rows:
                raise ValueError("something is missing")
        except Exception as error:           # torch.load raises whatever the bytes lead it to
            raise ValueError(f"out must hold a whole checkpoint and its log; {checkpoint} or {log.name} is damaged, or "
                             f"of something else ({type(error).__name__})") from error
        trainer.restore(state)
    out.mkdir(parents=True, exist_ok=True)

    saving = 0.0                             # seconds that the last save took
    pause = 0.1 if sys.stderr.isatty() else 60      # seconds: a file is not to be filled with bars
    progress = tqdm(total=config.steps, initial=trainer.done, unit="step", mininterval=pause, disable=trainer.rank > 0)
    while trainer.done < config.steps:
        start = time.perf_counter()
        steps = min(report_every - trainer.done % report_every, config.steps - trainer.done)
        for _ in range(steps):
            trainer.step()
            progress.update()
        loss, norm = trainer.report()
        best = min((float(row["loss"]) for row in rows), default=math.inf)
        if steps == report_every and trainer.done > config.warmup and loss > 3 * best:
            raise Diverged(f"the mean loss has been {best:.4f} and is {loss:.4f} at step {trainer.done}: it "
                           "diverges, or report_every is too small for a steady mean")
        duration = time.perf_counter() - start
        trainer.seconds += duration
        late = not time.perf_counter() - begin + duration + saving <= time_limit         # NaN is no time
        stop = trainer.agree(late) or trainer.done == config.steps
        saves = stop or trainer.done % save_every == 0
        measured = time.perf_counter()
        scores = [f"{value:.3f}" for value in held_out_psnr(trainer.averaged, held_out, config)] if saves else []
        speed = steps * config.batch / duration
        progress.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s")
        rate = config.rate(trainer.done - 1)
        values = (trainer.done, f"{trainer.seconds:.1f}", f"{loss:.6f}", f"{norm:.4f}", f"{rate:.3e}", f"{speed:.1f}")
        rows.append(dict(zip(COLUMNS, (*values, " ".join(scores)), strict=True)))
        if trainer.rank == 0:
            replace_file(log, _as_csv(rows))
            if saves:
                # The checkpoint last: if a kill comes between the two, resuming writes the weights again.
                save_weights(trainer.averaged, out / "weights.safetensors", card(trainer, rows))
                buffer = io.BytesIO()
                torch.save(trainer.state(), buffer)
                replace_file(checkpoint, buffer.getvalue())
        if saves:
            saving = time.perf_counter() - measured
        if stop:
            break
    progress.close()
    return trainer.done == config.steps


def check_run(out, resume, report_every, save_every):
    """What `run` refuses and can be told before the photographs are read; arguments and errors as there."""
    check_count("report_every", report_every)
    check_count("save_every", save_every)
    if save_every % report_every:
        raise ValueError(f"save_every must be a multiple of report_every, {report_every}; got {save_every}")
    checkpoint = Path(out, "checkpoint.pt")
    there = next(each for each in checkpoint.parents if each.exists())     # out, or what it would be made in
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"out must be a folder to write in; {there} is not")
    if resume and not checkpoint.is_file():
        raise ValueError(f"out must hold the checkpoint to resume from; {out} does not")
    if not resume and (checkpoint.exists() or checkpoint.with_name("weights.safetensors").exists()):
        raise FileExistsError(f"out holds a training already, in {out}: resume it, if its checkpoint is there, "
                              "or choose another folder")


def _as_csv(rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def card(trainer, rows):
    """What a user should know of the weights, as a dict: architecture, data, code, hardware, schedule, curve."""
    device, config = trainer.sampler.device, trainer.config
    return {
        "architecture": type(trainer.model).__name__,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "config": asdict(config),
        "steps_done": trainer.done,
        "continued_from": trainer.origin,
        "photographs": trainer.sampler.photographs.source,
        "low_resolution": f"{config.eight_bit:.0%} of the samples blurred to 8 bits and truncated, the rest in float"
        if config.iterations else "none: white noise is added to photographs",
        "commit": trainer.commit,
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else
        f"CPU, {torch.get_num_threads()} threads, {platform.machine()}",
        "processes": trainer.world,
        "torch": torch.__version__,
        "hours": round(trainer.seconds / 3600, 2),
        "held_out_psnr": {row["step"]: row["held_out_psnr"] for row in rows if row["held_out_psnr"]},
    }


def _commit():
    """The commit of the code that runs, with "-dirty" where it was changed since; "unknown" outside its repository."""
    root, commit = Path(__file__).parents[1], ""
    here = [f"--git-dir={root / '.git'}", f"--work-tree={root}"]         # and no other repository around an environment
    with suppress(OSError):                                              # there is no git
        commit = subprocess.run(["git", *here, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
                                capture_output=True, text=True, check=False).stdout.strip()
    return commit or "unknown"


def main(arguments=None):
    """The command line: `python -m usrlib.training --help`."""
    parser = argparse.ArgumentParser(prog="python -m usrlib.training", description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", nargs="+", required=True,
                        help="folders or tar files of photographs; NAME_1_2 is taken for a tile of the photograph NAME")
    parser.add_argument("--config", choices=CONFIGS, default="tiny", help="what to train (default: tiny)")
    parser.add_argument("--out", required=True, help="folder for the checkpoint, the log, the weights and their card")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--weights", help="start from these weights, a name or a file; those of a denoiser will do, "
                                          "or of a smaller network")
    parser.add_argument("--revive", action="store_true", help="give silent units of these weights another life first")
    parser.add_argument("--time-limit", type=float, default=math.inf,
                        help="stop, resumable, at the last report within so many seconds; decoding is not counted")
    parser.add_argument("--report-every", type=int, default=100, help="steps between lines of the log (default: 100)")
    parser.add_argument("--save-every", type=int, default=1000,
                        help="steps between checkpoints, a multiple of --report-every (default: 1000)")
    devices = ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)
    parser.add_argument("--device", choices=devices, default=devices[0], help="cuda where there is one, or cpu")
    parser.add_argument("--compile", action="store_true", help="compile the prior with torch.compile")
    group = parser.add_argument_group("instead of the configuration's own values")
    for entry in fields(Config):
        kind = type(entry.default)
        options = {"type": int, "nargs": "+"} if kind is tuple else \
            {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        group.add_argument(f"--{entry.name.replace('_', '-')}", **options,
                           help=f"{entry.metadata['help']} (tiny: {entry.default})")
    options = parser.parse_args(arguments)
    given = {entry.name: getattr(options, entry.name) for entry in fields(Config)}
    try:
        device = _join(options.device)
        config = replace(CONFIGS[options.config], **{name: value for name, value in given.items() if value is not None})
        if options.revive and options.weights is None:
            raise ValueError("--revive goes with --weights: it is for units that training has silenced")
        model = origin = None
        if options.weights is not None and not options.resume:      # a checkpoint holds what became of them
            model, origin = _load(config, options.weights).to(device), read_card(options.weights)
        check_run(options.out, options.resume, options.report_every, options.save_every)
        photographs, held_out = read_photographs(options.images, device)
        if options.revive and model is not None:
            origin = (origin or {}) | {"revived": revive(model, Sampler(photographs, config))}
        trainer = Trainer(config, photographs, model, origin)
        if trainer.rank == 0:
            print(f"trained on: {photographs.source}; held out: {held_out.source}")
        if options.compile:
            getattr(trainer.model, "prior", trainer.model).compile()
        complete = run(trainer, held_out, options.out, resume=options.resume, time_limit=options.time_limit,
                       report_every=options.report_every, save_every=options.save_every)
    except (ValueError, TypeError, OSError, Diverged) as error:
        line = str(error).replace("name_or_path", "--weights")
        raise SystemExit(f"{parser.prog}: {line}") from error
    except KeyboardInterrupt:
        raise SystemExit("interrupted; --resume goes on from the last checkpoint (see --save-every)") from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    if trainer.rank == 0:
        print(f"{'complete' if complete else 'stopped, to be resumed'} at step {trainer.done}, in {options.out}")


def _join(device):
    """The device of this process, which joins the others where torchrun started it."""
    if "WORLD_SIZE" in os.environ:
        if device == "cuda":
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
        dist.init_process_group("gloo" if device == "cpu" else "nccl")
    return device


if __name__ == "__main__":
    main()
