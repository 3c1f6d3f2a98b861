"""The driver of ``docs/drivers.md`` does what every driver must."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.backends.laned import LanedAdapter
from controller.backends.site import load_site
from controller.hardware.clock import VirtualClock
from controller.hardware.values import Axis
from tests.conformance.adapter_suite import AdapterTests
from tests.conformance.microscope_suite import MicroscopeTests
from tests.conformance.virtual_lane import Blocking, VirtualLane
from tests.strategies import numbers

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "driver_template"


def template() -> ModuleType:
    name = "mylab_driver"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def opened() -> LanedAdapter:
    blocking = Blocking(VirtualClock())
    driver = template()
    acme = driver.AcmeColumn(blocking.now_s, blocking.spend)
    adapter: LanedAdapter = driver.adapter_on(
        load_site(FOLDER / "site.yaml"), acme, VirtualLane(blocking), blocking.clock
    )
    return adapter


class TestTemplateAdapter(AdapterTests):
    def open_adapter(self, folder: Path) -> LanedAdapter:
        return opened()


class TestTemplateMicroscope(MicroscopeTests):
    def open_adapter(self, folder: Path) -> LanedAdapter:
        return opened()


@given(axis=st.sampled_from(list(Axis)), sign=st.sampled_from([-1, 1]), value=numbers(-900, 900))
def test_its_units_there_and_back(axis: Axis, sign: int, value: float) -> None:
    driver = template()
    there = driver.acme_from_ours(axis, value, sign)
    assert driver.ours_from_acme(axis, there, sign) == pytest.approx(value, abs=1e-9)


def test_it_opens_in_real_time_as_the_command_line_would() -> None:
    adapter = template().open_adapter({"site": str(FOLDER / "site.yaml")})
    assert adapter.read_blanked() is True
    adapter.close()
    with pytest.raises(ValueError, match="mylab cannot be opened: site: Field required"):
        template().open_adapter({})
