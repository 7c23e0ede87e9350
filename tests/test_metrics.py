"""PSNR, SSIM and the choices of a protocol."""

import math

import numpy as np
import pytest
import torch
from dense import uniform
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import usrlib
from usrlib import metrics


@pytest.mark.parametrize("difference, decibels", [(1.0, 0.0), (0.1, 20.0), (0.01, 40.0), (1 / 255, 48.1308)])
def test_psnr_of_a_constant_difference_is_known(difference, decibels):
    a = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    assert usrlib.psnr(a, a + difference) == pytest.approx(decibels, abs=1e-4)


def test_psnr_is_scikit_images_averaged_over_the_images_not_over_their_errors():
    a, b = uniform(3, 3, 9, 8), uniform(3, 3, 9, 8, seed=1)
    b[1] = a[1] + 0.01
    each = [peak_signal_noise_ratio(p.numpy(), q.numpy(), data_range=1) for p, q in zip(a, b, strict=True)]
    assert usrlib.psnr(a, b) == pytest.approx(np.mean(each), abs=1e-10)


def test_equal_images_have_infinite_psnr_and_ssim_one():
    a = uniform(2, 3, 16, 16)
    assert math.isinf(usrlib.psnr(a, a)) and usrlib.psnr(a, a) > 0
    assert usrlib.ssim(a, a) == pytest.approx(1)


@pytest.mark.parametrize("metric", [usrlib.psnr, usrlib.ssim])
def test_a_border_leaves_its_pixels_out(metric):
    a = uniform(1, 1, 20, 24)
    b = a + 0.1 * uniform(1, 1, 20, 24, seed=1)
    damaged = b.clone()
    damaged[..., :3, :], damaged[..., -3:, :], damaged[..., :3], damaged[..., -3:] = 9, 9, 9, 9
    assert metric(a, damaged, 3) == metric(a, b, 3) == metric(a[..., 3:-3, 3:-3], b[..., 3:-3, 3:-3])
    assert metric(a, damaged, 2) < metric(a, b, 2)


def test_ssim_of_one_image_is_the_mean_of_its_channels_with_wangs_window():
    a, b = uniform(2, 3, 32, 30), uniform(2, 3, 32, 30, seed=1)
    each = [
        structural_similarity(p.numpy(), q.numpy(), data_range=1, gaussian_weights=True, sigma=1.5,
                              use_sample_covariance=False)
        for p, q in zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)
    ]
    assert usrlib.ssim(a, b) == pytest.approx(np.mean(each), abs=1e-10)


def test_ssim_refuses_images_smaller_than_its_window():
    a = uniform(1, 1, 11, 30)
    assert usrlib.ssim(a, a) == 1
    with pytest.raises(ValueError, match="11x11"):
        usrlib.ssim(a[..., 1:, :], a[..., 1:, :])


def test_metrics_take_float32_and_images_that_ask_for_gradients():
    a = uniform(1, 3, 16, 16).float().requires_grad_()
    b = uniform(1, 3, 16, 16, seed=1).float()
    assert usrlib.psnr(a, b) == pytest.approx(usrlib.psnr(a.double(), b.double()), rel=1e-5)
    assert usrlib.ssim(a, b) == pytest.approx(usrlib.ssim(a.double(), b.double()), rel=1e-4)


def test_quantize_rounds_to_grey_levels_and_clips():
    levels = torch.tensor([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0, 2.0], dtype=torch.float64)
    assert (255 * metrics.quantize(levels.view(1, 1, 1, -1))).flatten().tolist() == [0, 0, 0, 1, 255, 255, 255]
    assert levels.min() == -1 and levels.max() == 2                             # what it was given stays as it was


@pytest.mark.parametrize(
    "colour, y", [((0, 0, 0), 16), ((1, 1, 1), 235), ((1, 0, 0), 81.481), ((0, 1, 0), 144.553), ((0, 0, 1), 40.966)]
)
def test_luma_is_that_of_bt601(colour, y):
    x = torch.tensor(colour, dtype=torch.float64).view(1, 3, 1, 1)
    assert 255 * metrics.luma(x).item() == pytest.approx(y, abs=1e-9)


def test_luma_refuses_an_image_without_three_channels():
    with pytest.raises(ValueError, match=r"x must have 3 channels"):
        metrics.luma(uniform(1, 1, 4, 4))
