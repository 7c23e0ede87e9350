"""The mean of two networks, weight by weight: `python -m results.mean PART OUT.safetensors`.

The ninth part of tiny's training and the attempt both go back to the seventh, and the tenth part began with their mean.
The eleventh part is the mean of two branches from a mean of three: the tenth part, and two earlier branches from it.
The card is that of the first of the two, with the other's in it.
"""

import sys
from pathlib import Path

import torch

from usrlib.network import load_usrnet, read_card, save_weights

ENDS = {"tenth": ("ninth", "attempt"), "eleventh": ("eleventh_psnr", "eleventh_rms")}     # weights beside this file


@torch.no_grad()
def between(part, share):
    """The network that lies at this share of the straight line from one of a part's ends, 0, to the other, 1."""
    model, other = (load_usrnet(_beside(name)) for name in ENDS[part])
    for weight, its in zip(model.parameters(), other.parameters(), strict=True):
        weight.lerp_(its, share)
    return model


def _beside(name):
    return Path(__file__).with_name(f"{name}.safetensors")


if __name__ == "__main__":
    card, other = (read_card(_beside(name)) for name in ENDS[sys.argv[1]])
    other["continued_from"] = {"sha256": other["continued_from"]["sha256"]}         # one line of ancestors is enough
    save_weights(between(sys.argv[1], 0.5), Path(sys.argv[2]), card | {"averaged_with": [other]})
