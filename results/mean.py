"""The mean of two networks, weight by weight: `python -m results.mean OUT.safetensors`.

The ninth part of tiny's training and the attempt both go back to the seventh. The tenth part began with their mean;
its card is the ninth part's, with the attempt's in it.
"""

import sys
from pathlib import Path

import torch

from usrlib.network import load_usrnet, read_card, save_weights

NINTH, ATTEMPT = (Path(__file__).with_name(f"{name}.safetensors") for name in ("ninth", "attempt"))


@torch.no_grad()
def between(share):
    """The network that lies at this share of the straight line from the ninth part, 0, to the attempt, 1."""
    model, other = load_usrnet(NINTH), load_usrnet(ATTEMPT)
    for weight, its in zip(model.parameters(), other.parameters(), strict=True):
        weight.lerp_(its, share)
    return model


if __name__ == "__main__":
    save_weights(between(0.5), Path(sys.argv[1]), read_card(NINTH) | {"averaged_with": read_card(ATTEMPT)})
