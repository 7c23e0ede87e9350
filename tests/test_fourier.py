"""Spectra: the transfer function of a kernel, and what decimation and zero filling do."""

import numpy as np
import pytest
import torch
from dense import random_kernel, uniform
from hypothesis import given
from hypothesis import strategies as st

from usrlib import psf_to_otf
from usrlib.fourier import embed, fold

SIDES = st.integers(1, 5)
SCALES = st.integers(1, 4)


def dft_of_centred(k, shape):
    """sum over a, b of k[a, b] exp(-2πi (u (a - h // 2) / H + v (b - w // 2) / W)), frequency by frequency."""
    otf = np.zeros(shape, complex)
    for u, v, a, b in np.ndindex(*shape, *k.shape):
        turns = u * (a - k.shape[0] // 2) / shape[0] + v * (b - k.shape[1] // 2) / shape[1]
        otf[u, v] += k[a, b] * np.exp(-2j * np.pi * turns)
    return otf


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (4, 4), (2, 5), (6, 7)])
@pytest.mark.parametrize("shape", [(6, 7), (8, 9)])
def test_psf_to_otf_is_the_explicit_dft_of_the_centred_kernel(size, shape):
    k = random_kernel(2, 1, *size)
    expected = np.stack([dft_of_centred(one[0].numpy(), shape) for one in k])[:, None]
    np.testing.assert_allclose(psf_to_otf(k, shape).numpy(), expected, rtol=0, atol=1e-13)


def test_a_centred_delta_passes_every_frequency_unchanged():
    for size in (5, 6):
        k = torch.zeros(1, 1, size, size, dtype=torch.float64)
        k[..., size // 2, size // 2] = 1
        torch.testing.assert_close(psf_to_otf(k, (8, 9)), torch.ones(1, 1, 8, 9, dtype=torch.complex128))


@pytest.mark.parametrize("size", [(3, 3), (4, 4), (4, 5)])
def test_embedding_in_reverse_puts_k_of_minus_n_in_the_place_of_n(size):
    k = random_kernel(1, 1, *size)
    forward, backward = embed(k, (6, 7))[0, 0], embed(k, (6, 7), reverse=True)[0, 0]
    for i, j in np.ndindex(6, 7):
        assert backward[i, j] == forward[-i % 6, -j % 7]


@given(SIDES, SIDES, SCALES)
def test_fold_is_the_dft_of_decimation(height, width, scale):
    x = uniform(2, 1, height * scale, width * scale).numpy()
    folded = fold(torch.from_numpy(np.fft.fft2(x)), scale)
    np.testing.assert_allclose(folded.numpy(), np.fft.fft2(x[..., ::scale, ::scale]), rtol=0, atol=1e-12)


def test_fold_refuses_a_spectrum_that_does_not_divide_into_blocks():
    with pytest.raises(ValueError, match=r"spectrum .* multiples of scale 3"):
        fold(torch.zeros(1, 1, 6, 7), 3)
