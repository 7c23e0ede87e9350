"""USRNet is the paper's network: its size, its formula, the authors' own outputs; and weights that can be trusted."""

import json
import os
import pickle
from hashlib import sha256

import numpy as np
import pytest
import torch
from dense import random_kernel, uniform
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import usrlib
from usrlib.network import WEIGHTS, ResUNet, USRNet, load_usrnet, read_card, save_weights
from usrlib.training import CONFIGS

TINY = {"iterations": 6, "channels": (16, 32, 64, 64), "hidden": 32}


def network(seed=0, **architecture):
    torch.manual_seed(seed)
    small = {"iterations": 2, "channels": (4, 6, 8), "blocks": 1, "hidden": 5}
    return USRNet(**(small | architecture)).double().eval()


Y, K = uniform(2, 3, 5, 6), random_kernel(2, 1, 4, 3)


# --- The function ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("architecture, count", [(TINY, 590_332), ({}, 17_016_016)])
def test_it_has_exactly_the_parameters_of_the_paper(architecture, count):
    assert sum(parameter.numel() for parameter in USRNet(**architecture).parameters()) == count


@pytest.mark.parametrize("case", range(7))
def test_it_is_the_authors_network(reference, case):
    golden = {key: torch.from_numpy(value) for key, value in np.load(reference("golden.npz")).items()}
    model = load_usrnet(reference("authors_usrnet_tiny.pth"))
    y, k, scale, sigma, exact, alpha, beta = (
        golden[f"forward{case}_{name}"] for name in ("y", "k", "scale", "sigma", "x64", "alpha", "beta")
    )
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-8)):
        arguments = y[None].to(dtype), k[None, None].to(dtype), int(scale), float(sigma)
        x = model.to(dtype)(*arguments)
        assert x.dtype == dtype and (x[0].double() - exact).abs().max() < tolerance
        steps = model.trajectory(*arguments)
        assert torch.equal(steps[-1].x, x)
        for name, values in (("alpha", alpha), ("beta", beta)):
            ours = torch.stack([getattr(step, name).flatten() for step in steps]).flatten()
            assert torch.allclose(ours.double(), values.double(), rtol=1e-5)


def test_it_is_the_loop_of_data_step_and_prior():
    model = network(iterations=3)
    sigma = torch.tensor([0.01, 0.2], dtype=torch.float64).view(2, 1, 1, 1)
    alpha, beta = model.hyper(sigma, 2)
    assert alpha.shape == beta.shape == (3, 2, 1, 1, 1) and alpha.min() > 0 and beta.min() > 0
    x = Y.repeat_interleave(2, -1).repeat_interleave(2, -2)
    for k in range(3):
        x = model.prior(usrlib.data_step(x, Y, K, 2, alpha[k]), beta[k])
    assert torch.allclose(model(Y, K, 2, sigma), x, rtol=0, atol=1e-13)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 4))
def test_a_picture_of_any_size_comes_out_scale_times_as_large(height, width, scale):
    y = uniform(1, 3, height, width)
    assert network()(y, random_kernel(1, 1, 1, 1), scale, 0.1).shape == (1, 3, scale * height, scale * width)


def test_pictures_of_a_batch_do_not_see_each_other():
    model, sigma = network(), torch.tensor([0.0, 0.1], dtype=torch.float64).view(2, 1, 1, 1)
    together = model(Y, K, 3, sigma)
    for n in range(2):
        alone = model(Y[n : n + 1], K[n : n + 1], 3, sigma[n].item())
        assert torch.allclose(together[n], alone[0], rtol=0, atol=1e-13)


def test_one_kernel_and_one_noise_level_serve_a_batch():
    model, sigma = network(), torch.full((2, 1, 1, 1), 0.1, dtype=torch.float64)
    assert torch.equal(model.prior(Y, sigma[:1]), model.prior(Y, sigma))
    assert torch.allclose(model(Y, K[:1], 2, 0.1), model(Y, K[:1].expand(2, 1, 4, 3), 2, sigma), rtol=0, atol=1e-13)


def test_a_size_that_does_not_halve_goes_on_below_and_to_the_right_as_its_last_pixels():
    prior, z = network().prior, uniform(2, 3, 9, 10)
    continued = z[..., torch.arange(12).clamp(max=8), :][..., torch.arange(12).clamp(max=9)]
    assert torch.allclose(prior(z, 0.1), prior(continued, 0.1)[..., :9, :10], rtol=0, atol=1e-13)


def test_alpha_and_beta_stay_above_zero_where_softplus_vanishes():
    model = network()
    model.hyper.layers[4].bias.data.fill_(-1000.0)
    for level in model.hyper(torch.full((1, 1, 1, 1), 0.1, dtype=torch.float64), 2):
        assert (level == 1e-6).all()


@given(st.floats(0.01, 100.0))
def test_the_prior_has_no_favourite_brightness(factor):
    prior, z, beta = network().prior, uniform(2, 3, 9, 12), torch.full((2, 1, 1, 1), 0.1, dtype=torch.float64)
    assert torch.allclose(prior(factor * z, factor * beta), factor * prior(z, beta), rtol=1e-9, atol=1e-12)


def test_the_prior_knows_only_shifts_by_the_depth_of_its_pyramid():
    prior, beta = network().prior, torch.full((1, 1, 1, 1), 0.1, dtype=torch.float64)
    z = torch.zeros(1, 3, 96, 96, dtype=torch.float64)
    z[..., 44:52, 44:52] = uniform(1, 3, 8, 8)
    for shift, same in ((4, True), (2, False), (1, False)):           # three sizes: a quarter at the coarsest
        inside = (..., slice(32, 64), slice(32, 64))
        assert torch.allclose(prior(z.roll(shift, -1), beta).roll(-shift, -1)[inside], prior(z, beta)[inside],
                              atol=1e-12) == same


def test_gradients_reach_every_parameter_and_every_argument():
    model, arguments = network(), [Y.clone().requires_grad_(), K.clone().requires_grad_()]
    sigma = torch.full((2, 1, 1, 1), 0.1, dtype=torch.float64, requires_grad=True)
    model(*arguments, 2, sigma).square().sum().backward()
    for tensor in (*arguments, sigma, *model.parameters()):
        assert tensor.grad.abs().max() > 0
    assert torch.autograd.gradcheck(lambda y, k: model(y, k, 2, 0.1), arguments, fast_mode=True)


def test_under_autocast_only_the_prior_is_rounded():
    model, y, k = network(iterations=1).float(), Y.float(), K.float()
    exact = model.trajectory(y, k, 2, 0.1)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.trajectory(y, k, 2, 0.1)[0]
    assert torch.equal(rounded.z, exact.z) and torch.equal(rounded.alpha, exact.alpha)
    assert rounded.x.dtype == torch.float32 and not torch.equal(rounded.x, exact.x)
    assert torch.allclose(rounded.x, exact.x, rtol=0, atol=0.02 * exact.x.abs().max().item())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")           # PyTorch's own
def test_a_compiled_prior_is_compiled_once_for_all_iterations_and_scales():
    graphs = []
    model = network().float().requires_grad_(False)
    tasks = [(uniform(1, 3, 24 // scale, 24 // scale).float(), K[:1].float(), scale, 0.1) for scale in (1, 2, 3)]
    expected = [model(*task) for task in tasks]
    model.prior.compile(backend=lambda graph, inputs: graphs.append(graph) or graph)
    for task, x in zip(tasks, expected, strict=True):
        assert torch.equal(model(*task), x)
    assert len(graphs) == 1


def test_a_kernel_that_does_not_sum_to_1_is_used_with_a_warning():
    with pytest.warns(UserWarning, match="k should sum to 1"):
        network()(Y, 2 * random_kernel(1, 1, 3, 3), 2, 0.1)


@pytest.mark.filterwarnings("error")
def test_a_kernel_that_sums_to_1_brings_no_warning():
    network()(Y, random_kernel(1, 1, 3, 3), 2, 0.1)


SIGMA = torch.full((3, 1, 1, 1), 0.1, dtype=torch.float64)


@pytest.mark.parametrize("argument, value", [
    ("y", None), ("y", Y[0]), ("y", Y[:, :1]), ("y", Y.float()), ("y", Y * float("nan")), ("k", None),
    ("k", K.expand(2, 3, 4, 3)[:, :2]), ("k", random_kernel(3, 1, 3, 3)), ("k", random_kernel(1, 1, 11, 3)),
    ("scale", 0), ("scale", 2.0), ("scale", None), ("sigma", -0.1), ("sigma", None), ("sigma", "0.1"),
    ("sigma", float("inf")), ("sigma", SIGMA), ("sigma", SIGMA[:2].flatten()),
])
def test_a_bad_argument_is_refused_by_name(argument, value):
    arguments = {"y": Y, "k": K, "scale": 2, "sigma": 0.1} | {argument: value}
    for call in (network(), network().trajectory):
        with pytest.raises((ValueError, TypeError), match=rf"^{argument} "):
            call(**arguments)


# --- Weights -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_bundled_weights_have_a_card_and_fit_their_configuration(path):
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    shapes = {key: list(tensor.shape) for key, tensor in load_file(path).items()}
    config = CONFIGS[path.stem]
    model = USRNet(config.iterations, config.channels, config.blocks, config.hidden) if config.iterations else \
        ResUNet(config.channels, config.blocks)
    assert shapes == {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert card["parameters"] == sum(np.prod(shape) for shape in shapes.values())
    assert {"config", "steps_done", "photographs", "low_resolution", "commit", "hardware", "torch", "hours",
            "held_out_psnr", "sha256"} <= set(card)
    assert not any(parameter.requires_grad for parameter in load_usrnet("tiny").parameters())


@pytest.mark.parametrize("architecture", [
    {"iterations": 1, "channels": (4,), "blocks": 1}, {"channels": (4, 5), "blocks": 3}, TINY | {"blocks": 2},
])
def test_any_architecture_is_saved_and_read_back(tmp_path, architecture):
    model = network(**architecture).float()
    save_weights(model, tmp_path / "mine.safetensors", {"steps_done": 0})
    again = load_usrnet(tmp_path / "mine.safetensors")
    assert torch.equal(again(Y.float(), K.float(), 2, 0.1), model(Y.float(), K.float(), 2, 0.1))


def test_more_than_ten_levels_are_read_in_their_order(tmp_path):
    save_weights(network(channels=tuple(range(2, 14))).float(), tmp_path / "mine.safetensors", {})
    assert len(load_usrnet(tmp_path / "mine.safetensors").prior.down) == 11


def test_a_json_beside_weights_that_is_no_card_does_not_lock_them(tmp_path):
    save_weights(network().float(), tmp_path / "mine.safetensors", {})
    (tmp_path / "mine.json").write_text('{"rows": []}', encoding="utf-8")              # results of an evaluation, say
    assert load_usrnet(tmp_path / "mine.safetensors") is not None and read_card(tmp_path / "mine.safetensors") is None


def authors_state(model):
    """The weights of a tiny USRNet in the authors' layout, written down from its description, level by level."""
    state, ours = {}, model.state_dict()
    state["p.m_head.weight"], state["p.m_tail.weight"] = ours["prior.head.weight"], ours["prior.tail.weight"]
    for block in (0, 1):
        for layer in (0, 1):
            conv = f"conv{layer + 1}.weight"
            state[f"p.m_body.{block}.res.{2 * layer}.weight"] = ours[f"prior.body.{block}.{conv}"]
            for level in (1, 2, 3):
                state[f"p.m_down{level}.{block}.res.{2 * layer}.weight"] = (
                    ours[f"prior.down.{level - 1}.{block}.{conv}"]
                )
                state[f"p.m_up{level}.{block + 1}.res.{2 * layer}.weight"] = (
                    ours[f"prior.up.{3 - level}.{block + 1}.{conv}"]
                )
    for level in (1, 2, 3):
        state[f"p.m_down{level}.2.weight"] = ours[f"prior.down.{level - 1}.2.weight"]
        state[f"p.m_up{level}.0.weight"] = ours[f"prior.up.{3 - level}.0.weight"]
    for layer in (0, 2, 4):
        state[f"h.mlp.{layer}.weight"] = ours[f"hyper.layers.{layer}.weight"][:, :, None, None]
        state[f"h.mlp.{layer}.bias"] = ours[f"hyper.layers.{layer}.bias"]
    return state


def test_loading_leaves_pytorchs_generator_alone():
    state = torch.get_rng_state()
    load_usrnet("tiny")
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_are_saved_under_the_ending_by_which_they_are_read(tmp_path):
    for name in ("mine.pth", "mine.json", "mine"):
        with pytest.raises(ValueError, match=r"path must end in \.safetensors"):
            save_weights(network(), tmp_path / name, {})
    assert not [*tmp_path.iterdir()]


def test_where_the_disk_is_full_the_old_file_stays_and_the_new_one_is_named(tmp_path, monkeypatch):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=r"No space left on device.*mine\.safetensors'$"):
        save_weights(network(), path, {})
    assert path.read_bytes() == b"old" and [*tmp_path.iterdir()] == [path]


def test_weights_are_float32_whatever_pytorchs_default(tmp_path):
    save_weights(network().float(), tmp_path / "mine.safetensors", {})
    torch.set_default_dtype(torch.float64)
    try:
        model = load_usrnet(tmp_path / "mine.safetensors")
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_authors_layout_is_read(tmp_path):
    model = network(**TINY, blocks=2).float()
    state = authors_state(model)
    assert len(state) == 42
    torch.save(state, tmp_path / "theirs.pth")
    again = load_usrnet(tmp_path / "theirs.pth")
    assert torch.equal(again(Y.float(), K.float(), 2, 0.1), model(Y.float(), K.float(), 2, 0.1))


def test_tensors_that_share_memory_in_a_file_do_not_share_it_in_the_network(tmp_path):
    state = authors_state(network(**TINY, blocks=2).float())
    state["h.mlp.2.bias"] = state["h.mlp.0.bias"]
    torch.save(state, tmp_path / "theirs.pth")
    model = load_usrnet(tmp_path / "theirs.pth")
    model.hyper.layers[0].bias.add_(1)
    assert not torch.equal(model.hyper.layers[0].bias, model.hyper.layers[2].bias)
    save_weights(model, tmp_path / "ours.safetensors", {})


class Malice:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def damaged(folder):
    """Files that must be refused, by what is wrong with each."""
    model = network().float()
    good = folder / "good.safetensors"
    save_weights(model, good, {})
    data, state = good.read_bytes(), load_file(good)

    def raw(name, content):
        (folder / name).write_bytes(content)
        return folder / name

    def tensors(name, change):
        save_file({key: tensor.contiguous() for key, tensor in (state | change).items()}, folder / name)
        return folder / name

    def saved(name, content):
        torch.save(content, folder / name)
        return folder / name

    altered = bytearray(data)
    altered[-1] ^= 1
    raw("altered.json", good.with_suffix(".json").read_bytes())
    yield "altered", raw("altered.safetensors", bytes(altered))
    raw("ancestor.json", json.dumps({"continued_from": {"sha256": sha256(data).hexdigest()}, "sha256": "0"}).encode())
    yield "those that its card began with", raw("ancestor.safetensors", data)
    raw("words.json", b"no card")
    yield "words for a card", raw("words.safetensors", data)
    yield "truncated", raw("truncated.safetensors", data[: len(data) // 2])
    yield "empty", raw("empty.safetensors", b"")
    yield "text", raw("text.safetensors", b"not a network")
    yield "another shape", tensors("shape.safetensors", {"prior.tail.weight": torch.zeros(3, 5, 3, 3)})
    yield "another tensor", tensors("more.safetensors", {"prior.extra": torch.zeros(3)})
    yield "not a number", tensors("nan.safetensors", {"prior.tail.weight": torch.full((3, 4, 3, 3), torch.nan)})
    yield "integers", tensors("integers.safetensors", {"prior.tail.weight": torch.zeros(3, 4, 3, 3, dtype=torch.int64)})
    save_file({"a": torch.zeros(1)}, folder / "stranger.safetensors")
    yield "a stranger", folder / "stranger.safetensors"
    yield "a tensor", saved("tensor.pth", torch.zeros(3))
    yield "a list", saved("list.pth", [1, 2])
    yield "words", saved("words.pth", {"p.m_head.weight": "zero"})
    yield "numbered", saved("numbered.pth", {0: torch.zeros(1)})
    yield "malice", raw("malice.pth", pickle.dumps(Malice(folder / "executed")))
    yield "malice in an archive", saved("archive.pth", {"p.m_head.weight": Malice(folder / "executed")})
    whole = saved("whole.pth", authors_state(network(**TINY, blocks=2))).read_bytes()
    yield "half a checkpoint", raw("half.pth", whole[: len(whole) // 2])
    for number, junk in enumerate((b"", b"hello", b"Rate limit", b"GIF89a")):
        yield junk, raw(f"junk{number}.pth", junk)
    yield "a sparse tensor", saved("sparse.pth", {"p.m_head.weight": torch.zeros(3, 3).to_sparse()})


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_what_is_damaged_altered_or_malicious_is_refused(tmp_path):
    for what, path in damaged(tmp_path):
        with pytest.raises((ValueError, TypeError), match=r"^name_or_path") as caught:
            load_usrnet(path)
        assert path.stem in str(caught.value) and "weights_only" not in str(caught.value), what
        assert "\n" not in str(caught.value), what
    assert not (tmp_path / "executed").exists()
