"""The equation ledger: no numbered equation without its check, none that does not hold, none left out of the table.

`make test` first runs every notebook under strict comparison with USRLIB_LEDGER set, then this file, which finds
the residuals there.
"""

import importlib.util
import json
import os
import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))

specification = importlib.util.spec_from_file_location("build", FOLDER / "build.py")
build = importlib.util.module_from_spec(specification)
specification.loader.exec_module(build)

EQUATIONS = {id: path for path in PATHS for id in build.equations(path)}
TABLE = (FOLDER / "EQUATIONS.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+\.\d+) \| (\$.*\$) \| \S+ \| (\S+) \| \[(\w+)\]", TABLE, re.M)     # id, formula, tolerance


def checks(path):
    """The IDs given to `check` in the code of a notebook; planted errors have a longer name and do not count."""
    cells = nbformat.read(path, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return re.findall(r'check\(\s*f?"(\d+\.\d+)"', code)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_numbered_equation_has_its_check_and_every_check_its_equation(path):
    assert set(checks(path)) == set(build.equations(path))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_equations_are_numbered_in_order(path):
    ids = list(build.equations(path))
    assert ids == [f"{int(path.name[:2])}.{number}" for number in range(1, len(ids) + 1)]


def test_the_table_lists_every_equation_once():
    formulas = {id: build.in_a_table(formula) for path in PATHS for id, formula in build.equations(path).items()}
    assert [(id, formula, stem) for id, formula, _, stem in ROWS] == [
        (id, formulas[id], path.stem) for id, path in EQUATIONS.items()]


@pytest.mark.skipif(
    not Path(os.environ.get("USRLIB_LEDGER", "")).is_file(), reason="the notebooks have not been run: use make test"
)
@pytest.mark.parametrize("id", EQUATIONS)
def test_the_equation_was_checked_in_this_run_and_holds(id):
    lines = Path(os.environ["USRLIB_LEDGER"]).read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["id"] == id]
    assert records and all(record["residual"] <= record["tol"] <= 1e-2 for record in records)
    tolerance = {row[0]: row[2] for row in ROWS}[id]                       # the table is up to date
    assert tolerance in {f"{record['tol']:.0e}" for record in records}
