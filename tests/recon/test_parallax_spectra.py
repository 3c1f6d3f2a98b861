"""The spectra of the bright field: one grid serves both hands of the detector."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from recon.parallax import BrightFieldSpectra, SearchRange, Shear, coarse_score, fit_shear
from recon.patterns import prepare_patterns

if TYPE_CHECKING:
    from tests.recon.conftest import Truth

SHEAR = Shear(-130.0, 15.0, -8.0, 10.0)


@pytest.fixture(scope="module")
def spectra(turned: "Truth") -> BrightFieldSpectra:
    data = turned.counted(300.0)
    centre = data.header.centre_px
    return BrightFieldSpectra(prepare_patterns(data, centre), data.header)


def test_a_mirrored_detector_needs_no_second_look(
    turned: "Truth", spectra: BrightFieldSpectra
) -> None:
    data = turned.counted(300.0)
    centre = (data.header.centre_px[0] + 0.3, data.header.centre_px[1] - 0.2)
    straight = BrightFieldSpectra(prepare_patterns(data, centre), data.header)
    exchanged = BrightFieldSpectra(prepare_patterns(data, centre, mirrored=True), data.header)
    np.testing.assert_allclose(
        straight.mirrored().aligned_sum(SHEAR), exchanged.aligned_sum(SHEAR), rtol=1e-3, atol=1e-2
    )
    assert straight.mirrored().electrons == exchanged.electrons
    assert np.shares_memory(straight.mirrored().grid, straight.grid)


def test_a_part_of_the_frequencies_is_summed_like_the_whole(spectra: BrightFieldSpectra) -> None:
    low = spectra.half_plane(0.5 * spectra.k_edge_A)
    np.testing.assert_allclose(
        spectra.only(low).aligned_sum(SHEAR), spectra.aligned_sum(SHEAR)[low], rtol=1e-4, atol=1e-3
    )


def test_every_sum_is_the_plain_one(spectra: BrightFieldSpectra) -> None:
    """G(q, k) exp(-2 pi i q . S k), term by term, in double precision."""
    c10, a, b = SHEAR.C10_A, SHEAR.C12a_A, SHEAR.C12b_A
    matrix = spectra.wavelength_A * np.array([[c10 - a, b], [b, c10 + a]])
    q = spectra.q(SHEAR.rotation_deg)[37:43]
    shift = q @ matrix
    turns = shift[:, 0, None, None] * spectra.k_row[:, None].astype(float) + shift[
        :, 1, None, None
    ] * spectra.k_col.astype(float)
    expected = (spectra.grid[37:43] * np.exp(-2j * np.pi * turns)).sum(axis=(1, 2))
    np.testing.assert_allclose(spectra.aligned_sum(SHEAR)[37:43], expected, rtol=1e-3, atol=1e-2)


def test_a_fit_remembers_its_coarse_score(spectra: BrightFieldSpectra) -> None:
    nominal, search = Shear(-100.0, 0.0, 0.0, 0.0), SearchRange(600.0, 40.0)
    fit = fit_shear(spectra, nominal, search)
    assert fit.coarse_score == coarse_score(spectra, nominal, search)


def test_a_position_that_was_not_recorded_is_given_the_mean(turned: "Truth") -> None:
    data = turned.counted(300.0)
    valid = np.ones(len(data.valid), bool)
    valid[[3, 200]] = False
    pixel = data.pixel[np.repeat(valid, np.diff(data.indptr))]
    indptr = np.concatenate([[0], np.cumsum(np.where(valid, np.diff(data.indptr), 0))])
    holes = replace(data, pixel=pixel, indptr=indptr, valid=valid)
    spectra = BrightFieldSpectra(prepare_patterns(holes, data.header.centre_px), data.header)
    ny, nx = data.header.scan_shape
    row, col = np.argwhere(spectra.inside)[40]
    image = np.fft.ifft2(spectra.grid[:, row, col].reshape(ny, nx)).real.ravel()
    assert image[3] == pytest.approx(0.0, abs=1e-4)
    assert image[200] == pytest.approx(0.0, abs=1e-4)
