"""What each choice of the training buys: `python -m results.training_choices --images FOLDER_OR_TAR ...`.

The tiny configuration is trained for 300 steps on small crops, once as it is and then again with one thing changed,
each from three seeds. training_choices.csv, beside this file, gets a row every 50 steps of every run, the card
training_choices.json says with what it was made. Notebook 06 shows both. About 45 minutes on one core.

`psnr_last` and `psnr_average` are in dB, of the weights as they stand and of their moving average, on 64 crops of
photographs that are not trained on, 16 at each scale, the same for every run. `cpu_ms` is processor time a step.
"""

import argparse
import csv
import json
import math
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

from tests.textbook import TextbookDataStep
from usrlib import network, training

SEEDS, STEPS, EVERY = (0, 1, 2), 300, 50
BASE = replace(training.CONFIGS["tiny"], crop=48, batch=8, steps=STEPS, warmup=50)
COLUMNS = ("choice", "seed", "step", "loss", "gradient_norm", "psnr_last", "psnr_average", "cpu_ms")


def default_model(config):
    """As PyTorch initialises it."""
    torch.manual_seed(config.seed)
    return network.USRNet(config.iterations, config.channels, config.blocks, config.hidden)


def squared(model, batch, bf16):
    """A prediction whose absolute error is the squared error of the right one."""
    return batch.x + (right_predict(model, batch, bf16) - batch.x).square()


def constant_rate(config, step):
    """The warm-up and nothing after it."""
    return config.learning_rate * min(1, (step + 1) / config.warmup)


def born_around_a_denoiser(config):
    """As plug and play, with the first denoiser, of which tiny was born."""
    return new_model(config, network.load_denoiser(Path(__file__).with_name("first_denoiser.safetensors")))


right_predict, new_model = training.predict, training.new_model
CHOICES = {                                                     # what differs in the configuration, or in the code
    "as it is": {},
    "PyTorch's initialisation": patch.object(training, "new_model", default_model),
    "learning rate 3e-4": {"learning_rate": 3e-4},
    "learning rate 3e-3": {"learning_rate": 3e-3},
    "constant learning rate": patch.object(training.Config, "rate", constant_rate),
    "no clipping": {"clip": 1e9},
    "squared error": patch.object(training, "predict", squared),
    "prior in float32": {"bf16": False},
    "textbook data step": patch.object(network, "DataStep", TextbookDataStep),
    "born around a denoiser": patch.object(training, "new_model", born_around_a_denoiser),
}


def rows(choice, seed, photographs, held_out):
    """Train once and measure on the way: a list of rows of the table."""
    changed, changes = (nullcontext(), CHOICES[choice]) if isinstance(CHOICES[choice], dict) else (CHOICES[choice], {})
    with changed:
        trainer = training.Trainer(replace(BASE, seed=seed, **changes), photographs)
    table = [(choice, seed, 0, "", "", *scores(trainer, held_out), "")]
    while trainer.done < STEPS:
        start = time.process_time()
        with changed:
            for _ in range(EVERY):
                trainer.step()
        seconds = time.process_time() - start
        try:
            loss, norm = trainer.report()
        except training.Diverged:
            return [*table, (choice, seed, trainer.done, *["nan"] * 5)]
        cpu_ms = f"{1e3 * seconds / EVERY:.0f}"
        table.append((choice, seed, trainer.done, f"{loss:.6f}", f"{norm:.4f}", *scores(trainer, held_out), cpu_ms))
    return table


def scores(trainer, held_out):
    """Mean PSNR over the scales, of the last weights and of their average."""
    both = [training.held_out_psnr(model, held_out, BASE) for model in (trainer.model, trainer.averaged)]
    return [f"{math.fsum(values) / len(values):.4f}" for values in both]


def main():
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m results.training_choices", description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", nargs="+", required=True, help="folders or tar files of photographs")
    photographs, held_out = training.read_photographs(parser.parse_args().images)
    torch.set_num_threads(1)
    out, table = Path(__file__).with_suffix(".csv"), []
    card = training.card(training.Trainer(BASE, photographs), [])
    card = {name: card[name] for name in ("config", "photographs", "commit", "hardware", "torch")}
    out.with_suffix(".json").write_text(json.dumps(card | {"held_out": held_out.source}, indent=1) + "\n")
    for seed in SEEDS:
        for choice in CHOICES:
            table += rows(choice, seed, photographs, held_out)
            print(*table[-1], flush=True)
            with out.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows([COLUMNS, *table])


if __name__ == "__main__":
    main()
