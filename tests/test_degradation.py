"""The degradation, its adjoint, and bicubic resizing, against loops, dense matrices, SciPy and Pillow."""

import numpy as np
import pytest
import torch
from dense import convolve, each_plane, imresize_matrix, keys, matrix, random_kernel, uniform
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage, signal

import usrlib
from usrlib import images

SIZES = st.tuples(st.integers(1, 6), st.integers(1, 6))
BATCHES = st.tuples(st.integers(1, 3), st.integers(1, 2), st.booleans())


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def inner(a, b):
    return (a * b).sum().item()


# --- Blur and decimation -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("size", [(1, 1), (3, 3), (4, 4), (2, 5), (6, 7)])
def test_blur_is_convolution_written_as_four_loops(size):
    x, k = uniform(6, 7), random_kernel(*size)
    expected = torch.zeros(6, 7, dtype=torch.float64)
    for i in range(6):
        for j in range(7):
            for a in range(size[0]):
                for b in range(size[1]):
                    expected[i, j] += k[a, b] * x[(i - (a - size[0] // 2)) % 6, (j - (b - size[1] // 2)) % 7]
    torch.testing.assert_close(usrlib.blur(x[None, None], k[None, None])[0, 0], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [(3, 3), (5, 7)])
def test_blur_with_an_odd_kernel_is_scipys_convolution_with_wrapped_borders(size):
    x, k = uniform(11, 8), random_kernel(*size)
    blurred = usrlib.blur(x[None, None], k[None, None])[0, 0].numpy()
    np.testing.assert_allclose(blurred, ndimage.convolve(x.numpy(), k.numpy(), mode="wrap"), rtol=0, atol=1e-13)
    np.testing.assert_allclose(blurred, signal.convolve2d(x, k, mode="same", boundary="wrap"), rtol=0, atol=1e-13)


@given(SIZES, SIZES, BATCHES, st.integers(1, 3))
def test_blur_and_decimation_are_the_dense_matrix(small, size, batch, scale):
    shape = small[0] * scale, small[1] * scale
    assume(size[0] <= shape[0] and size[1] <= shape[1])
    x, k = 3 * uniform(*batch[:2], *shape) - 1, random_kernel(batch[0] if batch[2] else 1, 1, *size)     # not clipped
    expected = each_plane(lambda x, k: (matrix(k, shape, scale) @ x.ravel()).reshape(small), x, k)
    torch.testing.assert_close(usrlib.degrade(x, k, scale), expected, rtol=0, atol=1e-12)


@given(SIZES, SIZES, BATCHES, st.integers(1, 4))
def test_adjoints_satisfy_their_identity(small, size, batch, scale):
    shape = small[0] * scale, small[1] * scale
    assume(size[0] <= shape[0] and size[1] <= shape[1])
    k = random_kernel(batch[0] if batch[2] else 1, 1, *size)
    x, y, v = uniform(*batch[:2], *shape), uniform(*batch[:2], *small, seed=2), uniform(*batch[:2], *shape, seed=3)
    assert inner(usrlib.blur(x, k), v) == pytest.approx(inner(x, usrlib.blur_adjoint(v, k)), rel=1e-12)
    assert inner(usrlib.downsample(x, scale), y) == pytest.approx(inner(x, usrlib.upsample_zeros(y, scale)), rel=1e-12)


def test_downsample_keeps_the_upper_left_pixel_and_zero_filling_puts_it_back():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert usrlib.downsample(x, 2).tolist() == [[[[0, 2], [8, 10]]]]
    filled = [[0, 0, 2, 0], [0, 0, 0, 0], [8, 0, 10, 0], [0, 0, 0, 0]]
    assert usrlib.upsample_zeros(usrlib.downsample(x, 2), 2).tolist() == [[filled]]


@pytest.mark.parametrize("operator", [usrlib.blur, usrlib.blur_adjoint])
def test_gradients_pass_through_image_and_kernel(operator):
    x, k = uniform(2, 1, 5, 4).requires_grad_(), random_kernel(1, 1, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(operator, (x, k))


# --- Noise -------------------------------------------------------------------------------------------------------

@pytest.fixture
def grey():
    return torch.full((2, 3, 128, 128), 0.5, dtype=torch.float64)


DELTA = torch.ones(1, 1, 1, 1, dtype=torch.float64)


def test_noise_is_white_with_the_given_standard_deviation(grey):
    noise = usrlib.degrade(grey, DELTA, 1, 0.1, seeded(0)) - grey
    assert noise.std().item() == pytest.approx(0.1, rel=0.01)
    assert abs(noise.mean().item()) < 0.001
    for axis in range(4):                       # neighbours are uncorrelated, and so are images and channels
        assert abs((noise * noise.roll(1, axis)).mean().item()) < 0.0002


def test_noise_is_reproducible_by_its_generator(grey):
    first, again, other = (usrlib.degrade(grey, DELTA, 2, 0.1, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_noise_is_drawn_where_there_is_none_too(grey):
    following = []
    for sigma in (0, 0.0, 0.1):
        usrlib.degrade(grey, DELTA, 2, sigma, generator := seeded(1))
        following.append(torch.rand(1, generator=generator).item())
    assert len(set(following)) == 1


def test_each_image_has_its_own_noise_level(grey):
    sigma = torch.tensor([0.0, 0.2], dtype=torch.float64).view(2, 1, 1, 1)
    noise = usrlib.degrade(grey, DELTA, 1, sigma, seeded(0)) - grey
    assert noise[0].abs().max() < 1e-14
    assert noise[1].std().item() == pytest.approx(0.2, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operators_keep_the_dtype_of_the_image(dtype):
    x, k = uniform(2, 3, 12, 12).to(dtype), random_kernel(1, 1, 3, 3)
    sigma = torch.tensor([0.0, 0.2], dtype=torch.float64).view(2, 1, 1, 1)
    results = [
        usrlib.blur(x, k), usrlib.blur_adjoint(x, k), usrlib.downsample(x, 2), usrlib.upsample_zeros(x, 2),
        usrlib.degrade(x, k, 2, 0.1), usrlib.degrade(x, k, 2, sigma), usrlib.bicubic_downsample(x, 2),
        usrlib.bicubic_upsample(x, 2),
    ]
    assert {result.dtype for result in results} == {dtype}


# --- Bicubic -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2), (5, 12), (10, 9)])
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 7])
def test_bicubic_reduction_is_matlabs_imresize_up_to_the_border(shape, scale):
    x = uniform(2, 3, shape[0] * scale, shape[1] * scale)
    rows, columns = (imresize_matrix(side, scale) for side in x.shape[-2:])
    expected = each_plane(lambda x: rows @ x @ columns.T, x)
    torch.testing.assert_close(usrlib.bicubic_downsample(x, scale), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_reduction_is_pillows_in_the_interior(scale):
    x = images.sample("astronaut", 96, (60, 170))[:, :1]
    file = Image.fromarray(x[0, 0].numpy().astype(np.float32)).resize((96 // scale,) * 2, Image.Resampling.BICUBIC)
    ours = usrlib.bicubic_downsample(x, scale)[0, 0].numpy()
    np.testing.assert_allclose(ours[3:-3, 3:-3], np.asarray(file)[3:-3, 3:-3], rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_bicubic_reduction_is_blur_with_the_bicubic_kernel_and_decimation_in_the_interior(scale):
    x, k = uniform(60, 48), usrlib.bicubic_kernel(scale)
    reduced = usrlib.bicubic_downsample(x[None, None], scale)[0, 0].numpy()
    blurred = convolve(x.numpy(), k[0, 0].numpy())[::scale, ::scale]
    np.testing.assert_allclose(reduced[3:-3, 3:-3], blurred[3:-3, 3:-3], rtol=0, atol=1e-14)


@pytest.mark.parametrize("resize", [usrlib.bicubic_downsample, usrlib.bicubic_upsample])
def test_bicubic_resizing_by_one_changes_nothing(resize):
    x = uniform(2, 3, 7, 5)
    torch.testing.assert_close(resize(x, 1), x, rtol=0, atol=1e-15)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (2, 3), (6, 5)])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_bicubic_enlargement_is_keys_interpolation_with_mirrored_borders(shape, scale):
    y = uniform(2, 2, *shape)

    def interpolation(side):
        R = np.zeros((side * scale, side))
        for row in range(side * scale):
            for m in range(row // scale - 2, row // scale + 4):
                R[row, min(m % (2 * side), 2 * side - 1 - m % (2 * side))] += keys(row / scale - m)
        return R

    expected = each_plane(lambda y: interpolation(shape[0]) @ y @ interpolation(shape[1]).T, y)
    torch.testing.assert_close(usrlib.bicubic_upsample(y, scale), expected, rtol=0, atol=1e-13)


@given(SIZES, st.integers(1, 5))
def test_bicubic_enlargement_keeps_y_on_the_pixels_that_decimation_keeps(shape, scale):
    y = uniform(1, 2, *shape)
    torch.testing.assert_close(usrlib.bicubic_upsample(y, scale)[..., ::scale, ::scale], y, rtol=0, atol=1e-14)


@given(SIZES, st.integers(1, 5), st.floats(0, 1))
def test_bicubic_resizing_keeps_a_constant_up_to_the_border(shape, scale, value):
    y = torch.full((1, 1, *shape), value, dtype=torch.float64)
    large = usrlib.bicubic_upsample(y, scale)
    torch.testing.assert_close(large, torch.full_like(large, value), rtol=0, atol=1e-14)
    torch.testing.assert_close(usrlib.bicubic_downsample(large, scale), y, rtol=0, atol=1e-14)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_enlargement_reproduces_quadratics_in_the_interior(scale):
    rows, columns = torch.meshgrid(*(torch.arange(10 * scale, dtype=torch.float64) / scale,) * 2, indexing="ij")
    x = (1 + 2 * rows - columns + 0.5 * rows**2 - rows * columns + 0.3 * columns**2)[None, None]
    inside = (..., slice(2 * scale, -3 * scale), slice(2 * scale, -3 * scale))
    torch.testing.assert_close(usrlib.bicubic_upsample(x[..., ::scale, ::scale], scale)[inside], x[inside])


def test_bicubic_enlargement_is_not_rounded_under_autocast():
    y = uniform(1, 3, 6, 7).float()
    exact = usrlib.bicubic_upsample(y, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(usrlib.bicubic_upsample(y, 2), exact)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_aligned_enlargement_beats_the_ordinary_one_on_a_photograph(scale):
    x = images.sample("astronaut", 192, (60, 170))[:, :1]
    y = usrlib.degrade(x, usrlib.gaussian_kernel(15, (1.6**2, 1.6**2)), scale)
    ordinary = Image.fromarray(y[0, 0].numpy().astype(np.float32)).resize((192, 192), Image.Resampling.BICUBIC)
    ordinary = torch.from_numpy(np.array(ordinary)).double()[None, None]
    gain = usrlib.psnr(usrlib.bicubic_upsample(y, scale), x, 16) - usrlib.psnr(ordinary, x, 16)
    assert gain > 0.5
