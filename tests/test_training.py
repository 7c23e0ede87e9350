"""Training: chance that can be repeated, pairs that are what they claim, and a run that nothing can spoil."""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from safetensors.torch import save_file

import usrlib
from usrlib import splitting, training
from usrlib.network import ResidualBlock, ResUNet
from usrlib.training import CONFIGS, Config, Dice, Diverged, Photographs, Sampler, Trainer, read_photographs, run

SMALL = Config(iterations=2, channels=(4, 6), blocks=1, hidden=4, crop=36, batch=4, steps=12, warmup=2, bf16=False)


def pictures(count=3, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (40 + 7 * n, 60 - 5 * n, 3), dtype=np.uint8) for n in range(count)]


@pytest.fixture(scope="module")
def photographs():
    return Photographs(pictures())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty small pictures as files: enough that some are held out."""
    path = tmp_path_factory.mktemp("photographs")
    for n, array in enumerate(pictures(1, seed) for seed in range(40)):
        Image.fromarray(array[0]).save(path / f"photo{n}.png")
    return path


# --- Chance ------------------------------------------------------------------------------------------------------

def splitmix(state, count):
    """SplitMix64 in Python's integers, from its publication."""
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        yield z ^ z >> 31


def test_the_bits_are_those_of_splitmix64():
    assert next(splitmix(1234567, 1)) == 6457827717110365317           # the published test vector of the generator
    dice = Dice(3, 5, torch.arange(4))
    name = int.from_bytes(training.sha256(b"noise").digest()[:7], "big")
    for key, bits in zip(dice.key.tolist(), dice.bits("noise", 2, 3), strict=True):
        stream = (next(splitmix((key + name - 0x9E3779B97F4A7C15) % 2**64, 1)))
        assert [value % 2**64 for value in bits.flatten().tolist()] == list(splitmix(stream, 6))


@pytest.mark.parametrize("count", [1, 7, 10**6, 2**31 - 1, 9_500_000_000, 2**50 + 1])
def test_an_integer_below_a_count_is_exact_also_for_billions_of_pixels(count):
    dice = Dice(3, 5, torch.arange(50))
    expected = [(bits % 2**64 >> 32) * count >> 32 for bits in dice.bits("place").tolist()]
    assert dice.below("place", count).tolist() == expected


def test_a_sample_is_a_function_of_seed_step_and_index_alone():
    whole = Dice(0, 7, torch.arange(8)).normal("noise", 3, 5)
    assert torch.equal(Dice(0, 7, torch.arange(4, 8)).normal("noise", 3, 5), whole[4:])
    for other in (Dice(1, 7, torch.arange(8)), Dice(0, 8, torch.arange(8)), Dice(0, 7, torch.arange(8, 16))):
        assert not (other.normal("noise", 3, 5) == whole).any()
    assert not (Dice(0, 7, torch.arange(8)).normal("another", 3, 5) == whole).any()


def test_its_numbers_have_the_distributions_they_should():
    dice = Dice(0, 0, torch.arange(100))
    u, n = dice.uniform("u", 5000, low=-1.0, high=3.0), dice.normal("n", 5000)
    assert u.min() >= -1 and u.max() < 3 and abs(u.mean() - 1) < 0.01 and abs(u.var() - 16 / 12) < 0.01
    assert abs(n.mean()) < 0.005 and abs(n.var() - 1) < 0.01 and abs((n**4).mean() - 3) < 0.05 and n.abs().max() > 4
    assert abs(dice.chance("c", 0.25, 5000).float().mean() - 0.25) < 0.005
    counts = torch.stack([Dice(0, step, torch.arange(100)).below("b", 7) for step in range(200)]).flatten().bincount()
    assert len(counts) == 7 and (counts / counts.sum() - 1 / 7).abs().max() < 0.01
    samples = n[:, :5000]
    assert (torch.corrcoef(samples[:20]) - torch.eye(20)).abs().max() < 0.08


def test_the_most_extreme_throws_stay_in_range(monkeypatch):
    dice = Dice(0, 0, torch.arange(2))
    for bits in (0, -1):
        monkeypatch.setattr(dice, "bits", lambda name, *shape, bits=bits: torch.full((2, *shape), bits))
        assert dice.normal("n", 1).isfinite().all() and ((u := dice.uniform("u", 1)) >= 0).all() and (u < 1).all()
        assert (dice.below("b", 7) == (0 if bits == 0 else 6)).all()


# --- Pairs -------------------------------------------------------------------------------------------------------

def test_photographs_take_arrays_that_are_turned_and_mirrored_by_their_strides():
    array = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for view in (array.swapaxes(0, 1), array[::-1]):
        assert torch.equal(Photographs([view]).pixels, torch.from_numpy(view.copy()).view(-1, 3))


def test_a_crop_is_a_piece_of_a_photograph_turned_in_one_of_eight_ways():
    rows, columns = np.meshgrid(range(50), range(60), indexing="ij")
    places = np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)
    other = places[:40].copy()
    other[..., 2] = 1
    crops = (255 * Photographs([places, other]).crops(Dice(0, 0, torch.arange(4000)), 36)).round().int()
    seen, corners, owners = set(), set(), crops[:, 2, 0, 0]
    for crop in crops:
        row, column, owner = crop
        assert (owner == owner[0, 0]).all()
        assert {len(row.unique()), len(column.unique())} == {36}               # straight along one axis each
        seen.add((bool(row[0, 1] == row[0, 0]), int(row.max() - row[0, 0]), int(column.max() - column[0, 0])))
        corners.add((int(owner[0, 0]), int(row.min()), int(column.min())))
    assert len(seen) == 8
    for owner, bottom, right in ((0, 14, 24), (1, 4, 24)):                      # from edge to edge, and not beyond
        tops, lefts = zip(*(place[1:] for place in corners if place[0] == owner), strict=True)
        assert (min(tops), max(tops), min(lefts), max(lefts)) == (0, bottom, 0, right)
    assert abs((owners == 0).float().mean() - 50 / 90) < 0.03                  # as often as its share of the pixels


def test_kernels_are_gaussian_and_of_camera_shake(photographs):
    sampler = Sampler(photographs, replace(SMALL, batch=64))
    k = torch.cat([sampler(step, range(64)).k for step in range(4)])
    assert k.shape == (256, 1, 25, 25) and k.min() >= 0 and torch.allclose(k.sum((-2, -1)), torch.ones(256, 1))
    shakes = {tuple(shake.flatten().sort().values.tolist()) for shake in sampler.shakes}       # however it is turned
    assert 0.35 < sum(tuple(one.flatten().sort().values.tolist()) in shakes for one in k) / 256 < 0.65
    upright = {tuple(shake.flatten().tolist()) for shake in sampler.shakes}
    assert sum(tuple(one.flatten().tolist()) in upright for one in k) < 256 / 8                 # an eighth of a half
    dice = Dice(0, 3, torch.arange(8))
    widths = dice.uniform("widths", 2, 1, 1, low=0.4**0.5, high=12**0.5).view(8, 2).double()
    angle = dice.uniform("angle", 1, 1, high=torch.pi).flatten().double()
    shift = (dice.uniform("shift", 2, 1, 1, low=-1.5, high=1.5) * dice.chance("shifted", 0.5, 1, 1, 1)).view(8, 2)
    for n, k in enumerate(training._gaussian(dice)):
        one = usrlib.gaussian_kernel(25, tuple((widths[n] ** 2).tolist()), angle[n].item(), tuple(shift[n].tolist()))
        assert torch.allclose(k.double(), one[0], rtol=0, atol=1e-5)


def test_the_benchmarks_motion_kernels_are_not_trained_on(photographs):
    pool = Sampler(photographs, SMALL).shakes
    for k in usrlib.benchmark_kernels()[8:].float():
        for turned in (k, k.mT):
            for flipped in (turned, turned.flip(-1), turned.flip(-2), turned.flip(-1, -2)):
                assert (pool - flipped).abs().amax((1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("step", range(4))
def test_a_batch_is_degraded_as_the_course_defines_it(photographs, step):
    batch = Sampler(photographs, replace(SMALL, eight_bit=0.0, noise=0.0))(step, range(4))
    assert batch.scale == SMALL.scales[step] and not batch.sigma.any()
    assert torch.allclose(batch.y, usrlib.degrade(batch.x, batch.k, batch.scale), rtol=0, atol=1e-6)
    rounded = Sampler(photographs, replace(SMALL, eight_bit=1.0, noise=0.0))(step, range(4)).y * 255
    assert torch.allclose(rounded, rounded.round(), rtol=0, atol=1e-3)
    assert ((255 * batch.y - rounded) > -1e-3).all() and ((255 * batch.y - rounded) < 1 + 1e-3).all()   # truncated


def test_flat_areas_survive_truncation():
    for level in (77, 200, 255):
        flat = Sampler(Photographs([np.full((40, 40, 3), level, np.uint8)]), replace(SMALL, eight_bit=1.0, noise=0.0))
        assert ((255 * flat(1, range(8)).y).round() == level).all()


def test_noise_is_as_strong_as_sigma_says_and_sometimes_absent(photographs):
    sampler = Sampler(photographs, replace(SMALL, eight_bit=0.0, batch=200))
    batch, clean = sampler(1, range(200)), Sampler(photographs, replace(SMALL, eight_bit=0.0, noise=0.0))(1, range(200))
    assert torch.equal(batch.x, clean.x) and torch.equal(batch.k, clean.k)     # nothing else depends on the noise
    noise = batch.y - clean.y
    for axis in range(4):                                                       # it is white
        assert (noise * noise.roll(1, axis)).mean().abs() < 0.02 * noise.square().mean()
    level = noise.std((1, 2, 3), keepdim=True)
    assert torch.allclose(level, batch.sigma, rtol=0.15, atol=1e-7)
    assert 24 / 255 < batch.sigma.max() <= 25 / 255 and 0.1 < (batch.sigma == 0).float().mean() < 0.4


def test_whether_there_is_noise_says_nothing_about_8_bits(photographs):
    batch = Sampler(photographs, SMALL)(1, range(400))
    without = 255 * batch.y[batch.sigma.flatten() == 0]
    whole = ((without - without.round()).abs() < 1e-3).all(-1).all(-1).all(-1)
    assert 0.35 < whole.float().mean() < 0.65


@given(st.integers(1, 3), st.integers(0, 50))
def test_processes_that_share_a_batch_need_not_talk(share, step):
    sampler = Sampler(Photographs(pictures()), replace(SMALL, iterations=0, scales=(1,), batch=4))
    whole, part = sampler(step, range(4)), sampler(step, range(share, 4))
    assert torch.equal(whole.x[share:], part.x) and torch.equal(whole.y[share:], part.y)


def test_photographs_are_read_from_folders_and_tar_files(folder, tmp_path):
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(folder, "inside")
    for source in (folder, tmp_path / "all.tar"):
        kept, held_out = read_photographs([source])
        assert len(kept.height) + len(held_out.height) == 40 and len(held_out.height) > 0
        assert "pictures" in kept.source and source.name in kept.source


def test_tiles_of_one_photograph_are_held_out_together():
    for n in range(200):
        names = (f"a/photo{n}.jpg", f"a/photo{n}_0000_0384.jpg", f"photo{n}_768_0.jpg")
        assert {training.photograph(name) for name in names} == {f"photo{n}"}
    chosen = training.held_out_of(f"photo{n}.jpg" for n in range(5000))
    assert abs(len(chosen) / 5000 - 1 / training.HELD_OUT) < 0.01


def test_of_few_photographs_one_is_held_out(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("a_0_0", "a_0_96", "b", "c"):
        Image.fromarray(generator.integers(0, 255, (96, 96, 3), np.uint8)).save(tmp_path / f"{name}.png")
    kept, held_out = read_photographs([tmp_path])
    assert len(held_out.height) in (1, 2) and len(kept.height) + len(held_out.height) == 4
    assert len(training.held_out_of(path.name for path in tmp_path.iterdir())) == 1
    for name in ("b", "c"):
        (tmp_path / f"{name}.png").unlink()
    with pytest.raises(ValueError, match="at least two photographs, one to hold out; got 2 pictures of one"):
        read_photographs([tmp_path])


@pytest.mark.parametrize("camera", ["IMG_{:04d}.jpg", "DSC_{:04d}.JPG", "20240507_{:06d}.jpg"])
def test_the_numbers_of_a_camera_are_not_tiles_of_one_photograph(camera):
    assert 10 < len(training.held_out_of(camera.format(n) for n in range(1000))) < 60


def test_photographs_of_one_name_are_all_read_and_share_their_fate(folder, tmp_path):
    with tarfile.open(tmp_path / "twice.tar", "w") as archive:       # a tar may hold a name twice, and so may two paths
        for file in (*folder.iterdir(), *folder.iterdir()):
            archive.add(file, file.name)
    once, three_times = read_photographs([folder]), read_photographs([folder, tmp_path / "twice.tar"])
    assert [3 * len(part.pixels) for part in once] == [len(part.pixels) for part in three_times]


# --- The loop ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, value", [
    ("iterations", -1), ("iterations", 2.5), ("channels", (4, 0)), ("blocks", 0), ("scales", (0,)), ("noise", -1.0),
    ("crop", 50), ("crop", 12), ("batch", 0), ("steps", "9"), ("learning_rate", 0.0), ("clip", float("nan")),
    ("seed", -1), ("channels", ()), ("scales", ()), ("noiseless", 3.0), ("eight_bit", 1.1), ("average", 2.0),
    ("loss", "squared"), ("optimiser", "sgd"),
    ("channels", (2, 4)), ("loss", ["psnr"]), ("scales", 2), ("bf16", "no"), ("seed", 2**63),
])
def test_a_bad_configuration_is_refused_by_name(name, value):
    with pytest.raises((ValueError, TypeError), match=rf"^{name} "):
        replace(SMALL, **{name: value})


def test_a_denoiser_has_no_scales():
    with pytest.raises(ValueError, match=r"^scales must be 1 alone"):
        replace(SMALL, iterations=0)


def test_the_learning_rate_warms_up_and_falls_along_a_cosine():
    config = replace(SMALL, steps=1000, warmup=100, learning_rate=1.0)
    rates = [config.rate(step) for step in range(1001)]
    assert rates[0] == 0.01 and rates[99] == rates[100] == 1.0 and abs(rates[550] - 0.505) < 1e-9
    assert abs(rates[1000] - 0.01) < 1e-9 and rates[100:] == sorted(rates[100:], reverse=True)


@pytest.mark.parametrize("iterations, scales", [(2, (1, 2, 3, 4)), (0, (1,))])
def test_silent_units_are_counted_and_get_another_life(photographs, iterations, scales):
    config = replace(SMALL, iterations=iterations, scales=scales)
    model, sampler = training.new_model(config).requires_grad_(False), Sampler(photographs, config)
    block = getattr(model, "prior", model).body[0]
    heard = [0, 2, 3, 5]
    block.conv1.weight[[1, 4]] = 0
    shares = training.activity(model, sampler, count=2)
    name = next(name for name in shares if name.endswith("body.0"))
    assert len(shares) == 3 and shares[name][[1, 4]].tolist() == [0, 0] and shares[name][heard].min() > 0
    kept, answer = block.conv1.weight[heard].clone(), training.predict(model, sampler(0, range(2)))

    assert training.revive(model, sampler, least=1e-4) == sum(int((share < 1e-4).sum()) for share in shares.values())
    assert torch.equal(block.conv1.weight[heard], kept) and not block.conv2.weight[:, [1, 4]].any()
    assert 0.5 < block.conv1.weight[[1, 4]].square().mean() / kept.square().mean() < 2
    assert training.activity(model, sampler)[name].min() > 1e-4
    assert torch.allclose(training.predict(model, sampler(0, range(2))), answer, rtol=0, atol=1e-3)
    block.conv1.weight[:] = 0                                   # of a block that is silent altogether nothing is known
    state = torch.get_rng_state()
    training.revive(model, sampler, least=1e-4)
    assert not block.conv1.weight.any() and torch.equal(torch.get_rng_state(), state)


def test_the_activity_is_that_at_every_scale(photographs):
    sampler, steps = Sampler(photographs, SMALL), []

    def spy(step, index):
        steps.append(step)
        return sampler(step, index)

    spy.config = SMALL
    training.activity(training.new_model(SMALL), spy)
    assert steps == [0, 1, 2, 3]


def test_the_losses_are_the_absolute_error_the_psnr_that_each_crop_lacks_and_its_root():
    a = torch.rand(3, 3, 6, 6)
    e = torch.tensor([0.01, 0.1, 0.3]).view(-1, 1, 1, 1) * torch.randn(3, 3, 6, 6)
    assert training.LOSSES["absolute"](e).item() == pytest.approx(e.abs().mean().item())
    scores = np.array([usrlib.psnr(one[None], (one + error)[None]) for one, error in zip(a, e, strict=True)])
    errors = 255**2 * 10 ** (-scores / 10)                              # squared, in grey levels
    assert training.LOSSES["psnr"](e).item() == pytest.approx(np.log1p(errors).mean(), rel=1e-4)
    assert training.LOSSES["rms"](e).item() == pytest.approx(np.sqrt(1 + errors).mean(), rel=1e-4)


@pytest.mark.parametrize("iterations, loss, optimiser", [
    (2, "absolute", "adam"), (2, "psnr", "adam"), (0, "absolute", "adam"), (2, "rms", "soap")])
def test_it_learns(photographs, iterations, loss, optimiser):
    flat = Photographs([np.full((48, 48, 3), 200, np.uint8), np.full((48, 48, 3), 60, np.uint8)])
    scales = (1, 2) if iterations else (1,)
    config = replace(SMALL, iterations=iterations, scales=scales, steps=60, learning_rate=3e-3, loss=loss,
                     optimiser=optimiser)
    trainer = Trainer(config, flat)
    before = training.held_out_psnr(trainer.averaged, flat, config)
    batch = trainer.sampler(0, range(4))
    expected = training.LOSSES[loss](training.predict(trainer.model, batch) - batch.x).item()
    trainer.step()
    assert trainer.report()[0] == pytest.approx(expected, rel=1e-5)             # it is this loss that is made small
    assert trainer.optimiser.param_groups[0]["lr"] == config.rate(0)
    for _ in range(59):
        trainer.step()
    assert trainer.optimiser.param_groups[0]["lr"] == config.rate(59)
    gains = np.subtract(training.held_out_psnr(trainer.averaged, flat, config), before)
    assert gains.min() > 4


def test_a_new_network_already_does_something_sensible(photographs):
    """Its prior hands the picture on, so the loop is the data step repeated: that fits y from the start."""
    batch = Sampler(photographs, replace(SMALL, noise=0.0, eight_bit=0.0))(1, range(4))
    x = training.predict(training.new_model(replace(SMALL, seed=1)), batch).detach()
    before = (usrlib.degrade(batch.y.repeat_interleave(2, -1).repeat_interleave(2, -2), batch.k, 2) - batch.y).norm()
    assert (usrlib.degrade(x, batch.k, 2) - batch.y).norm() < before


@pytest.mark.parametrize("seed", range(4))
def test_at_birth_the_prior_passes_the_picture_on_and_h_gives_its_two_levels(photographs, seed):
    state = torch.get_rng_state()
    model, batch = training.new_model(replace(SMALL, seed=seed)), Sampler(photographs, SMALL)(0, range(4))
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.prior(batch.x, 0.05) - batch.x).std() < 0.5 * batch.x.std()
    for scale in SMALL.scales:
        for values, level in zip(model.hyper(batch.sigma, scale), (0.01, 0.05), strict=True):
            assert level / 1.5 < values.min() and values.max() < 1.5 * level


def test_at_birth_what_the_blocks_and_the_way_up_add_is_a_tenth_of_pytorchs_default():
    config = replace(SMALL, iterations=0, scales=(1,), blocks=2, seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        default = ResUNet(config.channels, config.blocks)
    tenth = {f"{name}.conv2" for name, module in default.named_modules() if isinstance(module, ResidualBlock)}
    tenth |= {name for name, module in default.named_modules() if isinstance(module, torch.nn.ConvTranspose2d)}
    born = dict(training.new_model(config).named_parameters())
    for name, weight in default.named_parameters():
        layer = name.removesuffix(".weight")
        if layer not in ("head", "tail"):                       # these two pass the picture on
            assert torch.allclose(born[name], weight * (0.1 if layer in tenth else 1)), name


@pytest.mark.parametrize("noise", [0.0, 2.55, 7.65, 25.0])
def test_a_network_born_around_a_denoiser_is_plug_and_play(photographs, noise):
    config = replace(SMALL, hidden=32, iterations=3)
    denoiser = training.new_model(replace(config, iterations=0, scales=(1,)))
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.mul_(1.01)
    model, batch = training.new_model(config, denoiser), Sampler(photographs, config)(1, range(4))
    sigma = max(noise / 255, splitting.ROUNDING)
    lam, mu = splitting.plug_and_play_path(sigma, config.iterations)
    for step, penalty in zip(model.trajectory(batch.y, batch.k, batch.scale, noise / 255), mu, strict=True):
        assert step.alpha[0].item() == pytest.approx(penalty * sigma**2, rel=0.3)
        assert step.beta[0].item() == pytest.approx((lam / penalty) ** 0.5, rel=0.15)
        torch.testing.assert_close(step.x, denoiser(step.z, step.beta))
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("wider", [
    {"channels": (5, 6, 9)}, {"hidden": 7}, {"channels": (7, 7, 7), "hidden": 9, "iterations": 3},
    {"iterations": 0, "scales": (1,), "channels": (4, 8, 6)},
], ids=str)
def test_a_widened_network_is_the_same_function_and_learns_with_all_of_it(photographs, wider):
    small = replace(SMALL, channels=(4, 5, 6), hidden=5, iterations=3, crop=36)
    small = replace(small, **{name: wider[name] for name in ("iterations", "scales") if name in wider})
    config = replace(small, **wider)
    model = training.new_model(small)
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    large = training.widened(model, config)
    assert _architecture(large) == _architecture(training.new_model(config))
    batch = Sampler(photographs, config)(0, range(2))
    torch.testing.assert_close(training.predict(large, batch), training.predict(model, batch), rtol=0, atol=2e-6)
    trainer = Trainer(config, photographs, large)
    before = [weight.detach().clone() for weight in trainer.model.parameters()]
    for _ in range(4):
        trainer.step()
    for narrow, old, now in zip(model.parameters(), before, trainer.model.parameters(), strict=True):
        fresh = torch.ones(now.shape, dtype=torch.bool)
        fresh[tuple(map(slice, narrow.shape))] = False
        assert (now != old)[fresh].any() or not fresh.any()


def _architecture(model):
    return {name: weight.shape for name, weight in model.named_parameters()}


@pytest.mark.parametrize("had, expected", [(6, [0, 0, 1, 1, 2, 3, 4, 5]), (3, [0, 0, 1, 1, 2, 2]), (2, [0, 0, 1])])
def test_of_more_iterations_the_first_are_done_twice(had, expected):
    small = replace(SMALL, iterations=had)
    model = training.new_model(small)
    with torch.no_grad():
        model.hyper.layers[4].bias.add_(torch.linspace(0, 1, 2 * had))
    sigma = torch.full((2, 1, 1, 1), 0.02)
    levels = training.widened(model, replace(small, iterations=len(expected))).hyper(sigma, 2)
    for ours, theirs in zip(levels, model.hyper(sigma, 2), strict=True):
        torch.testing.assert_close(ours, theirs[expected])


@pytest.mark.parametrize("other", [
    {"channels": (4, 4)}, {"channels": (3, 6, 6)}, {"blocks": 2}, {"hidden": 1}, {"iterations": 1}, {"iterations": 5},
], ids=str)
def test_only_what_fits_is_widened(other):
    small = replace(SMALL, channels=(4, 4, 4), hidden=4, iterations=2, blocks=1, crop=36)
    with pytest.raises(ValueError, match="model must have the architecture of config or one that fits into it"):
        training.widened(training.new_model(small), replace(small, **other))
    assert training.widened(model := training.new_model(small), small) is model


def test_a_model_of_another_architecture_is_refused(photographs):
    other = replace(SMALL, channels=(4, 8))
    with pytest.raises(ValueError, match="model must have the architecture"):
        Trainer(SMALL, photographs, training.new_model(other))
    with pytest.raises(ValueError, match="denoiser must have the architecture"):
        training.new_model(SMALL, training.new_model(replace(other, iterations=0, scales=(1,))))


def test_the_kept_weights_are_a_moving_average(photographs):
    trainer = Trainer(replace(SMALL, average=0.5), photographs)                 # reached after seven steps
    expected = [parameter.clone() for parameter in trainer.averaged.parameters()]
    for step in range(12):
        trainer.step()
        decay = min(0.5, (2 + step) / (11 + step))
        for mean, parameter in zip(expected, trainer.model.parameters(), strict=True):
            mean.mul_(decay).add_(parameter.detach(), alpha=1 - decay)
    for mean, parameter in zip(expected, trainer.averaged.parameters(), strict=True):
        assert torch.allclose(mean, parameter, rtol=0, atol=1e-6)
        assert not parameter.requires_grad                 # or it would remember every step, and the memory run out


def test_a_gradient_is_clipped_and_reported_as_it_was(photographs):
    trainer = Trainer(replace(SMALL, clip=1e-4), photographs)
    trainer.step()
    gradients = [parameter.grad for parameter in trainer.model.parameters()]
    assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(1e-4, rel=1e-2)
    assert not trainer.sums.requires_grad                  # nor does what is reported remember its steps
    assert trainer.report()[1] > 1e-3
    norms = []
    for _ in range(2):
        trainer.step()
        norms.append(trainer.sums[1].item())
    assert trainer.report()[1] == pytest.approx(norms[-1] / 2)


def test_what_is_measured_depends_on_the_task_alone_and_white_is_the_most(photographs):
    model = training.new_model(SMALL)
    scores = training.held_out_psnr(model, photographs, SMALL)
    assert len(scores) == 4 and len(set(scores)) == 4
    assert training.held_out_psnr(model, photographs, replace(SMALL, seed=1, scales=(4, 3, 2, 1, 1))) == scores

    def always(value):
        return lambda y, k, scale, sigma: torch.full((len(y), 3, SMALL.crop, SMALL.crop), value)

    white, beyond = (training.held_out_psnr(always(value), photographs, SMALL) for value in (1.0, 9.0))
    assert white == beyond


def test_the_weights_that_are_kept_and_measured_are_the_averaged_ones(photographs, tmp_path):
    trainer = Trainer(SMALL, photographs)
    run(trainer, photographs, tmp_path, report_every=4, save_every=4)
    kept = usrlib.load_usrnet(tmp_path / "weights.safetensors").state_dict()
    assert all(torch.equal(kept[name], weight) for name, weight in trainer.averaged.state_dict().items())
    expected = [f"{value:.3f}" for value in training.held_out_psnr(trainer.averaged, photographs, SMALL)]
    with (tmp_path / "log.csv").open(newline="") as file:
        assert [*csv.DictReader(file)][-1]["held_out_psnr"].split() == expected


@pytest.mark.parametrize("iterations, scales", [(2, (1, 2)), (0, (1,))])
def test_in_bfloat16_the_filters_are_averaged_as_the_loss_has_seen_them(photographs, iterations, scales):
    config = replace(SMALL, iterations=iterations, scales=scales, average=0.0, bf16=True)     # no memory: the last ones
    trainer = Trainer(config, photographs)
    trainer.step()
    batch = Sampler(photographs, config)(1, range(4))
    kept, last = (training.predict(model, batch, bf16=True) for model in (trainer.averaged, trainer.model))
    assert torch.equal(kept, last)                         # rounding them once more changes nothing
    for name, weight in trainer.averaged.named_parameters():
        assert "hyper." in name or torch.equal(weight, weight.bfloat16().float())
    if iterations:
        assert torch.equal(trainer.averaged.hyper.layers[0].weight, trainer.model.hyper.layers[0].weight)


def test_what_is_not_in_bfloat16_has_all_digits_of_float32(photographs, monkeypatch):
    for backend in (torch.backends.cudnn, torch.backends.cuda.matmul):
        monkeypatch.setattr(backend, "allow_tf32", True)
    Trainer(SMALL, photographs)
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_what_a_run_needs_is_checked_before_its_first_step(photographs, tmp_path):
    trainer = Trainer(SMALL, photographs)
    with pytest.raises(ValueError, match="crop must not exceed the smallest picture"):
        run(trainer, Photographs([np.zeros((30, 30, 3), np.uint8)]), tmp_path)
    with pytest.raises(ValueError, match="save_every"):
        run(trainer, photographs, tmp_path, save_every=0)
    assert trainer.done == 0


def test_a_resumed_run_knows_where_its_weights_came_from(photographs):
    resumed = Trainer(SMALL, photographs)
    resumed.restore(Trainer(SMALL, photographs, origin={"config": "tiny"}).state())
    assert training.card(resumed, [])["continued_from"] == {"config": "tiny"}


def test_without_git_the_commit_is_unknown(photographs, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert Trainer(SMALL, photographs).commit == "unknown"


def test_a_run_that_diverges_stops_and_leaves_the_last_good_checkpoint(photographs, tmp_path):
    trainer = Trainer(SMALL, photographs)

    def spoil():
        if trainer.done == 8:
            with torch.no_grad():
                trainer.model.prior.tail.weight.fill_(float("nan"))
        Trainer.step(trainer)

    trainer.step = spoil
    with pytest.raises(Diverged, match="loss nan"):
        run(trainer, photographs, tmp_path, report_every=2, save_every=4)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["done"] == 8 and all(torch.isfinite(value).all() for value in saved["model"].values())
    usrlib.load_usrnet(tmp_path / "weights.safetensors")


def test_a_loss_that_rises_far_above_its_best_is_divergence(photographs, tmp_path):
    trainer = Trainer(replace(SMALL, warmup=0), photographs)

    def spoil():
        if trainer.done == 8:
            with torch.no_grad():
                trainer.model.prior.tail.weight.mul_(100)
        Trainer.step(trainer)

    trainer.step = spoil
    with pytest.raises(Diverged, match=r"has been .* and is"):
        run(trainer, photographs, tmp_path, report_every=2, save_every=4)


# --- The command -------------------------------------------------------------------------------------------------

OPTIONS = ["--iterations", 2, "--channels", 4, 6, "--blocks", 1, "--hidden", 4, "--crop", 36, "--batch", 4,
           "--warmup", 2, "--no-bf16", "--report-every", 5, "--save-every", 10, "--device", "cpu"]


def words(folder, out, *options):
    return list(map(str, ["--images", folder, "--out", out, *OPTIONS, *options]))


def train(folder, out, *options):
    """The command, in this process, which saves the seconds in which another one would import PyTorch."""
    training.main(words(folder, out, *options))


def command(folder, out, *options, launcher=()):
    """The command in a process of its own, which can be killed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *launcher, "-m", "usrlib.training", *words(folder, out, *options)],
                            env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(process):
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return output


def log(out):
    """The part of a log that does not depend on the clock."""
    columns = ("step", "loss", "gradient_norm", "learning_rate")
    with (out / "log.csv").open(newline="") as file:
        return [[row[name] for name in columns] for row in csv.DictReader(file)]


@pytest.mark.parametrize("optimiser", training.OPTIMISERS)
def test_killing_and_resuming_loses_nothing(folder, tmp_path, optimiser):
    steps = ["--steps", "150", "--optimiser", optimiser]
    finish(command(folder, tmp_path / "whole", *steps))
    chance, kills, out = random.Random(0), 0, tmp_path / "killed"
    while kills < 3:
        process = command(folder, out, *steps, *(["--resume"] if (out / "checkpoint.pt").exists() else []))
        begun = log(out)[-1][0] if (out / "log.csv").exists() else "0"
        while process.poll() is None and (not (out / "checkpoint.pt").exists() or log(out)[-1][0] == begun):
            time.sleep(0.01)
        time.sleep(0.3 * chance.random())
        assert process.poll() is None, "it ended before it could be killed: give it more steps"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
    finish(command(folder, out, *steps, "--resume"))
    assert (out / "weights.safetensors").read_bytes() == (tmp_path / "whole" / "weights.safetensors").read_bytes()
    assert log(out) == log(tmp_path / "whole")


def test_a_time_limit_stops_it_cleanly(folder, tmp_path, capsys):
    train(folder, tmp_path / "limited", "--steps", "30", "--time-limit", "0")
    assert "to be resumed at step 5" in capsys.readouterr().out
    train(folder, tmp_path / "limited", "--steps", "30", "--resume")
    train(folder, tmp_path / "whole", "--steps", "30")
    assert log(tmp_path / "limited") == log(tmp_path / "whole")


@pytest.mark.parametrize("optimiser", training.OPTIMISERS)
def test_two_processes_train_like_one(folder, tmp_path, optimiser):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    finish(command(folder, tmp_path / "two", "--steps", "10", "--optimiser", optimiser, launcher=launcher))
    finish(command(folder, tmp_path / "one", "--steps", "10", "--optimiser", optimiser))
    for two, one in zip(log(tmp_path / "two"), log(tmp_path / "one"), strict=True):
        assert two[0] == one[0] and abs(float(two[1]) - float(one[1])) < 1e-5


def test_three_steps_of_the_full_network_work_on_a_cpu(photographs):
    trainer = Trainer(replace(CONFIGS["full"], batch=2, crop=24 * 2, steps=3), Photographs(
        [np.full((50, 50, 3), 100, np.uint8)]))
    for _ in range(3):
        trainer.step()
    loss, norm = trainer.report()
    assert 0 < loss < 1 and norm > 0


def refused(folder, out, *options):
    """What is said when it exits: with a text, so to the standard error, and with the status 1."""
    with pytest.raises(SystemExit) as refusal:
        train(folder, out, *options)
    line, = refusal.value.code.splitlines()
    return line


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda"])
def test_a_device_that_is_not_there_is_refused(device, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        training.main(["--images", "x", "--out", "y", "--device", device])
    assert f"argument --device: invalid choice: '{device}'" in capsys.readouterr().err


def test_a_checkpoint_from_before_a_field_has_its_default():
    config = Config(iterations=1, channels=(4, 4), blocks=1, hidden=4, crop=36, batch=1, steps=2, bf16=False)
    trainer = Trainer(config, Photographs([np.full((36, 36, 3), 128, np.uint8)]))
    state = trainer.state()
    older, newer = dict(state["config"]), state["config"] | {"momentum": 0.5}
    del older["loss"]
    trainer.restore(state | {"config": older})
    with pytest.raises(ValueError, match=r"differs in momentum, there 0\.5 and here None"):
        trainer.restore(state | {"config": newer})


def test_what_cannot_be_done_is_refused_in_one_line(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "images must hold pictures" in refused(tmp_path / "empty", tmp_path / "out")
    assert "images must be folders or tar files" in refused(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"not a picture")
    assert "images: a.png cannot be read" in refused(tmp_path / "broken", tmp_path / "out")
    with tarfile.open(tmp_path / "whole.tar", "w") as archive:
        archive.add(folder, "photographs")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:8000])
    assert "images: cut.tar cannot be read" in refused(tmp_path / "cut.tar", tmp_path / "out")
    assert "out must hold the checkpoint" in refused(folder, tmp_path / "out", "--resume")
    assert "crop must not exceed the smallest picture, of 40 rows" in refused(
        folder, tmp_path / "out", "--crop", "48")
    assert "--revive goes with --weights" in refused(folder, tmp_path / "out", "--revive")
    assert "--weights must be one of denoiser, tiny" in refused(folder, tmp_path / "out", "--weights", "")
    train(folder, tmp_path / "out", "--steps", "5")
    assert "out holds a training already" in refused(folder, tmp_path / "out", "--steps", "5")
    assert "differs in steps, there 5 and here 6" in refused(folder, tmp_path / "out", "--steps", "6", "--resume")
    (tmp_path / "file").touch()
    for place in ("file", "file/sub"):
        assert "out must be a folder" in refused(folder, tmp_path / place)
    for name, length in (("cut", 3000), ("empty", 0)):
        shutil.copytree(tmp_path / "out", tmp_path / "out" / name)
        checkpoint = tmp_path / "out" / name / "checkpoint.pt"
        checkpoint.write_bytes(checkpoint.read_bytes()[:length])
        assert "checkpoint.pt or log.csv is damaged" in refused(folder, checkpoint.parent, "--steps", "5", "--resume")
        checkpoint.unlink()                  # its largest file; the weights are not to be lost
        assert "out holds a training already" in refused(folder, tmp_path / "out" / name, "--steps", "5")
    for other in ({"a": 1}, {"done": 5, "model": {}}, {"done": complex}):
        torch.save(other, checkpoint)
        said = refused(folder, checkpoint.parent, "--steps", "5", "--resume")
        assert "checkpoint.pt or log.csv is damaged" in said and "weights_only" not in said
    shutil.copytree(folder, tmp_path / "fewer", ignore=shutil.ignore_patterns("photo0.png"))
    shutil.copytree(folder, tmp_path / "others")
    with Image.open(tmp_path / "others" / "photo0.png") as picture:
        flipped = ImageOps.flip(picture)
    flipped.save(tmp_path / "others" / "photo0.png")
    for other in ("fewer", "others"):
        assert "images must be those of the checkpoint" in refused(
            tmp_path / other, tmp_path / "out", "--steps", "5", "--resume")
    save_file({"hyper.layers.0.weight": torch.zeros(4, 2)}, tmp_path / "half.safetensors")
    assert "must hold the weights of a USRNet" in refused(
        folder, tmp_path / "new", "--weights", tmp_path / "half.safetensors")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_a_compiled_prior_learns_the_same(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    for name, options in (("plain", ()), ("compiled", ("--compile",))):
        finish(command(folder, tmp_path / name, "--steps", 5, "--scales", 2, *options))
        assert any((tmp_path / "inductor").rglob("*.so")) == (name == "compiled")
    plain, compiled = (log(tmp_path / name)[0] for name in ("plain", "compiled"))
    assert float(compiled[1]) == pytest.approx(float(plain[1]), rel=1e-4)


DENOISER = ("--iterations", 0, "--scales", 1)


WIDER = ("--channels", 5, 9)


@pytest.mark.parametrize("first, then", [
    ((), ()), ((), ("--revive",)), (DENOISER, DENOISER), (DENOISER, ()), ((), WIDER), (DENOISER, (*DENOISER, *WIDER)),
], ids=str)
def test_training_goes_on_from_weights_and_the_card_says_so(folder, tmp_path, first, then):
    weights = tmp_path / "first" / "weights.safetensors"
    train(folder, tmp_path / "first", "--steps", "5", *first)
    train(folder, tmp_path / "then", "--steps", "5", "--weights", weights, *then)
    card = usrlib.network.read_card(tmp_path / "then" / "weights.safetensors")
    assert (card["continued_from"].pop("revived", None) is None) == ("--revive" not in then)
    assert card["continued_from"] == usrlib.network.read_card(weights) and card["steps_done"] == 5
    train(folder, tmp_path / "new", "--steps", "5", *(word for word in then if word != "--revive"))
    assert log(tmp_path / "then")[0][1] != log(tmp_path / "new")[0][1]          # they have been used
    if first == then:
        assert float(log(tmp_path / "then")[0][1]) < float(log(tmp_path / "first")[0][1])
    assert card["architecture"] == ("ResUNet" if "--iterations" in then else "USRNet")
    shutil.rmtree(tmp_path / "first")                               # a checkpoint needs them no more
    train(folder, tmp_path / "then", "--steps", "5", "--weights", weights, *then, "--resume")
