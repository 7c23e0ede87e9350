"""How far one image is from another: PSNR and SSIM, with the choices that a protocol makes in the open."""

import torch
from skimage.metrics import structural_similarity

from .validation import check_count, check_image, check_same_images


def psnr(a, b, border=0):
    """Peak signal-to-noise ratio in decibels, 10 log10(1 / mean (a - b)^2), averaged over the images.

    a, b: (N, C, H, W) in [0, 1], compared as they are (`quantize` and `luma` first, where a protocol says so).
    border: pixels left out on every side. Returns a float; equal images give infinity.
    """
    a, b = _cropped_pair(a, b, border)
    return (-10 * (a - b).square().mean(dim=(1, 2, 3)).log10()).mean().item()


def ssim(a, b, border=0):
    """Structural similarity (Wang et al. 2004: Gaussian window of width 1.5), averaged over channels and images.

    a, b: (N, C, H, W) in [0, 1], at least 11x11 inside the border, or ValueError. Computed by scikit-image, on the CPU.
    Returns a float.
    """
    a, b = _cropped_pair(a, b, border)
    if min(a.shape[-2:]) < 11:
        left = "x".join(map(str, a.shape[-2:]))
        raise ValueError(f"border must leave 11x11 pixels of a and b, the window of SSIM; it leaves {left}")
    return float(structural_similarity(
        a.flatten(0, 1).numpy(force=True), b.flatten(0, 1).numpy(force=True), channel_axis=0, data_range=1.0,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    ))


def quantize(x):
    """Round to the 256 grey levels of an 8-bit file, as published figures do before PSNR. (N, C, H, W) in and out."""
    check_image("x", x)
    return (x.clamp(0, 1) * 255).round() / 255


def luma(x):
    """The Y channel of ITU-R BT.601 as MATLAB's rgb2ycbcr gives it, 16/255 to 235/255: (N, 3, H, W) -> (N, 1, H, W)."""
    check_image("x", x)
    if x.shape[1] != 3:
        raise ValueError(f"x must have 3 channels, red, green and blue; got {x.shape[1]}")
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=x.dtype, device=x.device)
    return ((x * weights.view(1, 3, 1, 1)).sum(1, keepdim=True) + 16) / 255


def _cropped_pair(a, b, border):
    check_image("a", a)
    check_image("b", b)
    check_same_images("a", a, "b", b)
    check_count("border", border, least=0)
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape; got {tuple(a.shape)} and {tuple(b.shape)}")
    height, width = a.shape[-2:]
    if 2 * border >= min(height, width):
        raise ValueError(f"border must leave some pixels of {height}x{width}; got {border}")
    inside = (..., slice(border, height - border), slice(border, width - border))
    return a[inside], b[inside]
