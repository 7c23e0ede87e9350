"""Half-quadratic splitting: its contract, its fixed points where they are known, and its classical priors."""

import itertools
import math

import dense
import numpy as np
import pytest
import torch
from dense import matrix, random_kernel, uniform

import usrlib
from usrlib import images, metrics, splitting

SIGMA, LAM = 0.1, 2.0


def unchanged(z, beta):
    return z


def shrink(z, beta):
    """The exact prior step for Φ = |x|^2 / 2."""
    return z / (1 + beta**2)


@pytest.fixture
def small():
    """y, k and the dense A of an 8 x 8 image at scale 2."""
    k = random_kernel(1, 1, 3, 3)
    return uniform(1, 1, 4, 4), k, matrix(k[0, 0].numpy(), (8, 8), 2)


def last(steps):
    return list(steps)[-1]


# --- The iterator ------------------------------------------------------------------------------------------------

def test_arguments_are_checked_before_the_first_step(small):
    y, k, _ = small
    with pytest.raises(ValueError, match="mu"):
        usrlib.hqs(y, k, 2, SIGMA, unchanged, LAM, [1.0, -1.0])


def test_nothing_is_computed_until_it_is_asked_for(small):
    y, k, _ = small
    calls = []
    steps = usrlib.hqs(y, k, 2, SIGMA, lambda z, beta: calls.append(beta) or z, LAM, [1.0] * 5)
    assert len(calls) == 0
    next(steps)
    assert len(calls) == 1
    assert len(list(steps)) == 4


@pytest.mark.parametrize("prior", [lambda z, _: z.numpy(), lambda z, _: z[..., 1:], lambda z, _: z.float()],
                         ids=["an array", "another size", "another dtype"])
def test_a_prior_must_return_what_it_was_given(small, prior):
    y, k, _ = small
    with pytest.raises(TypeError, match="prior must return"):
        next(usrlib.hqs(y, k, 2, SIGMA, prior, LAM, [1.0]))


def test_rounding_is_the_noise_that_rounding_adds():
    x = uniform(1, 1, 1000, 1000)
    assert (metrics.quantize(x) - x).square().mean().sqrt().item() == pytest.approx(splitting.ROUNDING, rel=2e-3)


def test_alpha_and_beta_follow_from_mu(small):
    y, k, _ = small
    mu = [1.0, 5.0, 40.0]
    steps = list(usrlib.hqs(y, k, 2, SIGMA, unchanged, LAM, mu))
    assert [step.alpha for step in steps] == pytest.approx([value * SIGMA**2 for value in mu])
    assert [step.beta for step in steps] == pytest.approx([math.sqrt(LAM / value) for value in mu])


def test_each_step_is_a_data_step_then_a_prior_step_from_the_aligned_enlargement(small):
    y, k, _ = small
    x = usrlib.bicubic_upsample(y, 2)
    for step in usrlib.hqs(y, k, 2, SIGMA, shrink, LAM, [1.0, 5.0, 40.0]):
        z = dense.data_step(x, y, k, 2, step.alpha)
        torch.testing.assert_close(step.z, z, rtol=0, atol=1e-11)
        torch.testing.assert_close(step.x, z / (1 + step.beta**2), rtol=0, atol=1e-11)
        x = step.x


def test_without_noise_alpha_stays_at_its_floor_and_z_explains_y(small):
    y, k, A = small
    step = last(usrlib.hqs(y, k, 2, 0.0, unchanged, LAM, [100.0]))
    assert step.alpha == splitting.ALPHA_FLOOR
    np.testing.assert_allclose(A @ step.z.flatten().numpy(), y.flatten().numpy(), rtol=0, atol=1e-5)


def test_penalties_make_beta_fall_by_equal_factors():
    mu = splitting.penalties(LAM, 0.4, 0.05, 4)
    assert [math.sqrt(LAM / value) for value in mu] == pytest.approx([0.4, 0.2, 0.1, 0.05])
    assert splitting.penalties(LAM, 0.3, 0.05, 1) == pytest.approx([LAM / 0.09])


@pytest.mark.parametrize("sigma, betas", [(0.01, (49 / 255, 4 / 255)), (0.1, (49 / 255, 0.1)), (0.3, (0.3, 0.3))])
def test_the_path_of_plug_and_play_never_rises(sigma, betas):
    lam, mu = splitting.plug_and_play_path(sigma, 3)
    assert [math.sqrt(lam / value) for value in (mu[0], mu[-1])] == pytest.approx(betas)


@pytest.mark.parametrize("bad", [{"lam": 0}, {"beta_first": -1}, {"beta_last": float("nan")}, {"iterations": 0}])
def test_penalties_refuse_bad_arguments(bad):
    with pytest.raises(ValueError, match=rf"\b{next(iter(bad))}\b"):
        splitting.penalties(**{"lam": 1.0, "beta_first": 0.3, "beta_last": 0.1, "iterations": 3, **bad})


# --- Where it goes -----------------------------------------------------------------------------------------------

def joint_minimiser(A, y, mu):
    """(z, x) that minimise |y - Az|^2 / (2 σ^2) + λ |x|^2 / 2 + μ |z - x|^2 / 2, from one dense system."""
    eye = np.eye(A.shape[1])
    system = np.block([[A.T @ A / SIGMA**2 + mu * eye, -mu * eye], [-mu * eye, (LAM + mu) * eye]])
    return np.split(np.linalg.solve(system, np.concatenate([A.T @ y / SIGMA**2, 0 * y.repeat(4)])), 2)


@pytest.mark.parametrize("mu", [0.5, 2.0, 10.0])
def test_at_fixed_mu_a_quadratic_prior_leads_to_the_joint_minimiser(small, mu):
    y, k, A = small
    step = last(usrlib.hqs(y, k, 2, SIGMA, shrink, LAM, [mu] * 200))
    z, x = joint_minimiser(A, y.flatten().numpy(), mu)
    np.testing.assert_allclose(step.z.flatten().numpy(), z, rtol=0, atol=1e-10)
    np.testing.assert_allclose(step.x.flatten().numpy(), x, rtol=0, atol=1e-10)


def test_as_mu_grows_the_quadratic_prior_leads_to_the_tikhonov_solution(small):
    y, k, A = small
    tikhonov = np.linalg.solve(A.T @ A + SIGMA**2 * LAM * np.eye(64), A.T @ y.flatten().numpy())
    distances = [
        np.abs(last(usrlib.hqs(y, k, 2, SIGMA, shrink, LAM, [mu] * int(20 * mu))).x.flatten().numpy() - tikhonov).max()
        for mu in (4, 16, 64, 256)
    ]
    assert distances[-1] < 0.01
    for far, near in itertools.pairwise(distances):
        assert near < far / 2


def test_at_fixed_mu_the_energy_never_rises_with_an_exact_quadratic_prior(small):
    y, k, A = small
    energies, x = [], usrlib.bicubic_upsample(y, 2)
    for step in usrlib.hqs(y, k, 2, SIGMA, shrink, LAM, [3.0] * 50):
        energies += [energy(A, y, v, step.z, 3.0, np.square(v).sum() / 2) for v in (x.numpy(), step.x.numpy())]
        x = step.x
    assert np.diff(energies).max() <= 1e-12 * energies[0]
    assert energies[-1] < energies[0]


def test_at_fixed_mu_the_energy_never_rises_with_total_variation():
    x, k = images.sample("astronaut", 24, (100, 200))[:, :1], usrlib.gaussian_kernel(5, (1, 1))
    y = usrlib.degrade(x, k, 2, SIGMA, torch.Generator().manual_seed(0))
    A, energies, x = matrix(k[0, 0].numpy(), (24, 24), 2), [], usrlib.bicubic_upsample(y, 2)
    for step in usrlib.hqs(y, k, 2, SIGMA, lambda z, beta: splitting.total_variation(z, beta, 5000), LAM, [20.0] * 15):
        energies += [
            energy(A, y, v, step.z, 20.0, dense.total_variation(v[0, 0])) for v in (x.numpy(), step.x.numpy())
        ]
        x = step.x
    assert np.diff(energies).max() <= 1e-4 * energies[0]
    assert energies[-1] < 0.9 * energies[0]


def energy(A, y, x, z, mu, prior):
    """E_μ(x, z) with the dense A and the prior's value at x."""
    misfit = y.flatten().numpy() - A @ z.flatten().numpy()
    return np.square(misfit).sum() / (2 * SIGMA**2) + LAM * prior + mu / 2 * np.square(z.numpy() - x).sum()


# --- Priors ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def noisy():
    """A photograph and its copy with noise of standard deviation 0.1."""
    x = images.sample("astronaut", 96, (60, 170))
    return x, x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)


@pytest.mark.parametrize("beta", [0.1, 0.3, 0.6])
def test_total_variation_solves_the_rof_problem_of_weight_beta_squared(noisy, beta):
    z = noisy[1][:, :1, :24, :20]
    exact = dense.rof(z[0, 0].numpy(), beta**2)
    np.testing.assert_allclose(splitting.total_variation(z, beta, 20000)[0, 0].numpy(), exact, rtol=0, atol=2e-4)


def test_total_variation_treats_channels_apart(noisy):
    z = noisy[1][..., :24, :20]
    together = splitting.total_variation(z, 0.3, 5000)
    for channel in range(3):
        exact = dense.rof(z[0, channel].numpy(), 0.09)
        np.testing.assert_allclose(together[0, channel].numpy(), exact, rtol=0, atol=1e-3)


PRIORS = [splitting.total_variation, splitting.wavelets, splitting.nonlocal_means]


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("channels", [1, 3])
def test_priors_remove_noise(noisy, prior, channels):
    x, z = (image[:, :channels] for image in noisy)
    beta = 0.25 if prior is splitting.total_variation else 0.1
    assert usrlib.psnr(prior(z, beta), x) > usrlib.psnr(z, x) + 3


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(1, 1), (2, 3)])
def test_priors_keep_shape_dtype_and_their_input(prior, dtype, batch):
    z = uniform(*batch, 20, 24).to(dtype)
    copy = z.clone()
    x = prior(z, 0.1)
    assert x.shape == z.shape and x.dtype == dtype and torch.isfinite(x).all()
    assert torch.equal(z, copy)


@pytest.mark.parametrize("prior", PRIORS)
def test_priors_treat_the_images_of_a_batch_apart(prior):
    z = uniform(2, 3, 20, 24)
    assert torch.equal(prior(z, 0.1)[1:], prior(z[1:], 0.1))


@pytest.mark.parametrize("prior", PRIORS)
def test_the_level_of_a_prior_may_be_a_tensor(prior):
    z = uniform(1, 3, 20, 24)
    assert torch.equal(prior(z, torch.tensor(0.1, dtype=torch.float64)), prior(z, 0.1))


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("beta", [0.0, 1e-5])
def test_priors_of_level_zero_change_nearly_nothing(noisy, prior, beta):
    assert (prior(noisy[1], beta) - noisy[1]).abs().max() < 2e-3


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("bad, named", [((uniform(4, 4), 0.1), "z"), ((uniform(1, 1, 9, 9), -0.1), "beta")])
def test_priors_name_their_bad_arguments(prior, bad, named):
    with pytest.raises(ValueError, match=rf"\b{named}\b"):
        prior(*bad)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_splitting_with_total_variation_beats_the_aligned_bicubic_enlargement(scale):
    x, k = images.sample("astronaut", 96, (60, 170)), usrlib.gaussian_kernel(15, (1.6**2, 1.6**2))
    y = usrlib.degrade(x, k, scale, 2.55 / 255, torch.Generator().manual_seed(0))
    result = last(usrlib.hqs(y, k, scale, 2.55 / 255, splitting.total_variation, 5.0,
                             splitting.penalties(5.0, 0.3, 0.05, 8))).x
    assert usrlib.psnr(result, x, 8) > usrlib.psnr(usrlib.bicubic_upsample(y, scale), x, 8) + 1
