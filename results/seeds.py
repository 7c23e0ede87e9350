"""How many hidden units fall silent with other dice: `python -m results.seeds`. Three minutes.

The experiment of notebook 09, sections 9.3 and 9.5, a hundred steps of the small network from birth, with six seeds in
the place of one. And once more with Adam's steps robbed of the direction that (9.3) is about: a filter is not moved
along the mean patch of its inputs, so that no step can push all places of a unit the same way. Writes seeds.json: the
silent units of 96 in layers of 32 channels, a number for each seed.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from usrlib import images
from usrlib.training import Config, Photographs, Sampler, Trainer, activity

MICRO = Config(
    iterations=3, channels=(16, 32, 32), blocks=1, hidden=64,
    scales=(2,), noise=5.1, noiseless=0.0, eight_bit=0.0,
    crop=48, batch=4, steps=300, learning_rate=1e-3, warmup=20, bf16=False,
)
HASTY = replace(MICRO, learning_rate=3e-3)
SOAP, HASTY_SOAP = (replace(config, optimiser="soap") for config in (MICRO, HASTY))
RUNS = {"Adam": (MICRO, False), "Adam, 3 η": (HASTY, False), "Adam, 3 η, not along the mean patch": (HASTY, True),
        "SOAP": (SOAP, False), "SOAP, 3 η": (HASTY_SOAP, False)}
SEEDS = range(6)


def hold_back(trainer):
    """Let no step of the trainer's optimiser move a hidden filter along the mean of the patches it has just seen."""
    filters = {block.conv1: [] for block in trainer.model.modules() if hasattr(block, "conv1")}
    for conv, seen in filters.items():
        conv.register_forward_hook(lambda _, x, z, seen=seen: seen.append(
            F.unfold(x[0].detach(), 3, padding=1).mean((0, 2))))
    whole_step = trainer.optimiser.step

    @torch.no_grad()
    def step():
        before = [conv.weight.clone() for conv in filters]
        whole_step()
        for (conv, seen), old in zip(filters.items(), before, strict=True):
            patch = F.normalize(torch.stack(seen).mean(0), dim=0)
            moved = (conv.weight - old).flatten(1)
            conv.weight.copy_(old + (moved - (moved @ patch)[:, None] * patch).view_as(old))
            seen.clear()
    trainer.optimiser.step = step


def silent(config, held_back, seed):
    """How many of the wide layers' units are, after a hundred steps."""
    photographs = Photographs([images.to_array(images.sample(name)) for name in ("chelsea", "coffee", "rocket")])
    trainer = Trainer(replace(config, seed=seed), photographs)
    if held_back:
        hold_back(trainer)
    for _ in range(100):
        trainer.step()
    shares = activity(trainer.averaged, Sampler(photographs, replace(MICRO, batch=16)), 16).values()
    return sum(int((share < 0.01).sum()) for share in shares if len(share) == 32)


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {}
    for name, (config, held_back) in RUNS.items():
        found[name] = [silent(config, held_back, seed) for seed in SEEDS]
        print(f"{name:40}", found[name], flush=True)
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")
