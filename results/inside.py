"""What the weights hold after each part of tiny's training: `python -m results.inside`, in a full clone.

Notebook 09 reads the first and the last. Silent hidden units: above zero in less than one place in a hundred, on three
photographs, one batch of eight crops of 96x96 for each scale. Bias: the mean error of each channel, in grey levels and
float32, on four photographs at x2 without noise, from data of 8 bits and of float. Rounding: what (9.8) says that
float32 adds to it. Writes inside.json.
"""

import copy
import json
from dataclasses import replace
from pathlib import Path

import torch

from results.parts import PARTS, network_after
from usrlib import benchmark_kernels, images, load_usrnet
from usrlib.evaluation import OWN, low_resolution
from usrlib.training import CONFIGS, Photographs, Sampler, activity


def silent(model):
    """How many of its hidden units are."""
    config = replace(CONFIGS["tiny"], crop=96, batch=8)
    photographs = Photographs([images.to_array(images.sample(name)) for name in ("chelsea", "coffee", "rocket")])
    shares = activity(model, Sampler(photographs, config), config.batch)
    return sum(int((share < 0.01).sum()) for share in shares.values())


@torch.no_grad()
def bias(model, lr):
    """Mean error of each channel."""
    k, own = benchmark_kernels()[2:3], [images.sample(name, 128, corner) for name, corner in OWN.items()]
    x, y = torch.cat(own).float(), torch.cat([low_resolution(one, k, 2, 0.0, lr=lr) for one in own]).float()
    error = 255 * (model(y, k.float(), 2, 0.0) - x)
    return [round(value, 2) for value in error.mean((0, 2, 3)).tolist()]


@torch.no_grad()
def rounding(model):
    """255 (M - rounded M) mu, for a mean colour of one half."""
    def through(prior):
        return prior.tail.weight.sum((2, 3)) @ prior.head.weight.sum((2, 3))[:, :3]

    exact, rounded = model.prior, copy.deepcopy(model.prior).bfloat16().float()
    difference = 255 * (through(exact) - through(rounded)) @ torch.full((3,), 0.5)
    return [round(value, 2) for value in difference.tolist()]


def main():
    """The command line."""
    networks = {part: network_after(part) for part in PARTS}
    networks |= {name: load_usrnet(Path(__file__).with_name(f"{name}.safetensors"))
                 for name in ("attempt", "eighth", "ninth", "control")} | {"eleventh": load_usrnet("tiny")}
    result = {"command": "python -m results.inside", "units": 576}
    for name, model in networks.items():
        result[name] = {"silent": silent(model), "bias of 8 bits": bias(model, "8bit"),
                        "bias of float": bias(model, "float"), "rounding": rounding(model)}
    text = "{\n" + ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in result.items()) + "\n}\n"
    Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
