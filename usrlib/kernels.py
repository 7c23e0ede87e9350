"""Blur kernels: Gaussian, camera shake, the benchmark's twelve, bicubic; and estimating one from pairs.

A kernel is a float64 tensor (1, 1, size, size) with sum 1 and its centre at index size // 2; the operators
take it to the dtype and device of the image.
"""

import cmath
import math

import torch

from .validation import (
    check_choice,
    check_count,
    check_divisible,
    check_generator,
    check_image,
    check_level,
    check_number,
    check_pair,
    check_same_images,
)


def gaussian_kernel(size, variances, angle=0.0, shift=(0.0, 0.0)):
    """An anisotropic Gaussian, exp(-d' inv(S) d / 2) normalised to sum 1, d the distance from the centre.

    size: side in pixels, odd or even. variances: of the two principal axes, in squared pixels; an isotropic
    blur of width w has (w**2, w**2). angle: of the first axis against the horizontal, in radians, y pointing
    down (positive is clockwise on the screen). shift: (dy, dx) of the centre in pixels.
    Returns (1, 1, size, size), float64.
    """
    check_count("size", size)
    check_pair("variances", variances, positive=True)
    check_pair("shift", shift)
    check_number("angle", angle)
    variances, shift = (torch.tensor(pair, dtype=torch.float64).view(1, 2, 1, 1) for pair in (variances, shift))
    return gaussians(size, variances, torch.tensor(angle, dtype=torch.float64).view(1, 1, 1), shift)


def gaussians(size, variances, angle, shift):
    """`gaussian_kernel` for many at once, not checked: (N, 2, 1, 1), (N, 1, 1), (N, 2, 1, 1) -> (N, 1, size, size)."""
    axis = torch.arange(size, dtype=angle.dtype, device=angle.device) - size // 2
    dy, dx = axis[:, None] - shift[:, 0], axis - shift[:, 1]
    along, across = angle.cos() * dx + angle.sin() * dy, angle.cos() * dy - angle.sin() * dx
    exponent = -0.5 * (along**2 / variances[:, 0] + across**2 / variances[:, 1])
    k = (exponent - exponent.amax((-2, -1), keepdim=True)).exp()     # the largest entry is 1: no underflow
    return (k / k.sum((-2, -1), keepdim=True)).unsqueeze(1)


def motion_kernel(size, generator=None):
    """Camera shake: the path of a hand-held camera during one exposure, after Boracchi and Foi (2012).

    A particle moves at constant speed. At every step its velocity is jolted at random, pulled back to where
    it started, and, rarely, almost reversed, as when the shutter is pressed. What it passes during the
    exposure is the kernel; its centroid is placed on the kernel's centre, and a path that would leave the
    frame is shrunk to fit.
    size: side in pixels, at least 3. generator: a torch.Generator, for a kernel that can be made again.
    Returns (1, 1, size, size), float64.
    """
    check_count("size", size, least=3)
    check_generator(generator)
    path = _camera_path(8 * size, size, generator)
    path = path - path.mean(dim=0)
    reach = (size - 1) // 2
    path = path * min(1.0, reach / path.abs().max().item())
    return _render(path.clamp(-reach, reach), size)              # rounding may have left it a little outside


def _camera_path(steps, size, generator):
    """Positions (steps', 2), down and right, in pixels of the particle of Boracchi and Foi during its exposure."""
    device = generator.device if generator is not None else "cpu"

    def draw(*shape, of=torch.rand):
        return of(*shape, generator=generator, device=device, dtype=torch.float64).tolist()

    length, exposure, anxiety, inertia, reversals, heading = draw(6)
    speed = (0.4 + 1.2 * length) * size / steps
    jolts, chances, turns = draw(steps, 2, of=torch.randn), draw(steps), draw(steps)
    position, velocity, path = 0j, cmath.rect(speed, math.tau * heading), []
    for jolt, chance, turn in zip(jolts, chances, turns, strict=True):
        path.append((position.imag, position.real))
        velocity += 0.35 * anxiety * speed * complex(*jolt) - 0.2 * inertia * speed * position / size
        if chance < 0.02 * reversals:
            velocity *= -cmath.rect(1, turn - 0.5)
        velocity *= speed / abs(velocity)
        position += velocity
    return torch.tensor(path[: math.ceil((0.3 + 0.7 * exposure) * steps)], dtype=torch.float64)


def _render(path, size):
    """Share every point of a path among its four neighbouring pixels, in proportion: the centroid is exact."""
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    rows, columns = (1 - (path.T[..., None] - axis).abs()).clamp(min=0)         # hats: (points, size) each
    k = rows.T @ columns
    return (k / k.sum())[None, None]


def benchmark_kernels():
    """Twelve kernels 25x25: the paper's eight Gaussians as published, then four motion kernels of our own.

    The Gaussians (Zhang et al. 2020, Table 1): isotropic of width 0.7, 1.2, 1.6, 2.0 pixels, then anisotropic.
    The paper's motion kernels are data, not a formula; ours stand in for them. Returns (12, 1, 25, 25), float64.
    """
    isotropic = [gaussian_kernel(25, (width**2, width**2)) for width in (0.7, 1.2, 1.6, 2.0)]
    anisotropic = [
        gaussian_kernel(25, variances, math.radians(degrees))
        for variances, degrees in (((7, 2), 0), ((9, 1.5), 144), ((8, 1.5), 45), ((7, 5), 52.2))
    ]
    motion = [motion_kernel(25, torch.Generator().manual_seed(seed)) for seed in (0, 9, 33, 34)]
    return torch.cat(isotropic + anisotropic + motion)


def keys_cubic(t):
    """Keys' interpolation kernel with a = -1/2 (1981): piecewise cubic, 1 at 0, 0 at other integers, 0 from |t| = 2."""
    t = t.abs()
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return torch.where(t <= 1, near, torch.where(t < 2, far, torch.zeros_like(t)))


def bicubic_taps(scale, size):
    """One dimension of the bicubic kernel: Keys' cubic stretched by `scale`, its centre (scale - 1) / 2 to the left."""
    n = torch.arange(size, dtype=torch.float64) - size // 2
    return keys_cubic((n + (scale - 1) / 2) / scale) / scale


def bicubic_kernel(scale, size=25):
    """The kernel whose blur and decimation is MATLAB-style bicubic reduction, away from the borders.

    Keys' cubic stretched by `scale` (the antialiasing) and sampled on the HR grid. Since decimation keeps the
    upper-left pixel of a block, its centre lies (scale - 1) / 2 up and left of the middle. It has negative
    values. scale: int >= 1. size: side in pixels; ValueError where that would truncate the kernel.
    Returns (1, 1, size, size), float64.
    """
    check_count("scale", scale)
    check_count("size", size)
    # The leftmost entry that is not zero has index -reach; at scale 1 the kernel is a single 1.
    reach = math.ceil(2 * scale + (scale - 1) / 2) - 1 if scale > 1 else 0
    if size // 2 < reach:
        raise ValueError(f"size must be at least {2 * reach} to hold the bicubic kernel of scale {scale}; got {size}")
    taps = bicubic_taps(scale, size)
    return torch.outer(taps, taps)[None, None]


def estimate_kernel(x, y, scale, size=25, ridge=0.0, borders="interior"):
    """The kernel that best explains y as x blurred and decimated: argmin_k |y - (x * k)↓s|^2 + ridge |k|^2.

    x: HR images (N, C, H, W). y: LR images (N, C, H/scale, W/scale). size: side of the kernel.
    ridge: weight >= 0 that keeps the entries small where the images say little. borders: "interior" uses the
    LR pixels whose window lies inside x; "circular" uses all, and wraps the windows around.
    The normal equations are summed strip by strip, in float64, and solved by Cholesky's method.
    Raises ValueError where they are singular, to within rounding. Returns (1, 1, size, size), float64.
    """
    check_level("ridge", ridge)
    gram, moment = normal_equations(x, y, scale, size, borders)
    gram = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(gram)
    # A pivot that ought to be 0 may come out of the rounding above it: the condition number tells.
    if failed or torch.linalg.cond(gram, 1) > 1 / (len(gram) * torch.finfo(gram.dtype).eps):
        raise ValueError(
            f"x and y do not determine the {size * size} entries of the kernel; give larger images or a ridge above 0"
        )
    return torch.cholesky_solve(moment[:, None], factor).view(1, 1, size, size)


def normal_equations(x, y, scale, size=25, borders="interior"):
    """A'A and A'y of the least-squares problem of `estimate_kernel`, A never formed: a row of LR pixels at a time.

    Returns float64 (size**2, size**2) and (size**2,). They add up over images, of whatever shapes.
    """
    check_image("x", x)
    check_image("y", y)
    check_count("scale", scale)
    check_same_images("x", x, "y", y)
    check_divisible("x", x, scale)
    check_count("size", size)
    check_choice("borders", borders, ("interior", "circular"))
    if tuple(y.shape[-2:]) != (x.shape[-2] // scale, x.shape[-1] // scale):
        raise ValueError(f"y must be x reduced by {scale}: {tuple(x.shape[-2:])} against {tuple(y.shape[-2:])}")
    if size > min(x.shape[-2:]):
        raise ValueError(f"size must not be larger than x, {x.shape[-2]}x{x.shape[-1]}; got {size}")
    # y[j] sees x[sj - n] for n = -(size // 2) ...: a window that ends size // 2 after sj, read backwards.
    before, after = size - 1 - size // 2, size // 2
    x, y = x.double(), y.double()
    if borders == "circular":
        rows, columns = (torch.arange(-before, side + after) % side for side in x.shape[-2:])
        x = x[..., rows, :][..., columns]
    else:
        first = -(-before // scale)
        x = x[..., scale * first - before :, scale * first - before :]
        y = y[..., first:, first:]
    if min(x.shape[-2:]) < size:
        raise ValueError(f"size must leave pixels of y whose window lies inside x; {size} leaves none")
    windows = x.unfold(-2, size, scale).unfold(-2, size, scale)          # (N, C, h', w', size, size)
    y = y[..., : windows.shape[2], : windows.shape[3]]
    gram, moment = x.new_zeros(size**2, size**2), x.new_zeros(size**2)
    for strip, target in zip(windows.unbind(2), y.unbind(2), strict=True):
        strip = strip.flip(-2, -1).reshape(-1, size**2)
        gram += strip.T @ strip
        moment += strip.T @ target.reshape(-1)
    return gram, moment
