"""What a committed notebook must be: executed, clean, small, and with links that lead somewhere."""

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbconvert import HTMLExporter
from PIL import Image

FOLDER = Path(__file__).parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
MACHINE_PATH = re.compile(r"/(?:home|root|work|tmp|Users|usr)/|[A-Z]:\\\\")


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_course_has_its_notebooks_in_order():
    assert [int(path.name[:2]) for path in PATHS] == list(range(len(PATHS))) and len(PATHS) >= 5


def test_it_was_executed_from_top_to_bottom(notebook):
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))


def test_its_kernel_is_any_python_3(notebook):
    assert notebook.metadata.kernelspec.name == "python3" and "widgets" not in notebook.metadata


def test_its_outputs_hold_no_error_and_no_path_of_a_machine(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type != "error"
            text = json.dumps({kind: data for kind, data in output.items() if kind not in ("data", "metadata")})
            text += json.dumps({kind: data for kind, data in output.get("data", {}).items() if "image" not in kind})
            assert not MACHINE_PATH.search(text)


def test_it_is_small(path):
    assert path.stat().st_size < 2e6


def test_a_code_cell_is_one_thought(notebook):
    assert max(len(cell.source.splitlines()) for cell in code_cells(notebook)) <= 25


def test_what_is_folded_only_draws_or_guards_and_says_so_in_its_first_line(notebook):
    for cell in code_cells(notebook):
        folded = cell.metadata.get("tags") == ["hide-input"]
        assert dict(cell.metadata) == ({"tags": ["hide-input"], "jupyter": {"source_hidden": True}} if folded else {})
        if folded:
            assert cell.source.startswith("# ") and ("plotting.show(" in cell.source or "assert " in cell.source)
            assert "check(" not in cell.source and "# (" not in cell.source                # no equation is out of sight


def test_every_picture_has_a_description(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                text = output.data.get("text/plain", "")
                assert len(text) > 20 and not text.startswith("<"), text          # "<Figure size ...>" says nothing


def test_its_links_lead_somewhere(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", cell.source):
                assert target.startswith("http") or (FOLDER / target).exists(), target


def test_it_keeps_its_figures_in_the_repository(notebook):
    for cell in code_cells(notebook):
        for name in re.findall(r'plotting\.show\(\w+, "([^"]+)"', cell.source):
            assert (FOLDER.parent / "figures" / f"{name}.png").exists(), name


def test_the_repository_keeps_no_figure_of_a_notebook_that_none_shows():
    shown = {name for path in PATHS for cell in code_cells(nbformat.read(path, as_version=4))
             for name in re.findall(r'"(\d\d_\w+)"', cell.source)}
    assert {path.stem for path in (FOLDER.parent / "figures").glob("[0-9][0-9]_*.png")} <= shown


@pytest.mark.parametrize("figure", sorted((FOLDER.parent / "figures").glob("*.png")), ids=lambda path: path.stem)
def test_no_figure_is_cut_off_at_its_edge(figure):
    grey = np.asarray(Image.open(figure).convert("L"))
    for name, edge in (("top", grey[0]), ("bottom", grey[-1]), ("left", grey[:, 0]), ("right", grey[:, -1])):
        assert edge.min() > 200, name


NUMBERED = {                                                        # how it is numbered, and referred to
    "section": (r"^## (\d\.\d+) ", r"[Ss]ections? ((?:\d\.\d+(?:, | and | to )?)+)"),
    "figure": (r"^\*Figure (\d\.\d+)\.", r"Figures? ((?:\d\.\d+(?:, | and | to )?)+)"),
    "equation": (r"\\tag\{(\d\.\d+)[a-z]?\}", r"(?<!\w)(\(\d\.\d+[a-z]?\))"),
}


def prose(path):
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("kind", NUMBERED)
def test_what_has_a_number_stands_in_order_and_no_reference_leads_nowhere(kind):
    place, reference = NUMBERED[kind]
    texts = {path.name: prose(path) for path in PATHS}
    known = {name: list(dict.fromkeys(re.findall(place, text, re.MULTILINE))) for name, text in texts.items()}
    for name, numbers in known.items():
        first = min((int(number[2:]) for number in numbers), default=0)
        assert numbers == [f"{name[1]}.{first + n}" for n in range(len(numbers))]
    if kind == "section":
        outside = FOLDER.parent / "README.md", *(FOLDER.parent / "usrlib").glob("*.py")
        texts |= {path.name: path.read_text(encoding="utf-8") for path in outside}
    found = {(name, number) for name, text in texts.items() for words in re.findall(reference, text)
             for number in re.findall(r"\d\.\d+", words)}
    assert found and not [where for where in found if not any(where[1] in numbers for numbers in known.values())]


def test_a_page_for_the_browser_folds_describes_and_leads_to_pages():
    exporter = HTMLExporter(template_name="reading", extra_template_basedirs=[str(FOLDER)])
    path = FOLDER / "03_half_quadratic_splitting.ipynb"
    page, _ = exporter.from_filename(str(path))
    folded = [cell for cell in nbformat.read(path, as_version=4).cells if "hide-input" in cell.metadata.get("tags", ())]
    assert len(re.findall("<summary>(?:Draws|Checks|Prints|Reads) ", page)) == len(folded) > 5
    pictures = re.findall(r'<img alt="([^"]{20,})" ', page)
    assert len(pictures) == page.count("<img ") > 5
    assert "<p>Iteration 1: " in page                                   # the readout of the explorer
    assert ".ipynb" not in page and 'href="04_fft_closed_form.html"' in page
