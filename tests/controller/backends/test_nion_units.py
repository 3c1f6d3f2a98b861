"""Nion's C10 against our defocus, without Nion Swift."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given

from controller.backends.nion.driver import c10_m, defocus_nm, open_adapter
from tests.strategies import numbers

SITE = Path(__file__).parents[2] / "peers" / "nion_usim.yaml"


@given(value=numbers(-1e5, 1e5))
def test_there_and_back_and_underfocus_is_negative_c10(value: float) -> None:
    there = c10_m(value)
    assert defocus_nm(there) == pytest.approx(value, abs=1e-9)
    assert value * there <= 0


def test_a_nanometre_is_a_billionth_of_a_metre() -> None:
    assert c10_m(120.0) == pytest.approx(-120e-9)


def test_without_nion_swift_the_driver_says_where_to_run_it() -> None:
    with pytest.raises(ValueError, match=r"nion\.utils\.Registry.*run this inside Nion Swift"):
        open_adapter({"site": str(SITE)})
