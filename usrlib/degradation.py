"""The degradation y = (x ⊗ k)↓s + n and its adjoint; bicubic resizing, its relative and its baseline."""

import torch

from .fourier import embed
from .kernels import bicubic_taps, keys_cubic
from .validation import check_count, check_divisible, check_generator, check_image, check_kernel, check_noise


def blur(x, k):
    """x ⊗ k: circular convolution (the kernel flipped, its centre at (h // 2, w // 2)).

    x: (N, C, H, W). k: (1 or N, 1, h, w), no larger than x. Returns (N, C, H, W).
    """
    return _filter(x, k, adjoint=False)


def blur_adjoint(x, k):
    """The adjoint of `blur`, circular correlation with k: <blur(z, k), x> = <z, blur_adjoint(x, k)>; else as `blur`."""
    return _filter(x, k, adjoint=True)


def downsample(x, scale):
    """x↓s: keep the upper-left pixel of every scale x scale block. (N, C, H, W) -> (N, C, H/scale, W/scale)."""
    check_image("x", x)
    check_count("scale", scale)
    check_divisible("x", x, scale)
    return x[..., ::scale, ::scale]


def upsample_zeros(y, scale):
    """y↑s, the adjoint of `downsample`: y on the upper-left pixels, zero elsewhere. (N, C, h, w) -> (N, C, sh, sw)."""
    check_image("y", y)
    check_count("scale", scale)
    x = y.new_zeros(*y.shape[:2], y.shape[2] * scale, y.shape[3] * scale)
    x[..., ::scale, ::scale] = y
    return x


def degrade(x, k, scale, sigma=0.0, generator=None):
    """y = (x ⊗ k)↓s + n, n white Gaussian noise (Zhang et al. 2020, equation 1).

    x: (N, C, H, W) in [0, 1], sides multiples of scale. k: (1 or N, 1, h, w). sigma: standard deviation of the
    noise on the scale of x, a number or (N, 1, 1, 1). generator: a torch.Generator, for noise that can be made
    again; it is drawn where sigma is 0, too. Returns (N, C, H/scale, W/scale), not clipped.
    """
    y = downsample(blur(x, k), scale)
    check_noise("sigma", sigma, batch=len(y))
    check_generator(generator)
    device = y.device if generator is None else generator.device          # the same noise, wherever x is
    noise = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=device)
    return y + torch.as_tensor(sigma, dtype=y.dtype, device=y.device) * noise.to(y.device)


def bicubic_downsample(x, scale):
    """MATLAB-style imresize(x, 1/scale, "bicubic"): antialiased, a = -1/2, half-pixel centres, symmetric borders.

    (N, C, H, W) -> (N, C, H/scale, W/scale). Away from the borders it equals blur with
    `bicubic_kernel(scale)` and decimation.
    """
    check_image("x", x)
    check_count("scale", scale)
    check_divisible("x", x, scale)
    reach = 3 * scale                                         # holds 2 scale + (scale - 1) / 2
    taps = bicubic_taps(scale, 2 * reach + 1).to(x).flip(0)   # a convolution reads from the last to the first
    padded = _pad_symmetric(x, reach)
    rows = sum(tap * padded[..., n : n + x.shape[-2] : scale, :] for n, tap in enumerate(taps))
    return sum(tap * rows[..., n : n + x.shape[-1] : scale] for n, tap in enumerate(taps))


def bicubic_upsample(y, scale):
    """Bicubic enlargement that puts y on the pixels that decimation kept: x[s i, s j] = y[i, j].

    The only fair bicubic baseline for y = (x ⊗ k)↓s + n with a centred kernel: an ordinary enlargement assumes
    that a pixel of y lies in the middle of its block, and is shifted by (scale - 1) / 2 pixels against x.
    (N, C, h, w) -> (N, C, scale h, scale w). Keys' cubic, a = -1/2; symmetric borders.
    """
    check_image("y", y)
    check_count("scale", scale)
    # Output s i + p is the sum over m of keys(p / s - m) y[i + m], m = -1 ... 2: four taps for each phase p.
    phase = torch.arange(scale, dtype=y.dtype, device=y.device) / scale
    taps = keys_cubic(phase[:, None] - torch.arange(-1, 3, dtype=y.dtype, device=y.device))
    padded = _pad_symmetric(y, 2)[..., 1:, 1:]
    wide = sum(padded[..., n : n + y.shape[-1], None] * taps[:, n] for n in range(4)).flatten(-2)
    return sum(wide[..., n : n + y.shape[-2], None, :] * taps[:, n, None] for n in range(4)).flatten(-3, -2)


def _filter(x, k, adjoint):
    check_image("x", x)
    check_kernel(k, x.shape[0], x.shape[-2:])
    transfer = torch.fft.rfft2(embed(k.to(x), x.shape[-2:]))
    return torch.fft.irfft2(torch.fft.rfft2(x) * (transfer.conj() if adjoint else transfer), s=x.shape[-2:])


def _pad_symmetric(x, reach):
    """Mirror at the outer edge of the border pixels, as often as needed: ... x1 x0 | x0 x1 ..."""
    def mirrored(side):
        index = torch.arange(-reach, side + reach, device=x.device) % (2 * side)
        return torch.minimum(index, 2 * side - 1 - index)

    return x[..., mirrored(x.shape[-2]), :][..., mirrored(x.shape[-1])]
