"""Crops and pictures: `python -m results.crops --images FOLDER_OR_TAR ...`, in a full clone.

What the loss of a crop has to do with the PSNR of a picture. Weights after some parts of tiny's training restore
squares of 288x288 pixels from photographs held out; and so do two twins that go on from the seventh part for 1,000
steps, with the same dice and another loss. crops.csv, beside this file, has a row for each of the sixteen crops of
72x72 of every square: its mean squared error, in grey levels, with each of these weights. The card crops.json says with
what it was made. Notebook 06 shows both. About half an hour on one core.
"""

import argparse
import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from results.parts import network_after
from usrlib import load_usrnet, training
from usrlib.training import CONFIGS, HELD_OUT_SEED, Sampler, Trainer

SQUARE, CROP = 288, 72
TASKS = ((2, 0.0), (3, 0.0), (3, 5.1), (4, 0.0))                     # scale, and noise up to so many 255ths
BATCHES, BATCH = 6, 4                                               # for each task and source
TWIN = replace(CONFIGS["tiny"], crop=CROP, batch=8, steps=1000, learning_rate=2e-4, warmup=100, optimiser="soap",
               scales=(2, 3, 4, 1, 2, 3, 4), noiseless=0.4, eight_bit=0.85, average=0.99, seed=21)
LOSSES = {"psnr": {"loss": "psnr", "clip": 50.0}, "rms": {"loss": "rms", "clip": 100.0}}


def twin(loss, photographs):
    """The network of the seventh part after 1,000 steps more."""
    trainer = Trainer(replace(TWIN, **LOSSES[loss]), photographs, network_after("seventh"))
    while trainer.done < TWIN.steps:
        trainer.step()
    return trainer.averaged


def squares(held_out):
    """The batches to restore, by source and task."""
    for source, photographs in held_out.items():
        for scale, noise in TASKS:
            config = replace(TWIN, crop=SQUARE, scales=(scale,), noise=noise, noiseless=0.0, eight_bit=1.0,
                             seed=HELD_OUT_SEED)
            sampler = Sampler(photographs, config)
            yield (source, scale, noise), [sampler(step, range(BATCH)) for step in range(BATCHES)]


@torch.no_grad()
def errors(model, held_out):
    """{(source, scale, noise): mean squared errors in grey levels, (squares, crops of each)}."""
    def of(batch):
        error = 255 * (training.predict(model, batch).clamp(0, 1) - batch.x)
        return F.avg_pool2d(error.square(), CROP).mean(1).flatten(1)

    return {key: torch.cat([of(batch) for batch in batches]) for key, batches in squares(held_out)}


def main():
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m results.crops", description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", nargs="+", required=True, help="folders or tar files of photographs")
    paths = parser.parse_args().images
    torch.set_num_threads(1)
    photographs, _ = training.read_photographs(paths)
    held_out = {Path(path).stem: training.read_photographs([path])[1] for path in dict.fromkeys(paths)}
    models = {part: lambda part=part: network_after(part) for part in ("third", "fourth", "seventh")}
    models |= {loss: lambda loss=loss: twin(loss, photographs) for loss in LOSSES}
    models |= {"eighth": lambda: load_usrnet("tiny")}
    write(models, {name: errors(model(), held_out) for name, model in models.items()}, photographs, held_out)


def write(names, table, photographs, held_out):
    """crops.csv and crops.json."""
    out = Path(__file__).with_suffix(".csv")
    with out.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["source", "scale", "noise", "square", "crop", *names])
        for key in next(iter(table.values())):
            each = torch.stack([of[key] for of in table.values()], dim=-1)
            for square, crops in enumerate(each.tolist()):
                for crop, values in enumerate(crops):
                    rows.writerow([*key, square, crop, *(f"{value:.4g}" for value in values)])
    card = {"config": asdict(TWIN), "twins": LOSSES, "photographs": photographs.source,
            "held_out": {source: these.source for source, these in held_out.items()}, "torch": torch.__version__}
    out.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
