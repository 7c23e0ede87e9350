"""The data step in closed form: the one place where the network, and splitting, look at y.

    z = argmin_z |y - (z ⊗ k)↓s|^2 + α |z - x|^2 = x + A'(AA' + αI)^-1 (y - Ax),    A = ↓s (k ⊗ ·)

With the phases x_p[j] = x[sj + p] and k_p[j] = k[sj - p], A is a sum of ordinary circular convolutions on the small
grid, Ax = sum_p k_p ⊗ x_p. In Fourier AA' is a product there, and (AA' + αI)^-1 a division, frequency by frequency.
Derived in notebook 04. There is no factor 1/α: in float32 what y owes to a picture loses digits like 1/sqrt(α), not
1/α, and only its noise may lose more.
"""

import torch
import torch.nn.functional as F

from .fourier import embed
from .validation import check_count, check_image, check_kernel, check_level, check_resolved, check_same_images


class DataStep:
    """Everything about (y, k, scale) that the iterations share; call it with x and alpha.

    y: (N, C, h, w). k: (1 or N, 1, kh, kw), no larger than the HR image. scale: int >= 1.
    These are checked here, once. Of a call shapes and dtype are, and the values of tensors are not, for which a GPU
    would have to wait; `data_step` looks at them. Differentiable in y, k, x and alpha; float32 or float64.
    """

    def __init__(self, y, k, scale):
        check_image("y", y)
        check_count("scale", scale)
        self.scale = int(scale)
        self.small, self.dtype = y.shape[-2:], y.dtype
        self.shape = (*y.shape[:2], y.shape[2] * self.scale, y.shape[3] * self.scale)
        check_kernel(k, y.shape[0], self.shape[-2:])
        # The phases of the reversed kernel are k_p[-j]: their spectra are conj(k̂_p), which A' needs.
        reversed_kernel = embed(k.to(y), self.shape[-2:], reverse=True)
        self.y_hat = torch.fft.rfft2(y)                                    # (N, C, h, w')
        self.k_hat_conj = torch.fft.rfft2(self._phases(reversed_kernel))   # (1 or N, 1, s^2, h, w')
        self.power = torch.view_as_real(self.k_hat_conj).square().sum((2, -1))   # the transfer function of AA'

    def __call__(self, x, alpha):
        """z = argmin |y - (z ⊗ k)↓s|^2 + alpha |z - x|^2. x: (N, C, sh, sw). alpha: > 0, a number or (N, 1, 1, 1)."""
        if x.shape != self.shape:
            raise ValueError(f"x must have shape {tuple(self.shape)}, scale {self.scale} times y; got {tuple(x.shape)}")
        if x.dtype != self.dtype:
            raise TypeError(f"x must have the dtype of y, {self.dtype}; got {x.dtype}")
        check_level("alpha", alpha, positive=True, batch=x.shape[0], look=False)
        x_hat = torch.fft.rfft2(self._phases(x))                           # (N, C, s^2, h, w')
        residual = self.y_hat - (self.k_hat_conj.conj() * x_hat).sum(2)    # y - Ax
        alpha = alpha.to(x) if isinstance(alpha, torch.Tensor) else alpha
        weighted = residual / (self.power + alpha)                         # (AA' + αI)^-1
        update = torch.fft.irfft2(self.k_hat_conj * weighted.unsqueeze(2), s=self.small)          # A'
        return x + F.pixel_shuffle(update.flatten(1, 2), self.scale)

    def _phases(self, x):
        """x_p[j] = x[sj + p]: (N, C, H, W) -> (N, C, s^2, h, w)."""
        return F.pixel_unshuffle(x, self.scale).unflatten(1, (x.shape[1], self.scale**2))


def data_step(x, y, k, scale, alpha):
    """DataStep(y, k, scale)(x, alpha) for a single use, every argument checked.

    x: (N, C, H, W). y: (N, C, H/scale, W/scale). k: (1 or N, 1, h, w). alpha: > 0, a number or (N, 1, 1, 1).
    Returns z: (N, C, H, W) (Zhang et al. 2020, equations 5 and 7, in the dual form).
    """
    check_image("x", x)
    solve = DataStep(y, k, scale)
    check_same_images("x", x, "y", y)
    check_resolved("alpha", alpha, x.dtype, batch=y.shape[0])
    return solve(x, alpha)
