"""Silent hidden units in the weights after each part of tiny's training: `python -m results.silent`, in a full clone.

Counted as in notebook 06: three photographs, one batch of eight crops of 96x96 for each scale; silent is what is above
zero in less than one place in a hundred. Writes silent.json.
"""

import json
from dataclasses import replace
from pathlib import Path

from results.parts import PARTS, network_after
from usrlib import images
from usrlib.training import CONFIGS, Photographs, Sampler, activity


def silent(model):
    """How many of its hidden units are."""
    config = replace(CONFIGS["tiny"], crop=96, batch=8)
    photographs = Photographs([images.to_array(images.sample(name)) for name in ("chelsea", "coffee", "rocket")])
    shares = activity(model, Sampler(photographs, config), config.batch)
    return sum(int((share < 0.01).sum()) for share in shares.values())


def main():
    """The command line."""
    counts = {part: silent(network_after(part)) for part in PARTS}
    result = {"command": "python -m results.silent", "units": 576, "silent": counts}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(counts)


if __name__ == "__main__":
    main()
