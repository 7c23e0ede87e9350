"""Elsewhere than on a CPU: nothing mixes devices, and nothing that is called again and again looks at a value.

PyTorch's device "meta" has shapes and no values. An operator refuses a tensor of it beside one of the CPU, as a GPU
would; a look at a value, for which the program would have to wait until the GPU is done, is an error.
"""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch

import usrlib
from usrlib import splitting, upscaling
from usrlib.training import CONFIGS, Photographs, Trainer
from usrlib.validation import trusted_values


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """It exists for real devices only, and moves nothing."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


x, y = torch.empty(2, 3, 48, 60, device="meta"), torch.empty(2, 3, 24, 30, device="meta")
k = usrlib.gaussian_kernel(9, (1.0, 2.0)).float().to("meta")
each = torch.empty(2, 1, 1, 1, device="meta")              # a level for each picture
sigma, scale = 0.01, 2


def network():
    return usrlib.load_usrnet("tiny").to("meta")


def denoiser():
    return usrlib.load_denoiser("denoiser").to("meta")


def last_of_loop():
    return [*usrlib.hqs(y, k, scale, sigma, denoiser(), *splitting.plug_and_play_path(sigma, 3))][-1]


COMPUTATIONS = {
    "blur": lambda: usrlib.blur(x, k),
    "blur_adjoint": lambda: usrlib.blur_adjoint(x, k),
    "degrade": lambda: usrlib.degrade(x, k, scale, each),
    "degrade, seeded": lambda: usrlib.degrade(x, k, scale, sigma, torch.Generator().manual_seed(0)),
    "bicubic_downsample": lambda: usrlib.bicubic_downsample(x, scale),
    "bicubic_upsample": lambda: usrlib.bicubic_upsample(y, scale),
    "DataStep": lambda: usrlib.DataStep(y, k, scale)(x, each),
    "data_step": lambda: usrlib.data_step(x, y, k, scale, each),
    "network": lambda: network()(y, k, scale, each),
    "trajectory": lambda: [*network().trajectory(y, k, scale, sigma)][-1].x,
    "denoiser": lambda: denoiser()(x, each),
    "hqs": lambda: last_of_loop().x,
    "wrap": lambda: upscaling.wrap(y, (48, 60), (8, 0)),
}


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_what_is_computed_stays_on_the_device(name):
    with trusted_values():
        result = COMPUTATIONS[name]()
    expected = y if name.startswith("degrade") or name == "bicubic_downsample" else x
    assert result.device.type == "meta" and result.shape == expected.shape


def test_the_two_steps_of_the_loop_look_at_no_value():
    with trusted_values():
        solve = usrlib.DataStep(y, k, scale)
    prior = denoiser()
    assert solve(x, each).shape == prior(x, each).shape == x.shape


@pytest.mark.parametrize("optimiser", ["adam", "soap"])
@pytest.mark.parametrize("config", ["tiny", "denoiser"])
def test_a_step_of_training_stays_on_the_device_and_looks_at_no_value(config, optimiser):
    arrays = np.zeros((2, 96, 100, 3), np.uint8)
    trainer = Trainer(replace(CONFIGS[config], batch=4, optimiser=optimiser), Photographs(arrays, "meta"))
    for _ in range(4):                  # one of each scale
        trainer.step()
    held = [*trainer.model.parameters(), *trainer.averaged.parameters(), trainer.sums]
    assert all(tensor.device.type == "meta" for tensor in held)
