"""Each photograph as the referee of a training on the other three: `python -m results.referees`. A quarter of an hour.

Exercise 4 of notebook 06. The small network of section 6.8 is trained as there, a denoiser first and then through the
loop, without the photograph; and once more with all four in the second part, from the same denoiser and with the same
dice. Writes referees.json: for each photograph and seed the PSNR in dB on it of either network and of total variation,
with as many iterations, in the mean over the four crops of 240x240 in its corners.
"""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from results.seeds import MICRO
from usrlib import degrade, gaussian_kernel, hqs, images, psnr, splitting
from usrlib.training import Photographs, Trainer, new_model

SCHOOL = replace(MICRO, iterations=0, scales=(1,), noise=35.0, steps=1000, learning_rate=2.5e-3)
SIGMA, SIDE = 2.55 / 255, 240
SEEDS = range(3)


def trained(config, names, model=None):
    """The network after training on these photographs."""
    trainer = Trainer(config, Photographs([images.to_array(images.sample(name)) for name in names]), model)
    while trainer.done < config.steps:
        trainer.step()
    return trainer.averaged


def plugged_in(prior, config):
    """The denoiser in the loop, with the path of notebook 03 for every noise level, by (6.12)."""
    model, mu = new_model(config), splitting.penalties(0.23, 49 / 255, SIGMA, config.iterations)
    levels = torch.tensor([m * SIGMA**2 for m in mu] + [(0.23 / m) ** 0.5 for m in mu])
    model.prior.load_state_dict(prior.state_dict())
    model.hyper.layers[4].bias.data.copy_(torch.log(torch.exp(levels) - 1))
    return model


@torch.no_grad()
def scores(networks, name):
    """Mean PSNR of each network and of total variation."""
    whole, k = images.sample(name), gaussian_kernel(25, (1.6**2, 1.6**2)).float()
    path, found = splitting.penalties(5.0, 0.3, 0.05, MICRO.iterations), []
    for rows, columns in product((slice(SIDE), slice(-SIDE, None)), repeat=2):
        x = whole[..., rows, columns].float()
        y = degrade(x, k, 2, SIGMA, torch.Generator().manual_seed(0))
        *_, last = hqs(y, k, 2, SIGMA, splitting.total_variation, 5.0, path)
        found.append([psnr(guess, x) for guess in (*(network(y, k, 2, SIGMA) for network in networks), last.x)])
    return [round(sum(each) / len(each), 2) for each in zip(*found, strict=True)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = {}
    for name in images.SAMPLES:
        others = [other for other in images.SAMPLES if other != name]
        result[name] = []
        for seed in SEEDS:
            school, loop = (replace(config, seed=seed) for config in (SCHOOL, MICRO))
            denoiser = trained(school, others)
            networks = [trained(loop, seen, plugged_in(denoiser, loop)) for seen in (others, [*others, name])]
            result[name].append(dict(zip(("held out", "let in", "total variation"), scores(networks, name),
                                         strict=True)))
            print(name, seed, result[name][-1], flush=True)
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(rows)}" for name, rows in result.items())
    Path(__file__).with_suffix(".json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")
