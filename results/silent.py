"""Silent hidden units in the weights after each part of tiny's training: `python results/silent.py`, in a full clone.

Earlier weights are in the history of the repository. Counted as in notebook 06: three photographs, one batch of eight
crops of 96x96 for each scale; silent is what is above zero in less than one place in a hundred. Writes silent.json.
"""

import json
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from usrlib import images, load_usrnet
from usrlib.training import CONFIGS, Photographs, Sampler, activity

# The commits that brought the weights.
PARTS = {"third": "1e379dc", "fourth": "0f91ab1", "fifth": "c9f754c", "sixth": "2804237"}
HERE = Path(__file__).parent


def silent(weights):
    config = replace(CONFIGS["tiny"], crop=96, batch=8)
    photographs = Photographs([images.to_array(images.sample(name)) for name in ("chelsea", "coffee", "rocket")])
    shares = activity(load_usrnet(weights), Sampler(photographs, config), config.batch)
    return sum(int((share < 0.01).sum()) for share in shares.values())


def main():
    counts = {}
    with tempfile.TemporaryDirectory() as folder:
        for part, commit in PARTS.items():
            file = Path(folder, f"{part}.safetensors")
            file.write_bytes(subprocess.run(["git", "show", f"{commit}:usrlib/weights/tiny.safetensors"], cwd=HERE,
                                            capture_output=True, check=True).stdout)
            counts[part] = silent(file)
    result = {"command": "python results/silent.py", "units": 576, "silent": counts}
    (HERE / "silent.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(counts)


if __name__ == "__main__":
    main()
