"""The weights after each part of tiny's training, from the history of the repository: it takes a full clone."""

import subprocess
import tempfile
from pathlib import Path

from usrlib import load_usrnet

# The commits that brought them.
PARTS = {"second": "b6a84a2", "third": "1e379dc", "fourth": "0f91ab1", "fifth": "c9f754c", "sixth": "2804237",
         "seventh": "08a89bc", "tenth": "609a27a", "eleventh": "06ca5c9"}


def network_after(part):
    """The network as it was after a part of its training."""
    show = ["git", "show", f"{PARTS[part]}:usrlib/weights/tiny.safetensors"]
    weights = subprocess.run(show, cwd=Path(__file__).parent, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tiny.safetensors")
        file.write_bytes(weights)
        return load_usrnet(file)
