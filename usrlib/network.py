"""USRNet: the splitting loop with a network as its prior, trained through all iterations.

    x_0 = y enlarged;   z_k = D(x_{k-1}, α_k),   x_k = P(z_k, β_k),   k = 1 ... K;   (α, β) = H(σ, s)

D is the data step of `data_step.py` and has no parameters. P is one denoiser for all iterations, H three small
layers (Zhang, Van Gool, Timofte, CVPR 2020, section 4). Derived and built by hand in notebook 05.
"""

import io
import json
import os
import re
from contextlib import suppress
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from safetensors.torch import load
from safetensors.torch import save as serialise
from torch import nn

from .data_step import DataStep
from .splitting import alternate
from .validation import check_count, check_counts, check_grey_levels, check_kernel_sum, check_level, check_noise

WEIGHTS = Path(__file__).parent / "weights"


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), 3x3, no biases."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(x)))


class ResUNet(nn.Module):
    """P, the prior: a U-shaped denoiser that is told the noise level.

    channels: width at full, half, quarter, ... size. blocks: residual blocks at each size, down and up.
    Nothing has a bias, and nothing but the blocks an activation: P(c z, c β) = c P(z, β) for c > 0.
    """

    def __init__(self, channels, blocks=2):
        super().__init__()
        steps = list(pairwise(channels))
        self.head = nn.Conv2d(4, channels[0], 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            nn.Sequential(*_blocks(fine, blocks), nn.Conv2d(fine, coarse, 2, stride=2, bias=False))
            for fine, coarse in steps
        )
        self.body = nn.Sequential(*_blocks(channels[-1], blocks))
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(coarse, fine, 2, stride=2, bias=False), *_blocks(fine, blocks))
            for fine, coarse in reversed(steps)
        )
        self.tail = nn.Conv2d(channels[0], 3, 3, padding=1, bias=False)
        self.to(memory_format=torch.channels_last)        # what the convolutions of CPUs and GPUs are fastest with

    def forward(self, z, beta):
        """z: (N, 3, H, W), noisy, in [0, 1]. beta: its noise level on that scale, a number or (1 or N, 1, 1, 1).

        Returns (N, 3, H, W), any H and W. Raises ValueError or TypeError where a shape or the dtype of z is another.
        """
        if z.ndim != 4 or z.shape[1] != 3:
            raise ValueError(f"z must have shape (N, 3, H, W); got {tuple(z.shape)}")
        if z.dtype != self.head.weight.dtype:
            raise TypeError(f"z must have the dtype of the denoiser, {self.head.weight.dtype}; got {z.dtype}")
        check_level("beta", beta, batch=z.shape[0], look=False)
        height, width = z.shape[-2:]
        multiple = 2 ** len(self.down)
        beta = torch.as_tensor(beta, dtype=z.dtype, device=z.device)
        x = torch.cat([z, beta.expand(z.shape[0], 1, height, width)], dim=1)
        if height % multiple or width % multiple:                     # torch.compile stumbles over padding by nothing
            x = F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        x = self.head(x.contiguous(memory_format=torch.channels_last))
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        x = x + self.body(x)
        for up in self.up:
            x = up(x) + skips.pop()
        return self.tail(x)[..., :height, :width].to(z.dtype)


def _blocks(channels, count):
    return [ResidualBlock(channels) for _ in range(count)]


class HyperParameterNet(nn.Module):
    """H: from noise level and scale to a penalty α_k and a noise level β_k for every iteration.

    Three fully connected layers, the last followed by softplus and + 1e-6: everything that comes out is above 0.
    """

    def __init__(self, iterations, hidden):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, 2 * iterations), nn.Softplus(),
        )

    def forward(self, sigma, scale):
        """sigma: (N, 1, 1, 1), on the scale of the image. scale: int. Returns α and β, each (K, N, 1, 1, 1)."""
        sigma = sigma.reshape(-1, 1)
        values = self.layers(torch.cat([sigma, torch.full_like(sigma, scale)], dim=1)) + 1e-6
        return values.T[..., None, None, None].chunk(2)


class USRNet(nn.Module):
    """Deep unfolding network for super-resolution: one model for every scale, kernel and noise level.

    iterations: K. channels, blocks: of the prior (`ResUNet`). hidden: width of H. The defaults are the paper's
    network of 17,016,016 parameters; its tiny one, of 590,332, is USRNet(6, (16, 32, 64, 64), hidden=32).
    Under torch.autocast only the prior runs in reduced precision; D and H keep the precision of y. On a GPU, PyTorch
    rounds the prior's convolutions to TF32 unless torch.backends.cudnn.allow_tf32 is False.
    """

    def __init__(self, iterations=8, channels=(64, 128, 256, 512), blocks=2, hidden=64):
        super().__init__()
        for name, value in (("iterations", iterations), ("blocks", blocks), ("hidden", hidden)):
            check_count(name, value)
        check_counts("channels", channels)
        self.prior = ResUNet(channels, blocks)
        self.hyper = HyperParameterNet(iterations, hidden)

    def forward(self, y, k, scale, sigma):
        """The restored picture x_K: (N, 3, scale h, scale w), in the dtype of the parameters.

        y: (N, 3, h, w) in [0, 1]. k: (1 or N, 1, kh, kw), sum 1, no larger than the result. scale: int >= 1.
        sigma: noise of y, on the scale of y: a number >= 0 or (N, 1, 1, 1).
        Raises ValueError or TypeError that names the argument; warns where k does not sum to 1 or y is in 0 to 255.
        """
        for step in self._unfold(y, k, scale, sigma):
            x = step.x
        return x

    def trajectory(self, y, k, scale, sigma):
        """Every iteration as a `Step` (z, x, alpha, beta), alpha and beta (N, 1, 1, 1). Arguments as for a call."""
        return list(self._unfold(y, k, scale, sigma))

    def _unfold(self, y, k, scale, sigma):
        solve = DataStep(y, k, scale)
        check_kernel_sum("k", k)
        check_grey_levels("y", y)
        if y.shape[1] != 3:
            raise ValueError(f"y must have 3 channels; got {y.shape[1]} (repeat a grey picture three times)")
        weight = self.prior.head.weight
        if y.dtype != weight.dtype or y.device != weight.device:
            raise TypeError("y must have the dtype and the device of the network, "
                            f"{weight.dtype} on {weight.device}; got {y.dtype} on {y.device}")
        check_noise("sigma", sigma, batch=y.shape[0])
        sigma = torch.as_tensor(sigma, dtype=y.dtype, device=y.device).expand(y.shape[0], 1, 1, 1)
        with torch.autocast(y.device.type, enabled=False):               # which leaves D as it is
            levels = zip(*self.hyper(sigma, scale), strict=True)
        start = F.interpolate(y, scale_factor=scale, mode="nearest")
        start = start.contiguous(memory_format=torch.channels_last)      # as the prior's results: compiled once for all
        return alternate(solve, start, self.prior, levels)


def use_all_digits():
    """Turn TF32 off for good: on a GPU, what is in float32 is computed in float32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def save_weights(model, path, card):
    """Write weights as `path` (.safetensors) and their card beside it (.json), with the SHA-256 of the weights.

    model: a USRNet or ResUNet; its tensors keep their dtype. card: a dict of whatever a user should know of them.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors; got {str(path)!r}")
    data = serialise({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    replace_file(path, data)
    write_json(path.with_suffix(".json"), card | {"sha256": sha256(data).hexdigest()})


def write_json(path, value):
    """Write a value as JSON, as `replace_file` does."""
    replace_file(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def replace_file(path, data):
    """Write a file so that a kill leaves either the old one or the new one, whole."""
    draft = path.with_suffix(path.suffix + ".draft")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error     # the disk may be full: of what, and where


def load_usrnet(name_or_path):
    """A trained USRNet, float32 on the CPU, in evaluation mode, its parameters frozen.

    name_or_path: the name of weights that come with the library ("tiny"), or a file: .safetensors, or the
    authors' .pth. The architecture is read off the tensors. Bundled weights, and any with a card beside them, must
    have the SHA-256 that the card gives. Nothing in a file is ever executed.
    Raises ValueError where there is no such file, or it is damaged, altered or no USRNet; TypeError for no path.
    """
    def build(state):
        hidden, iterations = state["hyper.layers.0.weight"].shape[0], state["hyper.layers.4.weight"].shape[0] // 2
        return USRNet(iterations, *_shape(state, "prior."), hidden)
    return _load(name_or_path, build, "USRNet")


def load_denoiser(name_or_path):
    """A ResUNet trained alone, to remove white noise of a level that it is told ("denoiser"); else as `load_usrnet`."""
    return _load(name_or_path, lambda state: ResUNet(*_shape(state)), "denoiser")


def _load(name_or_path, build, what):
    path = find_weights(name_or_path)
    state = _read(path)
    try:
        with torch.device("meta"):                      # nothing is drawn for weights that are not kept
            model = build(state)
        model.load_state_dict({key: tensor.clone() for key, tensor in state.items()}, assign=True)   # some share memory
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ValueError(f"name_or_path must hold the weights of a {what}; {path.name} does not: {reason}") from error
    return model.to(torch.float32, memory_format=torch.channels_last).requires_grad_(False).eval()


def _shape(state, prefix=""):
    """Channels and blocks of the ResUNet whose tensors begin with `prefix`."""
    blocks = len([key for key in state if re.fullmatch(rf"{prefix}body\.\d+\.conv1\.weight", key)])
    strided = [key for key in state if re.fullmatch(rf"{prefix}down\.\d+\.{blocks}\.weight", key)]
    strided.sort(key=lambda key: (len(key), key))                       # down.10 after down.2
    return [state[key].shape[0] for key in (f"{prefix}head.weight", *strided)], blocks


def read_card(name_or_path):
    """The card of weights as a dict, or None where they have none. Arguments and errors as for `load_usrnet`."""
    path = find_weights(name_or_path).with_suffix(".json")
    if not path.is_file():
        return None
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        card = None
    if not isinstance(card, dict):
        raise ValueError(f"name_or_path: {path.name}, beside the weights, is no card")
    return card if "sha256" in card else None           # results of `evaluation`, say


def find_weights(name_or_path):
    """The file meant by a name or a path, as for `load_usrnet`."""
    if not isinstance(name_or_path, (str, Path)):
        raise TypeError(f"name_or_path must be a name or a path; got {type(name_or_path).__name__}")
    for path in (WEIGHTS / f"{name_or_path}.safetensors", Path(name_or_path)):
        if path.is_file():
            return path
    known = ", ".join(sorted(file.stem for file in WEIGHTS.glob("*.safetensors")))
    raise ValueError(f"name_or_path must be one of {known}, or a file; got {str(name_or_path)!r}")


def _read(path):
    """The tensors of a file by the names of this module."""
    card, data = read_card(path), path.read_bytes()      # once: a training may be replacing the file
    if card is not None and card["sha256"] != sha256(data).hexdigest():
        raise ValueError(f"name_or_path: {path.name} is not the file that its card {path.stem}.json describes")
    try:
        if path.suffix == ".safetensors":
            state = load(data)
        else:
            state = _from_authors(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
        odd = [key for key, tensor in state.items() if not tensor.is_floating_point() or not tensor.isfinite().all()]
    except UnpicklingError as error:              # PyTorch's message recommends to execute what is in the file
        raise ValueError(f"name_or_path: {path.name} is no file of tensors alone, and nothing else is read") from error
    except MemoryError:
        raise                                     # the command line says so
    except Exception as error:                    # torch.load raises whatever the bytes lead it to
        reason = " ".join(str(error).split()) if path.suffix == ".safetensors" else type(error).__name__
        raise ValueError(f"name_or_path: {path.name} is damaged or no file of weights: {reason}") from error
    if odd:
        raise ValueError(f"name_or_path: {path.name} holds values in {odd[0]} that are not finite numbers")
    return state


# The authors' names and ours. Their upward path counts from fine to coarse, ours in the order of execution.
_AUTHORS = (
    (r"p\.m_(head|tail|body)\.", r"prior.\1."),
    (r"p\.m_down(\d)\.", lambda found: f"prior.down.{int(found[1]) - 1}."),
    (r"p\.m_up(\d)\.", lambda found: f"prior.up.{3 - int(found[1])}."),
    (r"\.res\.(0|2)\.", lambda found: f".conv{1 + int(found[1]) // 2}."),
    (r"h\.mlp\.", "hyper.layers."),
)


def _from_authors(state):
    """The authors' state dict under our names; their fully connected layers are 1x1 convolutions."""
    renamed = {}
    for key, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{key} is no tensor")
        for pattern, name in _AUTHORS:
            key = re.sub(pattern, name, key)
        renamed[key] = tensor.flatten(1) if key.startswith("hyper.") and tensor.ndim == 4 else tensor
    return renamed
