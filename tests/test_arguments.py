"""Every public function refuses what it cannot use, at the door, in a message that names the argument.

One table: for every public name a call that is accepted, and for each of its arguments the values that are not.
"""

import inspect
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from dense import random_kernel, uniform

import usrlib
from usrlib import evaluation, upscaling
from usrlib.validation import trusted_values

NAN, INF = float("nan"), float("inf")
X, Y, K = uniform(2, 3, 12, 12), uniform(2, 3, 6, 6), random_kernel(1, 1, 3, 3)


def level(*values):
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


def holding(x, value):
    x = x.clone()
    x[0, 0, 1, 1] = value
    return x


def tensors(x):
    """What can be wrong with any tensor."""
    return {
        "None": None, "a list": x.tolist(), "an array": x.numpy(),
        "rank 3": x[0], "rank 2": x[0, 0], "a scalar": x.sum(),
        "integers": (10 * x).long(), "booleans": x > 0, "complex": x.to(torch.complex128), "empty": x[..., :0],
        "no images": x[:0], "NaN": holding(x, NAN), "infinity": holding(x, INF), "-infinity": holding(x, -INF),
    }


def without(table, *keys):
    return {key: value for key, value in table.items() if key not in keys}


IMAGE = tensors(X)
PARTNER = tensors(Y) | {"one image": Y[:1], "one channel": Y[:, :1], "float32": Y.float()}     # must agree with x
KERNEL = tensors(K) | {"3 channels": K.expand(1, 3, 3, 3), "3 kernels": K.expand(3, 1, 3, 3)}
LARGE = {"too high": random_kernel(1, 1, 13, 3), "too wide": random_kernel(1, 1, 3, 13)}
SCALE = {"0": 0, "-1": -1, "2.5": 2.5, "2.0": 2.0, "True": True, "'2'": "2", "None": None, "a tensor": torch.tensor(2),
         "a pair": (2, 2), "NaN": NAN}
NOT_DIVISIBLE = {"5": 5}
COUNT = {"0": 0, "-1": -1, "2.5": 2.5, "True": True, "'5'": "5", "None": None, "a pair": (5, 5)}
LEVEL = {
    "-0.1": -0.1, "NaN": NAN, "infinity": INF, "'0.1'": "0.1", "None": None, "True": True, "complex": 0.1j,
    "a list": [0.1],
    "an array": np.array([0.1, 0.2]), "integers": torch.tensor(1),
    "one below 0": level(0.1, -0.1), "one NaN": level(0.1, NAN),
    "rank 1": torch.tensor([0.1, 0.2]), "a map": uniform(2, 1, 6, 6), "three levels": level(0.1, 0.2, 0.3),
    "no level": level(),
}
ONE = LEVEL | {"a level for each image": level(0.1, 0.2), "a level for all": level(0.1)}
POSITIVE = LEVEL | {"0": 0, "0.0": 0.0, "one 0": level(0.1, 0.0)}
GENERATOR = {"a seed": 0, "NumPy's": np.random.default_rng(0), "'cpu'": "cpu"}
PAIR = {"a number": 1.0, "one": (1.0,), "three": (1.0, 1.0, 1.0), "None": None, "NaN": (1.0, NAN),
        "infinity": (INF, 1.0),
        "words": ("1", "1"), "a word": "12", "complex": (1j, 1.0)}
BORDER = {"-1": -1, "1.5": 1.5, "True": True, "None": None, "too large": 6, "far too large": 99}

TABLE = {
    "blur": ({"x": X, "k": K}, {"x": IMAGE, "k": KERNEL | LARGE}),
    "blur_adjoint": ({"x": X, "k": K}, {"x": IMAGE, "k": KERNEL | LARGE}),
    "downsample": ({"x": X, "scale": 2}, {"x": IMAGE | {"odd": X[..., 1:]}, "scale": SCALE | NOT_DIVISIBLE}),
    "upsample_zeros": ({"y": Y, "scale": 2}, {"y": tensors(Y), "scale": SCALE}),
    "bicubic_downsample": ({"x": X, "scale": 2}, {"x": IMAGE | {"odd": X[..., 1:]}, "scale": SCALE | NOT_DIVISIBLE}),
    "bicubic_upsample": ({"y": Y, "scale": 2}, {"y": tensors(Y), "scale": SCALE}),
    "degrade": (
        {"x": X, "k": K, "scale": 2, "sigma": 0.1, "generator": None},
        {"x": IMAGE | {"odd": X[..., 1:]}, "k": KERNEL | LARGE, "scale": SCALE | NOT_DIVISIBLE, "sigma": LEVEL,
         "generator": GENERATOR},
    ),
    "psf_to_otf": (
        {"k": K, "shape": (6, 7)},
        {"k": without(KERNEL, "3 kernels"), "shape": {"a number": 6, "one": (6,), "three": (1, 6, 7), "None": None,
         "words": ("6", "7"), "fractions": (6.5, 7.5), "negative": (-6, 7), "too small": (2, 7), "zero": (0, 0)}},
    ),
    "gaussian_kernel": (
        {"size": 5, "variances": (1.0, 2.0), "angle": 0.3, "shift": (0.0, 0.0)},
        {"size": COUNT, "variances": PAIR | {"0": (0.0, 1.0), "negative": (1.0, -1.0)}, "shift": PAIR,
         "angle": {"NaN": NAN, "infinity": INF, "'0'": "0", "None": None, "True": True, "complex": 1j}},
    ),
    "motion_kernel": ({"size": 5, "generator": None}, {"size": COUNT | {"2": 2}, "generator": GENERATOR}),
    "bicubic_kernel": ({"scale": 2, "size": 8}, {"scale": SCALE | {"5": 5}, "size": COUNT | {"7": 7}}),
    "estimate_kernel": (
        {"x": X, "y": Y, "scale": 2, "size": 3, "ridge": 0.1, "borders": "circular"},
        {"x": IMAGE | {"odd": X[..., 1:]}, "y": PARTNER | {"another size": Y[..., 1:], "as large as x": X},
         "scale": SCALE | NOT_DIVISIBLE, "size": COUNT | {"larger than x": 13}, "ridge": LEVEL,
         "borders": {"another word": "zero", "None": None, "a number": 0}},
    ),
    "DataStep": ({"y": Y, "k": K, "scale": 2}, {"y": tensors(Y), "k": KERNEL | LARGE, "scale": SCALE}),
    "data_step": (
        {"x": X, "y": Y, "k": K, "scale": 2, "alpha": 0.1},
        {"x": IMAGE | {"another size": X[..., 2:], "float32": X.float()}, "y": PARTNER, "k": KERNEL | LARGE,
         "scale": SCALE | {"another": 3}, "alpha": POSITIVE},
    ),
    "hqs": (
        {"y": Y, "k": K, "scale": 2, "sigma": 0.1, "prior": lambda z, beta: z, "lam": 1.0, "mu": [1.0, 2.0]},
        {"y": tensors(Y), "k": KERNEL | LARGE, "scale": SCALE, "sigma": ONE,
         "prior": {"None": None, "a name": "total variation"}, "lam": POSITIVE,
         "mu": {"a number": 1.0, "None": None, "a word": "12", "empty": [], "with 0": [1.0, 0.0], "negative": [-1.0],
                "NaN": [1.0, NAN], "infinite": [INF], "words": ["1"], "nested": [[1.0]]}},
    ),
    "USRNet": (
        {"iterations": 1, "channels": (4, 8), "blocks": 1, "hidden": 4},
        {"iterations": COUNT, "blocks": COUNT, "hidden": COUNT,
         "channels": {"a number": 4, "None": None, "a word": "48", "none": (), "with 0": (4, 0), "fractions": (4.5, 8),
                      "words": ("4", "8")}},
    ),
    "load_denoiser": (
        {"name_or_path": "denoiser"},
        {"name_or_path": {"None": None, "a number": 0, "bytes": b"denoiser", "another name": "huge", "nothing": "",
                          "a folder": ".", "no weights": __file__, "a network": "tiny"}},
    ),
    "load_usrnet": (
        {"name_or_path": "tiny"},
        {"name_or_path": {"None": None, "a number": 0, "bytes": b"tiny", "another name": "huge", "nothing": "",
                          "a folder": ".", "no weights": __file__, "a denoiser": "denoiser"}},
    ),
    "psnr": ({"a": X, "b": X, "border": 0}, {"a": IMAGE, "b": IMAGE | {"another size": X[..., 1:], "one": X[:1]},
                                             "border": BORDER}),
    "ssim": ({"a": X, "b": X, "border": 0}, {"a": IMAGE, "b": IMAGE | {"another size": X[..., 1:], "one": X[:1]},
                                             "border": BORDER | {"less than the window left": 1}}),
}

CASES = [
    pytest.param(name, argument, value, id=f"{name}-{argument}-{what}")
    for name, (_, bad) in TABLE.items() for argument, values in bad.items() for what, value in values.items()
]


def test_the_table_holds_every_public_name():
    assert set(TABLE) | {"benchmark_kernels"} == set(usrlib.__all__)      # that one has no arguments


@pytest.mark.parametrize("name", TABLE)
def test_the_table_holds_every_argument(name):
    valid, bad = TABLE[name]
    assert set(valid) == set(bad) == set(inspect.signature(getattr(usrlib, name)).parameters)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", TABLE)
def test_the_call_in_the_table_is_accepted_and_changes_no_argument(name):
    arguments = TABLE[name][0]
    copies = {key: value.clone() for key, value in arguments.items() if isinstance(value, torch.Tensor)}
    getattr(usrlib, name)(**arguments)
    assert all(torch.equal(arguments[key], copy) for key, copy in copies.items())


@pytest.mark.parametrize("call", [
    lambda sigma: usrlib.degrade(X, K, 2, sigma),
    lambda sigma: upscaling.upscale(lambda y, *_: y, Y, K, 1, sigma),
    lambda sigma: usrlib.hqs(Y, K, 2, sigma, lambda z, beta: z, 1.0, [1.0]),
    lambda sigma: usrlib.load_usrnet("tiny").double()(Y, K, 2, sigma),
    lambda sigma: evaluation.low_resolution(X, K, 2, sigma),
], ids=["degrade", "upscale", "hqs", "USRNet", "low_resolution"])
def test_a_sigma_that_was_meant_in_255ths_brings_a_warning_that_points_at_the_users_line(call):
    with pytest.warns(UserWarning, match="sigma is on the scale of the picture") as caught:
        call(2.55)
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.parametrize("call", [
    lambda y: usrlib.load_usrnet("tiny")(y, K.float(), 2, 0.01),
    lambda y: usrlib.hqs(y, K.float(), 2, 0.01, lambda z, beta: z, 1.0, [1.0]),
], ids=["USRNet", "hqs"])
def test_a_picture_of_0_to_255_brings_a_warning(call):
    with pytest.warns(UserWarning, match=r"y is expected in \[0, 1\].* it reaches") as caught:
        call(255 * Y.float())
    assert {warning.filename for warning in caught} == {__file__}


def test_trust_ends_with_its_thread():
    spoilt = holding(X, NAN)
    with trusted_values(), ThreadPoolExecutor() as pool:
        usrlib.blur(spoilt, K)
        with pytest.raises(ValueError, match="x must be finite"):
            pool.submit(usrlib.blur, spoilt, K).result()
    with pytest.raises(ValueError, match="x must be finite"):
        usrlib.blur(spoilt, K)


@pytest.mark.parametrize("z", [uniform(1, 3, 8, 8), uniform(1, 1, 8, 8).float(), uniform(3, 8, 8).float()])
def test_a_denoiser_names_what_it_cannot_use(z):
    with pytest.raises((ValueError, TypeError), match=r"^z must have"):
        usrlib.load_denoiser("denoiser")(z, 0.1)


@pytest.mark.parametrize("beta", [torch.full((8,), 0.1), torch.full((2, 1, 1, 1), 0.1), torch.full((1, 1, 8, 8), 0.1)])
def test_a_denoiser_takes_one_level_for_an_image(beta):
    with pytest.raises(ValueError, match=r"^beta must be a number or have shape \(1 or 1, 1, 1, 1\); got"):
        usrlib.load_denoiser("denoiser")(uniform(1, 3, 8, 8).float(), beta)


@pytest.mark.parametrize("beta", [-0.1, None, NAN, "0.1"])
def test_a_denoiser_names_a_bad_level(beta):
    with pytest.raises((ValueError, TypeError), match=r"^beta must be a finite number"):
        usrlib.load_denoiser("denoiser")(uniform(1, 3, 8, 8).float(), beta)


def test_upscale_asks_for_a_method():
    with pytest.raises(TypeError, match="restore must be callable"):
        upscaling.upscale(None, Y[:1], K, 2, 0.01)


def test_a_message_about_levels_says_how_many_there_may_be():
    with pytest.raises(ValueError, match=r"alpha must be .* shape \(1 or 2, 1, 1, 1\); got .* \(3, 1, 1, 1\)"):
        usrlib.data_step(X, Y, K, 2, level(0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match=r"sigma must be a number; got a tensor of shape \(2, 1, 1, 1\)"):
        usrlib.hqs(Y, K, 2, level(0.1, 0.2), lambda z, beta: z, 1.0, [1.0])


@pytest.mark.parametrize("alpha", [torch.full((2,), 0.1), torch.full((1, 3, 1, 1), 0.1), 0.0, -1.0, NAN, None])
def test_the_inner_step_names_an_alpha_that_it_cannot_use(alpha):
    with pytest.raises((ValueError, TypeError), match=r"^alpha must be a "):
        usrlib.DataStep(Y, K, 2)(X, alpha)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_inner_step_wants_the_dtype_of_y(dtype):
    with pytest.raises(TypeError, match=r"x must have the dtype of y, torch\.float64"):
        usrlib.DataStep(Y, K, 2)(X.to(dtype), 0.1)


def test_an_alpha_that_vanishes_in_the_dtype_is_refused():
    with pytest.raises(ValueError, match=r"alpha must be large enough not to vanish in torch\.float32; got 1e-50"):
        usrlib.data_step(X.float(), Y.float(), K.float(), 2, 1e-50)
    assert usrlib.data_step(X, Y, K, 2, 1e-50).isfinite().all()


@pytest.mark.parametrize("name, argument, value", CASES)
def test_a_bad_argument_is_refused_by_name(name, argument, value):
    arguments = TABLE[name][0] | {argument: value}
    named = rf"(^|, | and | of ){argument}\b"                     # not the article of "must be a tensor"
    with pytest.raises((ValueError, TypeError), match=named):
        getattr(usrlib, name)(**arguments)
