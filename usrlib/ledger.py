"""The equation ledger: every numbered equation of the course is checked where it stands.

`check` compares the line of code that is the formula with a reference, raises if they differ, and prints a
sentence that is the same on every machine. Where the environment variable USRLIB_LEDGER names a file, each
residual is appended to it as one line of JSON; `make notebooks` turns those lines into notebooks/EQUATIONS.md.
"""

import json
import os
from pathlib import Path

import numpy as np
import torch


class EquationError(AssertionError):
    """A numbered equation does not hold to its tolerance."""


def check(id, value, expected, tol):
    """Assert that equation `id` holds: max |value - expected| <= tol * max(1, max |expected|).

    value, expected: numbers, NumPy arrays or tensors, real or complex, of one shape (a number is compared
    with every entry). tol: a float above 0.
    Raises EquationError where the residual exceeds tol or is NaN; ValueError where the shapes differ or
    there is nothing to compare.
    """
    value, expected = _array(value), _array(expected)
    if value.shape != expected.shape and value.ndim and expected.ndim:
        raise ValueError(f"({id}): value has shape {value.shape}, expected has {expected.shape}")
    if not value.size or not expected.size:
        raise ValueError(f"({id}): there is nothing to compare")
    with np.errstate(invalid="ignore"):                    # inf - inf is NaN, and NaN does not pass
        residual = float(np.abs(value - expected).max() / max(1.0, np.abs(expected).max()))
    if not residual <= tol:
        raise EquationError(f"({id}) does not hold: residual {residual:.1e}, tolerance {tol:.0e}")
    if path := os.environ.get("USRLIB_LEDGER"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"id": id, "residual": residual, "tol": tol}) + "\n")
    print(f"({id}) holds to {tol:.0e}")


def _array(value):
    array = value.numpy(force=True) if isinstance(value, torch.Tensor) else np.asarray(value)
    return array.astype(float) if array.dtype.kind in "bui" else array        # unsigned differences wrap around
