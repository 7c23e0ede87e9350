"""What every public function asks of its arguments, in one place.

Each check returns nothing and raises TypeError or ValueError with a message that names the argument, what
was given and what is expected. They are called where a call enters the library, not again in its iterations.
"""

import math
import sys
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral, Real

import torch

_values_are_trusted = ContextVar("values are trusted", default=False)       # of this thread or task alone


@contextmanager
def trusted_values():
    """Inside, tensors are not searched for NaN and the like: on a GPU every such look waits for all that is queued.

    torch.func.vmap, of the operators, and torch.export need it, too. Under torch.compile it is so without it.
    """
    token = _values_are_trusted.set(True)
    try:
        yield
    finally:
        _values_are_trusted.reset(token)


def _values_are_hidden():
    return torch.compiler.is_compiling() or _values_are_trusted.get()    # in this order: no compiler follows the second


@contextmanager
def refusing(what, *others):
    """Inside, any error but `others` becomes a ValueError "what: why": a file leads libraries to raise anything."""
    try:
        yield
    except others:
        raise
    except Exception as error:
        why = getattr(error, "strerror", None) or error         # of an OSError without the file's name: `what` has it
        raise ValueError(f"{what}: {why}") from error


def check_image(name, x, layout="(N, C, H, W)"):
    """A float tensor (N, C, H, W), or of another layout of four axes, finite and not empty."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a torch tensor {layout}; got {type(x).__name__}")
    if x.ndim != 4:
        raise ValueError(f"{name} must have shape {layout}; got {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64; got {x.dtype}")
    if x.numel() == 0:
        raise ValueError(f"{name} must not be empty; got {tuple(x.shape)}")
    # The two ends tell of NaN as well, in a tenth of the time and none of the memory that asking every value takes.
    if not _values_are_hidden() and not torch.stack([x.detach().amin(), x.detach().amax()]).isfinite().all():
        raise ValueError(f"{name} must be finite; it holds NaN or infinity")


def check_kernel(k, batch=None, shape=None):
    """A float tensor (N or 1, 1, h, w), finite, not empty, of any sum; one for a batch or one each, none larger."""
    check_image("k", k, "(N or 1, 1, h, w)")
    if k.shape[1] != 1:
        raise ValueError(f"k must have shape (N or 1, 1, h, w): one kernel for all channels; got {tuple(k.shape)}")
    if batch is not None and k.shape[0] not in (1, batch):
        raise ValueError(f"k must hold one kernel or one for each of the {batch} images; got {k.shape[0]}")
    if shape is not None and (k.shape[-2] > shape[0] or k.shape[-1] > shape[1]):
        raise ValueError(f"k must not be larger than the image, {shape[0]}x{shape[1]}; got {tuple(k.shape)}")


def check_kernel_sum(name, k):
    """Warn of a kernel that would make the picture brighter or darker."""
    if not _values_are_hidden() and ((k.sum(dim=(-2, -1)) - 1).abs() > 1e-3).any():
        _warn(f"{name} should sum to 1; it sums to {k.sum(dim=(-2, -1)).flatten().tolist()}")


def check_same_images(name, x, other_name, other):
    """Two image tensors of one dtype, on one device, that agree in N and C."""
    if x.dtype != other.dtype or x.device != other.device:
        raise TypeError(
            f"{name} and {other_name} must share dtype and device; "
            f"got {x.dtype} on {x.device} and {other.dtype} on {other.device}"
        )
    if x.shape[:2] != other.shape[:2]:
        raise ValueError(f"{name} and {other_name} must share N and C; got {tuple(x.shape)} and {tuple(other.shape)}")


def check_divisible(name, x, scale):
    """Height and width are multiples of scale, so that every block has its upper-left pixel."""
    if x.shape[-2] % scale or x.shape[-1] % scale:
        raise ValueError(f"{name} must have sides that are multiples of scale {scale}; got {tuple(x.shape)}")


def check_number(name, value):
    """A finite number of either sign."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a finite number; got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number; got {value}")


def check_level(name, value, *, positive=False, batch=None, look=True):
    """A finite number >= 0 (> 0 where positive), or a tensor of one, or where batch is given (1 or batch, 1, 1, 1).

    look: also at the values of a tensor, for which a GPU would have to wait: not inside a loop.
    """
    bound = "above 0" if positive else "of at least 0"
    if isinstance(value, torch.Tensor):
        if not value.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor; got {value.dtype}")
        if value.ndim and (batch is None or value.shape not in ((1, 1, 1, 1), (batch, 1, 1, 1))):
            shape = f" or have shape (1 or {batch}, 1, 1, 1)" if batch else ""
            raise ValueError(f"{name} must be a number{shape}; got a tensor of shape {tuple(value.shape)}")
        if not look or _values_are_hidden():
            return
        low = value.detach().min()
        if not torch.isfinite(value).all() or low < 0 or (positive and low == 0):
            raise ValueError(f"{name} must hold only finite numbers {bound}; got {value.flatten().tolist()}")
    elif isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a finite number {bound}; got {value!r}")
    elif not 0 <= value < math.inf or (positive and value == 0):     # torch.compile cannot follow math.isfinite
        raise ValueError(f"{name} must be a finite number {bound}; got {value}")


def check_grey_levels(name, y):
    """A warning where a picture, expected in [0, 1] but for noise, looks like one of 0 to 255."""
    if not _values_are_hidden() and y.abs().max() > 10:
        _warn(f"{name} is expected in [0, 1], which black and white are; it reaches {y.abs().max():g}")


def check_resolved(name, value, dtype, *, batch):
    """A level above 0 as for `check_level` that does not vanish in the precision of the picture."""
    check_level(name, value, positive=True, batch=batch)
    if not _values_are_hidden() and torch.as_tensor(value, dtype=dtype).min() < torch.finfo(dtype).tiny:
        raise ValueError(f"{name} must be large enough not to vanish in {dtype}; got {value}")


def check_noise(name, sigma, *, batch=None):
    """A level as for `check_level`, on the scale of pictures in [0, 1]; a warning where it looks like 255ths."""
    check_level(name, sigma, batch=batch)
    if not _values_are_hidden() and (sigma.max() if isinstance(sigma, torch.Tensor) else sigma) > 1:
        _warn(f"{name} is on the scale of the picture, [0, 1]: 2.55 grey levels are 2.55 / 255")


def check_count(name, value, least=1):
    """An integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer of at least {least}; got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be an integer of at least {least}; got {value}")


def check_counts(name, values, least=1):
    """A tuple or list of such integers, not empty."""
    if not isinstance(values, (tuple, list)) or not values:
        raise TypeError(f"{name} must hold at least one integer; got {values!r}")
    for value in values:
        check_count(name, value, least)


def check_shape(name, shape, least):
    """Two integers, rows and columns, not below `least`, which is such a pair as well."""
    if not isinstance(shape, (tuple, list)) or len(shape) != 2 or not all(isinstance(n, Integral) for n in shape):
        raise TypeError(f"{name} must be two integers, rows and columns; got {shape!r}")
    if shape[0] < least[0] or shape[1] < least[1]:
        raise ValueError(f"{name} must be at least {tuple(least)}; got {tuple(shape)}")


def check_generator(generator):
    """None or a torch.Generator."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None; got {type(generator).__name__}")


def check_pair(name, pair, *, positive=False):
    """Two finite numbers, above 0 where positive."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"{name} must be two numbers; got {pair!r}")
    for value in pair:
        check_number(name, value)
        if positive:
            check_level(name, value, positive=True)


def check_choice(name, value, choices):
    """One of a few names."""
    if value not in tuple(choices):         # in a dict, what cannot be hashed would be another error
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def _warn(message):
    """A warning that points at the line outside the library, and outside PyTorch, from which the call came."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("usrlib", "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
