"""Short shakes and long ones: `python -m results.shakes --authors THEIRS.pth --images FOLDER_OR_TAR ...`.

How much does a network lose where a kernel goes farther than those of its training? Windows of 144x144 pixels from
photographs held out are blurred by Gaussians, by camera shakes as tiny's training had them up to its eleventh part, and
by the same shakes enlarged until they reach 8 to 12 pixels, as half of those of the twelfth part are. The window, the
turn of the shake and the noise are the same for both. shakes.csv, beside this file, has a row for every window and
kernel: its PSNR in dB, of y in 8 bits, after the eleventh part, after the twelfth, and with the authors' weights.
shakes.json says with what it was made. A quarter of an hour, in a full clone.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from results.crops import BATCH, BATCHES, TASKS, write_card
from results.mean import between
from results.parts import network_after
from usrlib import load_usrnet, training
from usrlib.training import CONFIGS, HELD_OUT_SEED, Sampler

WINDOW = 144
OUT = Path(__file__)


def batches(photographs, scale, noise):
    """Pairs of batches that differ in the length of their shakes."""
    config = replace(CONFIGS["tiny"], crop=WINDOW, scales=(scale,), noise=noise, noiseless=0.0, eight_bit=1.0,
                     seed=HELD_OUT_SEED)
    short, long = (Sampler(photographs, replace(config, long_shakes=share)) for share in (0.0, 1.0))
    for step in range(BATCHES):
        index = range(2 * BATCH)                                    # half of the kernels are Gaussian
        yield short(step, index), long(step, index)


@torch.no_grad()
def scores(model, batch):
    """The PSNR of every window, restored: floats."""
    error = training.predict(model, batch).clamp(0, 1) - batch.x
    return (-10 * error.square().mean((1, 2, 3)).log10()).tolist()


def rows(photographs, models):
    """Of one source: scale, noise, window, kernel, PSNR with each of the models."""
    for scale, noise in tqdm(TASKS):
        window = 0
        for short, long in batches(photographs, scale, noise):
            gaussian = (short.k == long.k).all(3).all(2).flatten().tolist()
            table = [zip(*(scores(model, batch) for model in models), strict=True) for batch in (short, long)]
            for same, before, after in zip(gaussian, *table, strict=True):
                kernels = {"Gaussian": before} if same else {"shake": before, "long shake": after}
                yield from ([scale, noise, window, kernel, *values] for kernel, values in kernels.items())
                window += 1


def main():
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m results.shakes", description=__doc__.split("\n\n")[0])
    parser.add_argument("--authors", required=True, type=Path, help="the authors' usrnet_tiny.pth")
    parser.add_argument("--images", nargs="+", required=True, help="folders or tar files of photographs")
    torch.set_num_threads(1)
    arguments = parser.parse_args()
    models = {"eleventh": network_after("eleventh"), "twelfth": between("twelfth", 0.5),
              "authors": load_usrnet(arguments.authors)}
    held_out = {path.stem: training.read_photographs([path])[1] for path in map(Path, arguments.images)}
    with OUT.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["source", "scale", "noise", "window", "kernel", *models])
        for source, photographs in held_out.items():
            for *key, kernel, one, two, three in rows(photographs, models.values()):
                table.writerow([source, *key, kernel, *(f"{value:.3f}" for value in (one, two, three))])
    write_card(OUT, held_out)


if __name__ == "__main__":
    main()
