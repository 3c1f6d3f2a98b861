"""From a vendor's raw readings and the site file to the values of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controller.backends.site import DEFLECTORS, INTERLOCKS, Site
from controller.hardware.values import (
    Axis,
    AxisInfo,
    BlankInfo,
    Capabilities,
    ColumnHealth,
    Condition,
    DetectorInfo,
    HealthReading,
    LongOperation,
    Mode,
    OpticsState,
    Vector,
)

ADAPTER_VERSION = "1"


@dataclass(frozen=True)
class RawOptics:
    """What a camera column reads, in our units."""

    mode: Mode
    energy_keV: float
    spot: int
    lens: float
    """Raw: compared with the calibrated illuminations only."""
    defocus_nm: float
    magnification: float | None
    """At the camera, as indicated."""
    camera_length_mm: float | None
    beam_shift_nm: Vector
    image_shift_nm: Vector


def optics_state(site: Site, raw: RawOptics) -> OpticsState:
    """The state of the optics; area and current come from the calibrated illumination.

    Raises
    ------
    ModeError
        The condenser stands at none of the calibrated illuminations.
    """
    row = site.illumination(raw.mode, raw.spot, raw.lens)
    camera = next((d for d in site.detectors if raw.mode in d.modes), site.detectors[0])
    pixel_um = camera.pixel_um * camera.binning
    magnification = (raw.magnification or 0.0) * site.magnification_factor
    length_mm = (raw.camera_length_mm or 0.0) * site.camera_length_factor
    return OpticsState(
        mode=raw.mode,
        energy_keV=raw.energy_keV,
        probe_current_pA=row.probe_current_pA,
        beam_diameter_nm=row.beam_diameter_nm,
        convergence_semiangle_mrad=row.convergence_semiangle_mrad,
        defocus_nm=raw.defocus_nm,
        pixel_size_nm=1000 * pixel_um / magnification if magnification > 0 else None,
        camera_length_mm=length_mm if length_mm > 0 else None,
        detector_sampling_mrad=pixel_um / length_mm if length_mm > 0 else None,
        beam_shift_nm=raw.beam_shift_nm,
        image_shift_nm=raw.image_shift_nm,
        spot=raw.spot,
    )


def column_health(
    site: Site, known: Mapping[str, bool | None], *, holder_id: str | None, age_s: float = 0.0
) -> ColumnHealth:
    """Interlocks: read ones as they read, attested ones by the site's word, the rest UNKNOWN.

    Parameters
    ----------
    known
        By name: True is good, False bad, None (or no entry) not readable.
    """
    readings: dict[str, HealthReading] = {}
    for name in INTERLOCKS:
        good = known.get(name)
        if good is not None:
            condition = Condition.GOOD if good else Condition.BAD
            readings[name] = HealthReading(condition=condition, age_s=age_s)
        elif name in site.attested:
            readings[name] = HealthReading(
                condition=Condition.GOOD, detail="attested by the site file, not read"
            )
        else:
            readings[name] = HealthReading(
                condition=Condition.UNKNOWN,
                detail="this interface does not tell and the site file does not attest it",
            )
    return ColumnHealth.model_validate({**readings, "holder_id": holder_id})


def aged(health: ColumnHealth, by_s: float) -> ColumnHealth:
    """The same readings, `by_s` older."""
    older: dict[str, HealthReading] = {
        name: reading.replace(age_s=reading.age_s + by_s)
        for name, reading in health.readings().items()
    }
    return health.replace(**older)


@dataclass(frozen=True)
class Abilities:
    """What one driver brings to `capabilities`; the rest comes from the site file."""

    vendor: str
    api: str
    settings: frozenset[str]
    modes: frozenset[Mode]
    blank: BlankInfo
    operations: frozenset[LongOperation]
    quirks: frozenset[str]
    readable: frozenset[str]
    """Interlocks that this interface can read."""
    simulated: bool = False


def capabilities(
    site: Site, abilities: Abilities, ranges: Mapping[Axis, tuple[float, float]]
) -> Capabilities:
    """Intersect what vendor and site say.

    Parameters
    ----------
    ranges
        Of the axes that the instrument has, in our units.
    """
    attested = frozenset(f"{name}-attested" for name in site.attested - abilities.readable)
    settings = abilities.settings - set(DEFLECTORS) | set(site.deflectors)
    for row in site.projections:
        settings |= {"pixel_size_nm" if row.mode is Mode.IMAGE else "detector_sampling_mrad"}
    diameters = [row.beam_diameter_nm for row in site.illuminations]
    detectors = tuple(
        DetectorInfo(
            name=camera.name,
            shape=camera.shape,
            kind=camera.kind,
            modes=camera.modes & abilities.modes,
            gain=camera.gain,
            offset=camera.offset,
            saturation=camera.saturation,
            min_exposure_s=camera.min_exposure_s,
            max_exposure_s=camera.max_exposure_s,
        )
        for camera in site.detectors
    )
    return Capabilities(
        vendor=abilities.vendor,
        model=site.model,
        api=abilities.api,
        adapter_version=ADAPTER_VERSION,
        simulated=abilities.simulated,
        axes={axis: _axis(site.axes[axis], ranges[axis]) for axis in site.axes if axis in ranges},
        blank=abilities.blank,
        current_from="screen",
        current_relative_sigma=site.current_relative_sigma,
        max_current_pA=site.max_current_pA,
        detectors=detectors,
        scan=None,
        modes=abilities.modes,
        settings=frozenset(settings),
        beam_diameter_nm=(min(diameters), max(diameters)),
        long_operations=abilities.operations,
        quirks=abilities.quirks | attested,
    )


def _axis(site: AxisInfo, vendor: tuple[float, float]) -> AxisInfo:
    return site.replace(low=max(site.low, vendor[0]), high=min(site.high, vendor[1]))
