"""What the weights hold after each part of tiny's training: `python -m results.inside`, in a full clone.

Silent hidden units: above zero in less than one place in a hundred, on three photographs, one batch of eight crops of
96x96 for each scale. Rounding: what (9.8) says that the use in float32 adds to the mean error of each channel, in grey
levels, if the training was in bfloat16. Writes inside.json.
"""

import copy
import json
from dataclasses import replace
from pathlib import Path

import torch

from results.parts import PARTS, network_after
from usrlib import images, load_usrnet
from usrlib.training import CONFIGS, Photographs, Sampler, activity


def silent(model):
    """How many of its hidden units are."""
    config = replace(CONFIGS["tiny"], crop=96, batch=8)
    photographs = Photographs([images.to_array(images.sample(name)) for name in ("chelsea", "coffee", "rocket")])
    shares = activity(model, Sampler(photographs, config), config.batch)
    return sum(int((share < 0.01).sum()) for share in shares.values())


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
                 for name in ("attempt", "eighth", "ninth", "control")}
    result = {"command": "python -m results.inside", "units": 576}
    for name, model in networks.items():
        result[name] = {"silent": silent(model), "rounding": rounding(model)}
    text = "{\n" + ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in result.items()) + "\n}\n"
    Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
