"""Run the notebooks in place: `python notebooks/build.py [NN_name.ipynb ...]`, all of them by default.

Each runs from top to bottom in a fresh kernel. What would differ between two runs or machines is left out of
the file (widget state, timings, kernel versions), and the code of cells tagged "hide-input" is folded. A run of
all rewrites EQUATIONS.md, the equation ledger.
"""

import json
import math
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
LEDGER = HERE.parent / ".build" / "ledger.jsonl"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
FOLD = "hide-input"                 # the tag of cells that only draw or guard: JupyterLab shows their first line
WIDGET = "application/vnd.jupyter.widget-view+json"


def run(path):
    """Execute one notebook in its own folder and write it back, with its outputs, ready to commit."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", store_widget_state=False, record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(HERE)}},
    ).execute()
    notebook.metadata = METADATA
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        folded = FOLD in cell.metadata.get("tags", [])
        cell.metadata = {"tags": [FOLD], "jupyter": {"source_hidden": True}} if folded else {}
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)        # the poster stands in until a kernel runs
    nbformat.write(notebook, path)


def equations(path):
    r"""The numbered equations of a notebook, {id: LaTeX}, from its $$ ... \tag{id} $$ blocks."""
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    blocks = re.findall(r"\$\$(.*?)\$\$", text, re.DOTALL)
    tagged = (re.search(r"(.*)\\tag\{([^}]*)\}", block, re.DOTALL) for block in blocks)
    return {found[2]: " ".join(found[1].split()) for found in tagged if found}


def in_a_table(formula):
    """LaTeX that does not end a column."""
    return "$" + formula.replace(r"\|", r"\Vert ").replace("|", r"\vert ") + "$"


def write_table(paths):
    """EQUATIONS.md: every equation, its residual as it was measured, its tolerance, its notebook."""
    lines = map(json.loads, LEDGER.read_text(encoding="utf-8").splitlines())
    records = {record["id"]: record for record in sorted(lines, key=lambda record: record["residual"])}   # the worst
    lines = [
        "# The equation ledger",
        "",
        "Every numbered equation of the course, checked by the line of code that is the formula. The residual is the "
        "largest difference from an independent reference, relative where the reference exceeds 1, rounded up to a "
        "power of ten. Written by `make notebooks`; `make test` fails if an equation is missing or does not hold.",
        "",
        "| equation | | residual | tolerance | notebook |",
        "|---|---|---|---|---|",
    ]
    for path in paths:
        for id, formula in equations(path).items():
            residual = records[id]["residual"]
            power = f"1e{math.ceil(math.log10(residual)):+03d}" if residual else "0"
            tolerance = f"{records[id]['tol']:.0e}"
            lines.append(f"| {id} | {in_a_table(formula)} | {power} | {tolerance} | [{path.stem}]({path.name}) |")
    (HERE / "EQUATIONS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(names):
    paths = [HERE / Path(name).name for name in names] or sorted(HERE.glob("[0-9][0-9]_*.ipynb"))
    LEDGER.parent.mkdir(exist_ok=True)
    LEDGER.unlink(missing_ok=True)
    os.environ["USRLIB_LEDGER"] = str(LEDGER)
    for path in paths:
        start = time.perf_counter()
        run(path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s, {path.stat().st_size / 1e6:.2f} MB", flush=True)
    if not names:
        write_table(paths)


if __name__ == "__main__":
    main(sys.argv[1:])
