"""The closed form: equal to the dense solve, to the paper's form and to the authors' results, in two precisions."""

import dense
import numpy as np
import pytest
import torch
from dense import each_plane, matrix, random_kernel, uniform
from hypothesis import assume, given
from hypothesis import strategies as st
from textbook import RealTextbookDataStep, TextbookDataStep

import usrlib
from usrlib import images
from usrlib.validation import trusted_values


def case(batch=(1, 1), small=(4, 4), size=(3, 3), scale=2, kernels=1):
    """Random x, y, k."""
    x = uniform(*batch, small[0] * scale, small[1] * scale)
    return x, uniform(*batch, *small, seed=2), random_kernel(kernels, 1, *size)


def misfit(x, y, k, scale):
    """|y - Ax|^2 with the dense A."""
    return each_plane(lambda x, y, k: np.square(y.ravel() - matrix(k, x.shape, scale) @ x.ravel()).sum(), x, y, k).sum()


# --- Inside other programs ---------------------------------------------------------------------------------------

def test_it_can_be_traced_and_compiled_whole():
    x, y, k = case()
    compiled = torch.compile(usrlib.data_step, fullgraph=True, backend="eager")
    for alpha in (0.1, 0.2):                    # a second number is followed as a symbol
        assert torch.equal(compiled(x, y, k, 2, alpha), usrlib.data_step(x, y, k, 2, alpha))
    network = usrlib.load_usrnet("tiny").double()
    picture = uniform(1, 3, 8, 8)
    traced = torch.compile(network, fullgraph=True, backend="eager")(picture, k, 2, 0.01)
    assert torch.allclose(traced, network(picture, k, 2, 0.01), rtol=0, atol=1e-12)


def test_it_can_be_mapped_over_a_batch_where_values_are_trusted():
    x, y, k = case(batch=(3, 2), kernels=3)
    with trusted_values():
        mapped = torch.func.vmap(lambda x, y, k: usrlib.data_step(x[None], y[None], k[None], 2, 0.1)[0])(x, y, k)
    assert torch.allclose(mapped, usrlib.data_step(x, y, k, 2, 0.1), rtol=0, atol=1e-12)


# --- The solution ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("alpha", [1e-6, 0.01, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (4, 4), (5, 2)])
@pytest.mark.parametrize("scale, small", [(1, (6, 7)), (2, (3, 4)), (3, (3, 2)), (4, (2, 3)), (8, (1, 2))])
def test_the_data_step_is_the_dense_solution(scale, small, size, alpha):
    x, y, k = case(small=small, size=size, scale=scale)
    z = usrlib.data_step(x, y, k, scale, alpha)
    torch.testing.assert_close(z, dense.data_step(x, y, k, scale, alpha), rtol=0, atol=1e-9 if alpha < 1e-3 else 1e-11)


@given(
    scale=st.integers(1, 4), small=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)), batch=st.integers(1, 3), channels=st.integers(1, 2),
    one_each=st.booleans(),
)
def test_the_data_step_is_the_dense_solution_for_any_layout(scale, small, size, batch, channels, one_each):
    assume(size[0] <= small[0] * scale and size[1] <= small[1] * scale)
    x, y, k = case((batch, channels), small, size, scale, batch if one_each else 1)
    z = usrlib.data_step(x, y, k, scale, 0.05)
    torch.testing.assert_close(z, dense.data_step(x, y, k, scale, 0.05), rtol=0, atol=1e-10)


def test_each_image_has_its_own_alpha():
    x, y, k = case((3, 2), kernels=3)
    alpha = torch.tensor([1e-3, 0.1, 10.0], dtype=torch.float64).view(3, 1, 1, 1)
    z = usrlib.data_step(x, y, k, 2, alpha)
    for n in range(3):
        expected = dense.data_step(x[n : n + 1], y[n : n + 1], k[n : n + 1], 2, alpha[n].item())
        torch.testing.assert_close(z[n : n + 1], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [5, 6])
def test_the_dual_form_is_the_papers_form(scale, size):
    x, y, k = case((2, 3), (8, 10), (size, size), scale, kernels=2)
    for alpha in (1e-3, 0.1, 10.0):
        for form in (TextbookDataStep, RealTextbookDataStep):
            paper = form(y, k, scale)(x, alpha)
            torch.testing.assert_close(usrlib.data_step(x, y, k, scale, alpha), paper, rtol=0, atol=1e-10)


@pytest.mark.parametrize("index", range(5))
def test_the_data_step_gives_the_results_of_the_authors_code(reference, index):
    golden = np.load(reference("golden.npz"))
    x, y, k, z = (torch.from_numpy(golden[f"data{index}_{name}"]).double() for name in ("x0", "y", "k", "z"))
    scale, alpha = int(golden[f"data{index}_scale"]), float(golden[f"data{index}_alpha"])
    torch.testing.assert_close(usrlib.data_step(x, y, k, scale, alpha), z, rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_kernels_need_not_sum_to_one(scale):
    x, y, _ = case(scale=scale)
    for k in (5 * uniform(1, 1, 3, 4), uniform(1, 1, 4, 3) - 0.5, torch.zeros(1, 1, 3, 3, dtype=torch.float64)):
        z = usrlib.data_step(x, y, k, scale, 0.1)
        torch.testing.assert_close(z, dense.data_step(x, y, k, scale, 0.1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale, small", [(1, (5, 6)), (2, (3, 4)), (3, (2, 1))])
def test_a_kernel_may_be_as_large_as_the_image(scale, small):
    x, y, k = case(small=small, size=(small[0] * scale, small[1] * scale), scale=scale)
    z = usrlib.data_step(x, y, k, scale, 0.1)
    torch.testing.assert_close(z, dense.data_step(x, y, k, scale, 0.1), rtol=0, atol=1e-10)


# --- What it means -----------------------------------------------------------------------------------------------

@given(scale=st.integers(1, 3), log_alpha=st.floats(-4, 2), seed=st.integers(3, 10**6))
def test_every_step_away_from_z_raises_the_objective(scale, log_alpha, seed):
    (x, y, k), alpha = case(scale=scale), 10**log_alpha
    z = usrlib.data_step(x, y, k, scale, alpha)
    direction = uniform(*z.shape, seed=seed) - 0.5
    at, after, before = (
        misfit(v, y, k, scale) + alpha * (v - x).square().sum()
        for v in (z, z + 0.1 * direction, z - 0.1 * direction)
    )
    assert at < after and at < before
    assert (after - before).abs() < 1e-10 * at + 1e-12           # at a minimum both sides rise alike


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_large_alpha_leaves_x_alone(scale):
    x, y, k = case(scale=scale)
    for alpha in (1e3, 1e6, 1e9):
        assert (usrlib.data_step(x, y, k, scale, alpha) - x).abs().max() < 10 / alpha


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_small_alpha_projects_x_onto_the_solutions(scale):
    x, y, k = case((1, 2), scale=scale)
    k = 0.2 * k
    k[..., 1, 1] += 0.8                                                     # AA' is well conditioned
    z = usrlib.data_step(x, y, k, scale, 1e-12)
    assert misfit(z, y, k, scale) < 1e-20

    def project(x, y, k):
        A = matrix(k, x.shape, scale)
        return (x.ravel() + np.linalg.pinv(A) @ (y.ravel() - A @ x.ravel())).reshape(x.shape)

    torch.testing.assert_close(z, each_plane(project, x, y, k), rtol=0, atol=1e-10)


def test_data_that_x_already_explains_change_nothing():
    x, _, k = case((2, 3), kernels=2)
    torch.testing.assert_close(usrlib.data_step(x, usrlib.degrade(x, k, 2), k, 2, 1e-6), x, rtol=0, atol=1e-10)


# --- As a piece of a network -------------------------------------------------------------------------------------

@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("kernels", [1, 2])
def test_gradients_pass_through_x_y_k_and_alpha(scale, kernels):
    x, y, k = case((2, 1), (2, 2), (2, 2), scale, kernels)
    alpha = torch.tensor([0.05, 0.3], dtype=torch.float64).view(2, 1, 1, 1)
    inputs = [tensor.requires_grad_() for tensor in (x, y, k, alpha)]
    assert torch.autograd.gradcheck(lambda x, y, k, alpha: usrlib.data_step(x, y, k, scale, alpha), inputs)


def test_a_data_step_prepared_once_is_the_data_step():
    x, y, k = case((2, 3), kernels=2)
    solve = usrlib.DataStep(y, k, 2)
    for alpha in (1e-4, 0.1):
        assert torch.equal(solve(x, alpha), usrlib.data_step(x, y, k, 2, alpha))


def test_inputs_are_not_modified():
    inputs = *case((2, 3), kernels=2), torch.full((2, 1, 1, 1), 0.1, dtype=torch.float64)
    copies = [tensor.clone() for tensor in inputs]
    x, y, k, alpha = inputs
    usrlib.data_step(x, y, k, 2, alpha)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(inputs, copies, strict=True))


def test_a_prepared_data_step_refuses_an_x_of_another_size():
    x, y, k = case()
    with pytest.raises(ValueError, match=r"\bx\b"):
        usrlib.DataStep(y, k, 2)(x[..., :-1], 0.1)


# --- Float32 -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("alpha", [0.1, torch.full((2, 1, 1, 1), 0.1), torch.full((2, 1, 1, 1), 0.1).double()])
def test_z_has_the_dtype_of_x(alpha):
    x, y, k = (tensor.float() for tensor in case((2, 3)))
    assert usrlib.data_step(x, y, k.double(), 2, alpha).dtype == torch.float32


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_float32_loses_one_over_the_root_of_alpha_and_no_more(scale):
    kernels = usrlib.benchmark_kernels()[:8]
    x = images.sample("astronaut", 96, (60, 170)).expand(8, -1, -1, -1)
    y = usrlib.degrade(x, kernels, scale)
    guess = usrlib.bicubic_upsample(y, scale)
    for alpha in (1e-2, 1e-4, 1e-6, 1e-8):
        exact = usrlib.data_step(guess, y, kernels, scale, alpha)
        single = usrlib.data_step(guess.float(), y.float(), kernels.float(), scale, alpha)
        error = (single - exact).abs().amax((1, 2, 3)) / exact.abs().amax((1, 2, 3))
        assert error.max() < 4 * 2**-24 * (1 + 1 / (2 * alpha**0.5)), f"alpha {alpha}: {error.tolist()}"
