"""Crops and pictures: `python -m results.crops --images FOLDER_OR_TAR ...`, in a full clone. Half an hour.

What the loss of a crop has to do with the PSNR of a picture. Weights after some parts of tiny's training restore
windows of 288x288 pixels from photographs held out (those of the eighth part also in bfloat16, as they were trained,
and in float32 with rounded filters), and so do weights on the line between the ninth part and the attempt, and the two
branches of the eleventh part, which is their mean.
crops.csv, beside this file, has a row for each of the sixteen crops of 72x72 of every window: its mean squared error,
in grey levels, with each of these weights, and with two of them also after the mean error of each channel of the window
has been taken away. crops.json says with what it was made.
"""

import argparse
import csv
import json
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from results.mean import between
from results.parts import network_after
from usrlib import load_usrnet, training
from usrlib.training import CONFIGS, HELD_OUT_SEED, Sampler

WINDOW, CROP = 288, 72
TASKS = ((2, 0.0), (3, 0.0), (3, 5.1), (4, 0.0))                     # scale, and noise up to so many 255ths
BATCHES, BATCH = 6, 4                                               # for each task and source
FILES = ("attempt", "eighth", "ninth", "control", "eleventh_psnr", "eleventh_rms")          # weights beside this file
WITHOUT_MEAN = ("seventh", "attempt")
SHARES = (0.25, 0.5, 0.75)                                          # of the way from the ninth part to the attempt
OUT = Path(__file__)


def windows(held_out, size):
    """The batches of windows of size x size pixels to restore, by source and task."""
    for source, photographs in held_out.items():
        for scale, noise in TASKS:
            config = replace(CONFIGS["tiny"], crop=size, scales=(scale,), noise=noise, noiseless=0.0, eight_bit=1.0,
                             seed=HELD_OUT_SEED)
            sampler = Sampler(photographs, config)
            yield (source, scale, noise), [sampler(step, range(BATCH)) for step in range(BATCHES)]


def photographs_of(path, held_out):
    """Which photograph each window is cut from: their numbers. The tiles of a photograph are one."""
    names = [training.photograph(name) for name, _ in training.files_of(path)]
    chosen = training.held_out_of(names)
    names = [name for name in names if name in chosen]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    for step in range(BATCHES):
        dice = training.Dice(training.HELD_OUT_SEED, step, torch.arange(BATCH))
        yield from (numbers[names[tile]] for tile in held_out.chosen(dice))


@torch.no_grad()
def errors(model, held_out, bf16=False):
    """{(source, scale, noise): mean squares in grey levels, (windows, crops of each, of the error and of its rest)}."""
    def of(batch):
        error = 255 * (training.predict(model, batch, bf16).clamp(0, 1) - batch.x)
        rest = error - error.mean((2, 3), keepdim=True)
        return torch.stack([F.avg_pool2d(e.square(), CROP).mean(1).flatten(1) for e in (error, rest)], dim=-1)

    return {key: torch.cat([of(batch) for batch in batches]) for key, batches in windows(held_out, WINDOW)}


@torch.no_grad()
def rounded(model):
    """The model itself, the filters of its prior now numbers of bfloat16."""
    for weight in model.prior.parameters():
        weight.copy_(weight.bfloat16())
    return model


def main():
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m results.crops", description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", nargs="+", required=True, help="folders or tar files of photographs")
    torch.set_num_threads(1)
    paths = {path.stem: path for path in map(Path, parser.parse_args().images)}
    held_out = {source: training.read_photographs([path])[1] for source, path in paths.items()}
    photographs = {source: list(photographs_of(paths[source], these)) for source, these in held_out.items()}
    models = {part: network_after(part) for part in ("seventh", "tenth", "eleventh")}
    models |= {name: load_usrnet(OUT.with_name(f"{name}.safetensors")) for name in FILES}
    models |= {f"{share:.0%} of the way": between("tenth", share) for share in SHARES}
    table = {name: errors(model, held_out) for name, model in models.items()}
    table["eighth in bfloat16"] = errors(models["eighth"], held_out, bf16=True)
    table["eighth, rounded"] = errors(rounded(models["eighth"]), held_out)
    write(table, photographs)
    write_card(OUT, held_out)


def write(table, photographs):
    """crops.csv."""
    with OUT.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        columns = [(name, 0) for name in table] + [(name, 1) for name in WITHOUT_MEAN]
        rows.writerow(["source", "scale", "noise", "window", "photograph", "crop",
                       *(f"{name} without mean" if rest else name for name, rest in columns)])
        for key in next(iter(table.values())):
            each = torch.stack([table[name][key][..., rest] for name, rest in columns], dim=-1)
            for window, crops in enumerate(each.tolist()):
                for crop, values in enumerate(crops):
                    rows.writerow([*key, window, photographs[key[0]][window], crop,
                                   *(f"{value:.4g}" for value in values)])


def write_card(out, held_out):
    """Beside a table: with what it was made."""
    command = f"python -m results.{out.stem} --images " + " ".join(f"{source}.tar" for source in held_out)
    card = {"command": command, "held_out": {source: these.source for source, these in held_out.items()},
            "torch": torch.__version__}
    out.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
