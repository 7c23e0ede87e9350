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


class RealTextbookDataStep(TextbookDataStep):
    """The same with real FFTs, of which half a spectrum is enough: what of the library's speed is owed to these."""

    def __init__(self, y, k, scale):
        super().__init__(y, k, scale)
        self.shape, self.small = self.k_hat.shape[-2:], y.shape[-2:]
        self.k_hat, self.k_hat_y = (half(v, self.shape[1]) for v in (self.k_hat, self.k_hat_y))
        self.power = half(self.power, self.small[1])

    def __call__(self, x, alpha):
        d = self.k_hat_y + torch.fft.rfft2(alpha * x)
        quotient = self.fold(self.k_hat * d) / (self.power + alpha)
        return torch.fft.irfft2((d - self.k_hat.conj() * self.tile(quotient)) / alpha, s=self.shape)

    def fold(self, spectrum):
        if self.scale == 1:
            return spectrum
        rows = spectrum.unflatten(-2, (self.scale, -1)).mean(-3)
        return half(whole(rows, self.shape[1]).unflatten(-1, (self.scale, -1)).mean(-2), self.small[1])

    def tile(self, spectrum):
        if self.scale == 1:
            return spectrum
        width = self.shape[1] // 2 + 1
        return whole(spectrum, self.small[1]).repeat(1, 1, self.scale, self.scale // 2 + 1)[..., :width]


def half(spectrum, width):
    """The columns that rfft2 keeps of a spectrum of `width` columns."""
    return spectrum[..., : width // 2 + 1].contiguous()


def whole(spectrum, width):
    """The other columns, from S[-p, -q] = conj S[p, q]."""
    mirrored = spectrum[..., 1 : (width + 1) // 2].flip(-2, -1).roll(1, -2).conj()
    return torch.cat([spectrum, mirrored], -1)
