"""The search never ends below the settings it began with, and goes on where it stopped."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from recon.params import ReconstructionParams
from recon.search import SearchError, Tried, search_settings, write_best

if TYPE_CHECKING:
    from tests.recon.conftest import Truth

QUICK = ReconstructionParams(max_passes=3, threads=1, refine=(), device="cpu")


def test_the_winner_is_the_best_on_held_out_electrons(turned: "Truth", tmp_path: Path) -> None:
    data = turned.counted(300.0, nominal_thickness_A=turned.thickness_A)
    heard: list[int] = []
    best, tried = search_settings(
        data, 4, QUICK, out=tmp_path, on_trial=lambda number, _: heard.append(number)
    )
    assert heard == [1, 2, 3, 4]
    first = tried[0].settings
    assert (first["step"], first["momentum"], first["floor_fraction"]) == (0.5, 0.9, 0.2)
    winner = min(tried, key=lambda one: one.held_out)
    assert best.step == winner.settings["step"]
    assert best.n_slices == winner.settings["n_slices"]
    assert best.max_passes == 3
    assert ReconstructionParams.from_yaml(write_best(tmp_path, best)) == best
    kept = json.loads((tmp_path / "search.json").read_text())
    assert [Tried(**one) for one in kept["trials"]] == tried

    heard.clear()
    _, longer = search_settings(
        data, 5, QUICK, out=tmp_path, on_trial=lambda number, _: heard.append(number)
    )
    assert heard == [5], "what was tried is not tried again"
    assert longer[:4] == tried


def test_a_search_is_for_the_default_engine(turned: "Truth") -> None:
    data = turned.counted(300.0)
    with pytest.raises(SearchError, match="for the default engine"):
        search_settings(data, 2, QUICK.updated(solver="adam"))
