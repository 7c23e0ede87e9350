"""The closed form as the paper prints it (Zhang et al. 2020, equation 7), with complex FFTs: the reference that
the library's data step is held against, in the tests and in the benchmark. Notebook 04 derives both."""

import torch

from usrlib.degradation import upsample_zeros
from usrlib.fourier import fold, psf_to_otf


class TextbookDataStep:
    """z = F^-1{ (1/α) [ d - conj(k̂) ⊙s ( (k̂ d)⇓s / (|k̂|^2⇓s + α) ) ] },  d = conj(k̂) F(y↑s) + α F(x)."""

    def __init__(self, y, k, scale):
        self.scale = scale
        zero_filled = upsample_zeros(y, scale)
        self.k_hat = psf_to_otf(k.to(y), zero_filled.shape[-2:])
        self.power = fold(self.k_hat.abs().square(), scale)
        self.k_hat_y = self.k_hat.conj() * torch.fft.fft2(zero_filled)

    def __call__(self, x, alpha):
        d = self.k_hat_y + torch.fft.fft2(alpha * x)
        quotient = fold(self.k_hat * d, self.scale) / (self.power + alpha)
        blockwise = quotient.repeat(1, 1, self.scale, self.scale)
        return torch.fft.ifft2((d - self.k_hat.conj() * blockwise) / alpha).real
