"""Half-quadratic splitting: the loop that USRNet unrolls, with any prior in the place of the network.

E(x) = |y - Ax|^2 / (2 σ^2) + λ Φ(x) is minimised through a second copy z of x and a penalty μ |z - x|^2 / 2:
the data step sees y and A only, the prior step is a denoiser for noise level β = sqrt(λ / μ).
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

from .data_step import DataStep
from .degradation import bicubic_upsample
from .validation import check_count, check_grey_levels, check_image, check_level, check_noise

# With σ = 0 the data step would need α = 0. Rounding of relative size 2^-24 in y comes out of it magnified by at
# most 1 / (2 sqrt(α)); this floor keeps that under 1e-4, a fortieth of a grey level (notebook 03, section 3.6).
ALPHA_FLOOR = 1e-7


class Step(NamedTuple):
    """One iteration: z from the data step, x from the prior, and the α and β they were given."""

    z: torch.Tensor
    x: torch.Tensor
    alpha: float | torch.Tensor
    beta: float | torch.Tensor


def penalties(lam, beta_first, beta_last, iterations):
    """The path μ_1, ..., μ_K for which β_k = sqrt(lam / μ_k) goes from beta_first to beta_last by equal factors.

    lam, beta_first, beta_last: floats above 0. iterations: K >= 1. Returns a list of K floats.
    """
    for name, value in (("lam", lam), ("beta_first", beta_first), ("beta_last", beta_last)):
        check_level(name, value, positive=True)
    check_count("iterations", iterations)
    return [lam / beta**2 for beta in np.geomspace(beta_first, beta_last, iterations).tolist()]


# For a trained denoiser as the prior, chosen for the best mean PSNR on 3 photographs that it was not trained on, with
# 3 kernels, 8-bit y and five rows (×2, ×3, ×4 without noise, ×3 with 2.55 and 7.65). Rounding to 8 bits is noise, too.
ROUNDING = 1 / (255 * math.sqrt(12))
PNP_LAM, PNP_FIRST, PNP_LAST = 0.12, 49 / 255, 4 / 255             # tried: 0.05 to 2, 25 to 100, 1 to 7


def plug_and_play_path(sigma, iterations):
    """(lam, mu) for `hqs` with a trained denoiser: β falls from PNP_FIRST to sigma, PNP_LAST at the least."""
    return PNP_LAM, penalties(PNP_LAM, max(sigma, PNP_FIRST), max(sigma, PNP_LAST), iterations)


def hqs(y, k, scale, sigma, prior, lam, mu):
    """Alternate data step and prior along a path of penalties: an iterator of `Step`, one for each entry of mu.

    y: (N, C, h, w). k: (1 or N, 1, kh, kw). sigma: noise of y, a number >= 0. prior: any callable (z, beta) -> x of the
    same shape. lam: weight of the prior, > 0. mu: the penalties, numbers > 0, such as `penalties` gives.
    Starts from the aligned bicubic enlargement of y. alpha = mu sigma^2, or ALPHA_FLOOR where that is larger, and
    beta = sqrt(lam / mu) (Zhang et al. 2020, equations 4 to 6). All arguments are checked here, before the first step:
    ValueError or TypeError that names one.
    """
    solve = DataStep(y, k, scale)
    check_grey_levels("y", y)
    check_noise("sigma", sigma)
    check_level("lam", lam, positive=True)
    if not callable(prior):
        raise TypeError(f"prior must be callable, prior(z, beta) -> x; got {type(prior).__name__}")
    try:
        path = list(mu)
    except TypeError:
        raise TypeError(f"mu must be a sequence of numbers above 0; got {mu!r}") from None
    if not path:
        raise ValueError("mu must hold at least one number above 0; it is empty")
    for mu_k in path:
        check_level("mu", mu_k, positive=True)
    return alternate(solve, bicubic_upsample(y, scale), prior, levels(float(sigma), lam, path))


def levels(sigma, lam, mu):
    """(alpha, beta) for every penalty of mu: alpha = mu sigma^2, at least ALPHA_FLOOR, and beta = sqrt(lam / mu)."""
    return [(max(mu_k * sigma**2, ALPHA_FLOOR), math.sqrt(lam / mu_k)) for mu_k in mu]


def alternate(solve, x, prior, path):
    """The loop itself, from x on: a `Step` for every (alpha, beta) of path. Notebook 05 trains it."""
    for alpha, beta in path:
        z = solve(x, alpha)
        x = prior(z, beta)
        if not isinstance(x, torch.Tensor) or x.shape != z.shape or x.dtype != z.dtype:
            raise TypeError("prior must return a tensor of the shape and dtype of z")
        yield Step(z, x, alpha, beta)


def total_variation(z, beta, iterations=100):
    """The prior step for Φ = total variation: argmin_x |z - x|^2 / 2 + beta^2 TV(x), channel by channel.

    The Rudin-Osher-Fatemi problem with weight beta^2, by Chambolle's projections (scikit-image), on the CPU,
    not differentiable. z: (N, C, H, W). beta: number >= 0. iterations: more is closer to exact.
    """
    return _each_image(z, beta, lambda image, beta: denoise_tv_chambolle(
        image, weight=max(beta**2, 1e-12), eps=0, max_num_iter=iterations, channel_axis=-1))


def wavelets(z, beta):
    """Soft thresholding of wavelet coefficients (scikit-image: db4, BayesShrink), noise level beta: plug and play.

    On the CPU, not differentiable. z: (N, C, H, W). beta: number >= 0.
    """
    return _each_image(z, beta, lambda image, beta: denoise_wavelet(
        image, sigma=max(beta, 1e-6), wavelet="db4", channel_axis=-1, rescale_sigma=False))


def nonlocal_means(z, beta):
    """Non-local means (scikit-image: patches 5x5, search 13x13) for noise of level beta: plug and play.

    On the CPU, not differentiable. z: (N, C, H, W). beta: number >= 0.
    """
    return _each_image(z, beta, lambda image, beta: denoise_nl_means(
        image, patch_size=5, patch_distance=6, h=0.8 * max(beta, 1e-6), sigma=beta, channel_axis=-1))


def _each_image(z, beta, denoise):
    check_image("z", z)
    check_level("beta", beta)
    arrays = z.detach().permute(0, 2, 3, 1).cpu().numpy()
    results = [denoise(image, float(beta)).reshape(image.shape) for image in arrays]   # it may drop a lone channel
    return torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2).to(z)
