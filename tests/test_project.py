"""The project's own promises: one list of versions, one direction of imports, a light core."""

import ast
import fnmatch
import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

from usrlib import evaluation

ROOT = Path(__file__).parents[1]
README, RESULTS = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "results/README.md"))
# Bottom to top: a file imports only from files before it.
ORDER = ["validation", "ledger", "metrics", "images", "fourier", "kernels", "degradation", "data_step", "splitting",
         "network", "training", "evaluation", "upscaling", "__main__", "plotting", "widgets"]


def words(path):
    """What people wrote in a file, and what cells printed; of a notebook's pictures, which are bytes, nothing."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    parts = [cell["source"] for cell in cells] + [output.get("text", "") for output in outputs]
    parts += [value for output in outputs for kind, value in output.get("data", {}).items() if kind != "image/png"]
    return "\n".join("".join(part) for part in parts if not isinstance(part, dict))


def test_nothing_is_left_to_do():
    marks = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK|TB" r"D)\b")   # in pieces: this file is read too
    folders = ("usrlib", "tests", "notebooks", "results")
    paths = [path for name in folders for path in (ROOT / name).glob("*") if path.suffix in (".py", ".ipynb", ".md")]
    paths += [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.yml"), ROOT / "Makefile"]
    assert len(paths) > 40 and not [path.name for path in paths if marks.search(words(path))]


def pins(text):
    return set(re.findall(r"[\w-]+==[\w.]+", text))


def test_conda_users_get_the_same_versions():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    conda = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert pins(project) == pins(conda) and "torch==2.13.0" in pins(project)


def test_every_file_of_the_library_has_its_place_in_the_order():
    assert {path.stem for path in (ROOT / "usrlib").glob("*.py")} == {*ORDER, "__init__"}


@pytest.mark.parametrize("name", ORDER)
def test_a_file_imports_only_from_files_below_it(name):
    tree = ast.parse((ROOT / "usrlib" / f"{name}.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    imported = {node.module for node in imports if node.module} | {
        alias.name for node in imports if not node.module for alias in node.names
    }
    assert imported <= set(ORDER[: ORDER.index(name)])


def test_the_library_comes_without_plots_and_widgets():
    code = "import sys, usrlib; print([m for m in ('matplotlib', 'ipywidgets', 'IPython') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_readme_quotes_the_committed_benchmark():
    result = json.loads((ROOT / "figures" / "benchmark.json").read_text(encoding="utf-8"))
    assert f"{result['median_solve_ratio']:.1f} times faster" in README
    assert f"{result['least_solve_ratio']:.1f} at the least" in README
    assert f"{result['median_setup_ratio']:.1f} times faster to set up" in README
    assert f"{100 * result['training']['outside_the_network']:.1f} % of a step" in README
    assert f"{result['training']['crops_per_second']:.0f} crops of 72²" in README
    command = result["command_line"]
    assert f"{command['seconds']:.0f} seconds and {command['peak_mb'] / 1024:.1f} GB" in README
    assert all(result["targets"].values())


def rows(name):
    return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))["rows"]


def test_the_tables_quote_the_committed_results_and_the_network_beats_classical_methods_for_every_kernel():
    methods = ("bicubic", "wiener", "tv", "pnp", "tiny", "authors")
    for all_of_them in zip(*(rows(f"own_{name}") for name in methods), strict=True):
        means = (f"{row['mean']:.2f}" for row in all_of_them)
        *classical, _, network, _ = all_of_them
        assert f"| ×{network['scale']}, {network['noise']:g} | {' | '.join(means)} |" in RESULTS
        for kernel, mean in network["means"].items():
            assert mean > max(row["means"][kernel] for row in classical)
    leads = [ours["mean"] - by_hand["mean"] for ours, by_hand in zip(rows("own_tiny"), rows("own_pnp"), strict=True)]
    assert f"by {min(leads):.2f} to {max(leads):.2f} dB in the means of the tasks" in README
    behind = [theirs["mean"] - ours["mean"] for ours, theirs in zip(rows("own_tiny"), rows("own_authors"), strict=True)]
    assert f"here by {min(behind):.2f} to {max(behind):.2f} dB" in RESULTS


@pytest.mark.parametrize("results, page", [("cbsd68", README), ("float", RESULTS)])
def test_the_tables_quote_the_comparison_with_the_authors_weights(results, page):
    ours, theirs = rows(f"{results}_tiny"), rows(f"{results}_authors")
    for name, result in (("our tiny", ours), ("the authors' tiny", theirs)):
        means = (f"{row['mean']:.2f}" for row in result)
        assert f"| {name} | {' | '.join(means)} |" in page
    gaps = [their["mean"] - our["mean"] for our, their in zip(ours, theirs, strict=True)]
    assert results == "float" or f"{min(gaps):.2f} to {max(gaps):.2f} dB ahead" in README
    intervals = []
    for our, their in zip(ours, theirs, strict=True):
        each = [[fmean(scores[name] for scores in row["psnr"].values()) for name in row["psnr"]["k1"]]
                for row in (our, their)]
        mean, half = evaluation.interval(b - a for a, b in zip(*each, strict=True))
        intervals.append(f"{mean:.2f} ± {half:.2f}".replace("-", "−"))
    assert f"| {' | '.join(intervals)} |" in page


def test_the_tables_compare_float_and_8_bits_on_the_same_pictures():
    names = rows("float_tiny")[0]["psnr"]["k1"]
    means = [[fmean(scores[name] for scores in row["psnr"].values() for name in names)
              for row in rows(f"cbsd68_{who}") if not row["noise"]] for who in ("tiny", "authors")]
    first, second, third = (f"{their - our:.2f}" for our, their in zip(*means, strict=True))
    assert f"{len(names)} differ by {first}, {second} and {third} dB in 8 bits" in RESULTS


@pytest.mark.parametrize("name, label", [
    ("bicubic", "bicubic enlargement"), ("tiny", "our tiny, bicubic kernel"),
    ("authors", "the authors' tiny, bicubic kernel"),
])
def test_the_tables_quote_the_results_for_bicubic_reduction(name, label):
    means = (f"{row['mean']:.2f}" for row in rows(f"table2_{name}"))
    assert f"| {label} | {' | '.join(means)} |" in RESULTS


def test_the_table_of_results_lists_every_file_and_no_other():
    patterns = re.findall(r"`([\w*]+\.[\w*]+)`", RESULTS)
    names = {path.name for path in (ROOT / "results").iterdir() if path.is_file()} - {"README.md"}
    assert patterns and all(fnmatch.filter(names, pattern) for pattern in patterns)
    assert names == {name for pattern in patterns for name in fnmatch.filter(names, pattern)}


@pytest.mark.parametrize("name, weights", [
    ("own_tiny", "tiny"), ("cbsd68_tiny", "tiny"), ("float_tiny", "tiny"), ("table2_tiny", "tiny"),
    ("own_pnp", "denoiser"),
])
def test_the_results_are_those_of_the_bundled_weights(name, weights):
    settings = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))["settings"]
    card = json.loads((ROOT / "usrlib" / "weights" / f"{weights}.json").read_text(encoding="utf-8"))
    assert settings["weights"]["sha256"] == card["sha256"]
