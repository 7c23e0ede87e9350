"""What all tests share: chance without surprises, Matplotlib without a screen, the authors' reference data."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

os.environ["MPLBACKEND"] = "Agg"
os.environ["CUDA_VISIBLE_DEVICES"] = ""          # numbers are compared that were made on a CPU
settings.register_profile("course", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("course")

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def seeded():
    """What a test draws from PyTorch is the same in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def reference():
    """The path of a file of the authors' published data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("USRLIB_REFERENCE", ROOT.parent / "shared" / "reference"))

    def find(name):
        if not (folder / name).is_file():
            pytest.skip(f"the authors' {name} is not here (USRLIB_REFERENCE names its folder)")
        return folder / name

    return find
