"""Plug and play against the network: `python -m results.plug_and_play --images FOLDER_OR_TAR ...`. Half an hour.

What does training through the loop bring, and what only training for longer? From the first denoiser tiny went on
through the loop and the denoiser of the library by itself. Both denoisers restore windows of photographs held out as
priors of plug and play, each with nine settings of the loop; so do tiny and what it was after earlier parts of its
training. plug_and_play.csv, beside this file, has a row for every window: which photograph it is cut from, and its PSNR
in dB with each of them. plug_and_play.json says with what it was made; notebook 07 shows it. It takes a full clone.
"""

import argparse
import csv
from itertools import product
from pathlib import Path

import torch
from tqdm import tqdm

from results.crops import photographs_of, windows, write_card
from results.parts import network_after
from usrlib import hqs, load_denoiser, load_usrnet, psnr, splitting, training
from usrlib.evaluation import PNP_STEPS

WINDOW = 96
LAM, LAST = (0.06, 0.12, 0.24), (1, 2, 4)                           # λ, and the last β in 255ths
PARTS = ("second", "third", "fourth", "seventh")
OUT = Path(__file__)


def methods():
    """{column: (y, k, scale, sigma) -> x, sigma a number}."""
    denoisers = {"first": OUT.with_name("first_denoiser.safetensors"), "denoiser": "denoiser"}
    loops = {f"{name} {lam} {last}": plug_and_play(load_denoiser(weights), lam, last / 255)
             for (name, weights), lam, last in product(denoisers.items(), LAM, LAST)}
    return loops | {part: network_after(part) for part in PARTS} | {"tiny": load_usrnet("tiny")}


def plug_and_play(denoiser, lam, last):
    """Half-quadratic splitting with this prior, these λ and last β."""
    def restore(y, k, scale, sigma):
        sigma = max(sigma, splitting.ROUNDING)
        mu = splitting.penalties(lam, splitting.PNP_FIRST, max(sigma, last), PNP_STEPS)
        *_, step = hqs(y, k, scale, sigma, denoiser, lam, mu)
        return step.x
    return restore


def psnrs(restore, batches):
    """The PSNR of every window of the batches, restored: floats."""
    return [psnr(restore(y[i : i + 1], k[i : i + 1], scale, sigma[i].item()).clamp(0, 1), x[i : i + 1])
            for x, y, k, scale, sigma in batches for i in range(len(x))]


@torch.no_grad()
def main():
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m results.plug_and_play", description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", nargs="+", required=True, help="folders or tar files of photographs")
    paths = {path.stem: path for path in map(Path, parser.parse_args().images)}
    held_out = {source: training.read_photographs([path])[1] for source, path in paths.items()}
    photographs = {source: list(photographs_of(paths[source], these)) for source, these in held_out.items()}
    columns = methods()
    with OUT.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["source", "scale", "noise", "window", "photograph", *columns])
        for key, batches in windows(held_out, WINDOW):
            table = [psnrs(restore, batches) for restore in tqdm(columns.values(), desc=str(key))]
            for window, values in enumerate(zip(*table, strict=True)):
                rows.writerow([*key, window, photographs[key[0]][window], *(f"{value:.3f}" for value in values)])
    write_card(OUT, held_out)


if __name__ == "__main__":
    main()
