"""The progress of a fit goes on as long as the fit does."""

from hypothesis import given
from hypothesis import strategies as st

from recon.params import ReconstructionParams
from recon.progress import part_done
from recon.reconstruct import reconstruct
from recon.result import ProgressEvent
from tests.recon.conftest import Truth


@given(st.integers(1, 100), st.floats(0, 500), st.floats(0.01, 10))
def test_every_pass_brings_the_end_nearer(expected: int, passes: float, more: float) -> None:
    assert 0 <= part_done(passes, expected) < part_done(passes + more, expected) < 1


def test_progress_goes_on_while_slices_are_tried_free(turned: Truth) -> None:
    events: list[ProgressEvent] = []
    result = reconstruct(
        turned.counted(300.0), ReconstructionParams(half_set_frc=False), progress=events.append
    )
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    beyond = [event for event in events if event.pass_number > result.passes]
    assert {event.pass_number for event in beyond} == {result.passes + 1, result.passes + 2}
    assert len({event.fraction for event in beyond}) == 2
