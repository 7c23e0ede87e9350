"""From a kernel to its transfer function, and what decimation does to a spectrum.

All transforms are PyTorch's default: forward without a factor, inverse with 1/(HW).
"""

import torch

from .validation import check_count, check_divisible, check_kernel, check_shape


def embed(k, shape, reverse=False):
    """Lay a kernel on a grid of `shape` with its centre (h // 2, w // 2) on index (0, 0), wrapping around.

    (N, 1, h, w) -> (N, 1, H, W): the kernel as the circular convolution of H x W images sees it; with
    `reverse`, k[-n] in the place of k[n]. Not checked: for use inside the library.
    """
    height, width = k.shape[-2:]
    centre = height // 2, width // 2
    if reverse:
        k, centre = k.flip(-2, -1), (height - 1 - centre[0], width - 1 - centre[1])
    grid = k.new_zeros(*k.shape[:-2], *shape)
    grid[..., :height, :width] = k
    return grid.roll((-centre[0], -centre[1]), dims=(-2, -1))


def psf_to_otf(k, shape):
    """The transfer function of a kernel: the DFT of the kernel laid on an H x W grid, centre on (0, 0).

    k: (N, 1, h, w). shape: (H, W), at least (h, w). Returns complex (N, 1, H, W), the full spectrum.
    Multiplying an image's spectrum by it is circular convolution with k (equation 4.6 of the course).
    """
    check_kernel(k)
    check_shape("shape", shape, k.shape[-2:])
    return torch.fft.fft2(embed(k, shape))


def fold(spectrum, scale):
    """The paper's ⇓s: the mean of the s x s distinct blocks, (..., H, W) -> (..., H/s, W/s).

    If `spectrum` is the DFT of x, this is the DFT of x decimated by `scale` (equation 4.10 of the course).
    """
    check_count("scale", scale)
    check_divisible("spectrum", spectrum, scale)
    return spectrum.unflatten(-1, (scale, -1)).unflatten(-3, (scale, -1)).mean((-4, -2))
