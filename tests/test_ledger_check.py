"""`check`, the assertion behind every numbered equation."""

import json

import numpy as np
import pytest
import torch

from usrlib.ledger import EquationError, check


@pytest.fixture(autouse=True)
def no_ledger(monkeypatch):
    monkeypatch.delenv("USRLIB_LEDGER", raising=False)


def test_an_equation_that_holds_prints_its_tolerance_and_not_its_residual(capsys):
    check("2.3", torch.ones(3), np.ones(3) + 1e-9, tol=1e-6)
    assert capsys.readouterr().out == "(2.3) holds to 1e-06\n"


@pytest.mark.parametrize(
    "value, expected",
    [(1.0, 1.1), (torch.zeros(3), torch.tensor([0.0, 0.0, 0.1])), (1j, -1j), (np.zeros(2), np.array([0, 1j]))],
)
def test_a_residual_over_the_tolerance_is_an_error(value, expected):
    with pytest.raises(EquationError, match=r"\(2\.3\) does not hold: residual .*, tolerance 1e-06"):
        check("2.3", value, expected, tol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), complex(0, float("nan"))])
def test_nan_and_infinity_never_hold(bad):
    for value, expected in ((bad, 0.0), (0.0, bad), (bad, bad), (np.array([1.0, bad]), np.ones(2))):
        with pytest.raises(EquationError):
            check("2.3", value, expected, tol=1e-6)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint64])
def test_differences_do_not_wrap_around(dtype):
    with pytest.raises(EquationError):
        check("2.3", np.zeros(1, dtype), np.ones(1, dtype), tol=1e-2)


def test_an_equation_error_is_an_assertion():
    assert issubclass(EquationError, AssertionError)


def test_shapes_must_agree_but_a_number_is_compared_with_every_entry():
    with pytest.raises(ValueError, match=r"2\.3.*\(2, 3\).*\(3,\)"):
        check("2.3", np.zeros((2, 3)), np.zeros(3), tol=1e-6)
    check("2.3", np.ones((2, 3)), 1, tol=1e-6)
    with pytest.raises(EquationError):
        check("2.3", np.array([1.0, 2.0]), 1, tol=1e-6)


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="nothing"):
        check("2.3", np.zeros(0), np.zeros(0), tol=1e-6)


def test_the_residual_is_relative_above_one_and_absolute_below():
    check("2.3", 1e6 + 0.5, 1e6, tol=1e-6)
    with pytest.raises(EquationError):
        check("2.3", 1e-3, 2e-3, tol=1e-6)


def test_complex_values_and_tensors_with_gradients_are_compared():
    check("2.3", torch.tensor([1 + 2j], dtype=torch.complex128), np.array([1 + 2j]), tol=1e-12)
    check("2.3", torch.ones(2, requires_grad=True), torch.ones(2), tol=1e-12)


def test_integers_and_booleans_are_compared():
    check("2.3", 3, torch.tensor(3), tol=1e-12)
    check("2.3", torch.tensor([True, False]), torch.tensor([True, False]), tol=1e-12)
    with pytest.raises(EquationError):
        check("2.3", np.uint8(1), np.uint8(2), tol=1e-12)


def test_each_equation_adds_a_line_to_the_ledger(monkeypatch, tmp_path):
    monkeypatch.setenv("USRLIB_LEDGER", str(tmp_path / "ledger.jsonl"))
    check("2.3", 1.0, 1.25, tol=0.5)
    check("2.4", 0.0, 0.0, tol=1e-6)
    with pytest.raises(EquationError):
        check("2.5", 0.0, 1.0, tol=1e-6)
    records = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert records == [
        {"id": "2.3", "residual": pytest.approx(0.2), "tol": 0.5}, {"id": "2.4", "residual": 0.0, "tol": 1e-6},
    ]
