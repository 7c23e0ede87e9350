"""Slow and plain references: loops, rolled arrays and dense matrices, straight from the definitions. NumPy only.

y[i, j] = sum over a, b of k[a, b] x[s i - (a - kh // 2), s j - (b - kw // 2)], indices modulo the image.
"""

import numpy as np
import torch


def uniform(*shape, seed=0):
    """Random numbers in [0, 1), float64."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_kernel(*shape, seed=1):
    """A random kernel of sum 1, nothing symmetric about it."""
    k = uniform(*shape, seed=seed)
    return k / k.sum((-2, -1), keepdim=True)


def convolve(x, k):
    """Circular convolution of a plane x with k: a weighted sum of rolled copies."""
    shifts = ((a - k.shape[0] // 2, b - k.shape[1] // 2) for a, b in np.ndindex(*k.shape))
    return sum(value * np.roll(x, shift, (0, 1)) for value, shift in zip(k.ravel(), shifts, strict=True))


def matrix(k, shape, scale=1):
    """A, the blur with k and decimation of a plane, as a matrix (hw, HW), entry by entry."""
    (height, width), (small_h, small_w) = shape, (side // scale for side in shape)
    A = np.zeros((small_h * small_w, height * width))
    for i, j, a, b in np.ndindex(small_h, small_w, *k.shape):
        row, column = scale * i - (a - k.shape[0] // 2), scale * j - (b - k.shape[1] // 2)
        A[i * small_w + j, row % height * width + column % width] += k[a, b]
    return A


def each_plane(function, *images):
    """Apply a function of NumPy planes to every image and channel of (N, C, H, W) tensors; N or C may be 1."""
    batch, channels = (max(x.shape[axis] for x in images) for axis in (0, 1))
    planes = [
        [function(*(x[n % x.shape[0], c % x.shape[1]].numpy() for x in images)) for c in range(channels)]
        for n in range(batch)
    ]
    return torch.from_numpy(np.array(planes))


def data_step(x, y, k, scale, alpha):
    """The data step by a dense solve of its normal equations, (A'A + alpha I) z = A'y + alpha x."""
    def solve(x, y, k):
        A = matrix(k, x.shape, scale)
        normal = A.T @ A + alpha * np.eye(x.size)
        return np.linalg.solve(normal, A.T @ y.ravel() + alpha * x.ravel()).reshape(x.shape)

    return each_plane(solve, x, y, k)


def keys(t):
    """Keys' cubic with a = -1/2, for a number."""
    t = abs(t)
    if t <= 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


def imresize_matrix(side, scale):
    """One dimension of MATLAB's imresize(x, 1/scale, "bicubic") as a matrix (side / scale, side)."""
    R = np.zeros((side // scale, side))
    for i in range(side // scale):
        middle = scale * (i + 0.5) - 0.5                          # half-pixel centres
        for j in range(int(middle) - 3 * scale, int(middle) + 3 * scale + 1):
            mirrored = j % (2 * side)                             # ... 1 0 | 0 1 2 ...
            R[i, min(mirrored, 2 * side - 1 - mirrored)] += keys((middle - j) / scale)     # antialias: stretched
    return R / R.sum(axis=1, keepdims=True)


def total_variation(x):
    """The isotropic total variation of a plane: forward differences, none across the border."""
    return np.hypot(*_gradient(x)).sum()


def rof(z, weight, iterations=20000):
    """argmin |z - x|^2 / 2 + weight TV(x) for a plane, by accelerated projected gradients on the dual (FISTA)."""
    p = q = np.zeros((2, *z.shape))
    t = 1.0
    for _ in range(iterations):
        step = q + _gradient(z + _divergence(q)) / 8
        following = step / np.maximum(1, np.hypot(*step) / weight)
        t, previous = (1 + np.sqrt(1 + 4 * t**2)) / 2, t
        p, q = following, following + (previous - 1) / t * (following - p)
    return z + _divergence(p)


def _gradient(x):
    return np.stack([np.diff(x, axis=axis, append=x.take([-1], axis)) for axis in (0, 1)])


def _divergence(p):
    """The negative adjoint of `_gradient`; p is zero where the gradient is."""
    down, right = p
    return np.diff(down[:-1], axis=0, prepend=0, append=0) + np.diff(right[:, :-1], axis=1, prepend=0, append=0)
