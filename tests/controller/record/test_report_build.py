"""The report tells what the journal tells, of any run, and asks nothing of the network."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from controller.hardware.values import Mode
from controller.record.report import build_report

CONTENT = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on crossed tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in CONTENT:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "xlink:href"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in CONTENT:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def page_of(run: Path) -> Page:
    return Page(build_report(run).html.read_text(encoding="utf-8"))


def test_the_verdict_counts_every_target_and_names_the_best(a_night: Any) -> None:
    result = build_report(a_night.folder)
    assert result.data["verdict"] == (
        "1 of 5 crystals finished, best 1.1 Å, 2 skipped, 1 failed, 1 not visited, 1 needs you"
    )
    assert json.loads(result.json.read_text(encoding="utf-8")) == result.data


def test_the_numbers_of_a_target_are_those_of_the_journal(a_night: Any) -> None:
    data = build_report(a_night.folder).data
    assert data["schema"] == "lodestem/report/1"
    assert data["simulated"] is True
    done, unreachable, unread, lost, queued = data["targets"]
    wanted = {
        "id": "T01",
        "structure": "UiO-66",
        "status": "done",
        "misorientation_before_deg": 3.41,
        "misorientation_after_deg": 0.04,
        "misorientation_after_true_deg": None,
        "alignment_dose_e_per_A2": 0.31,
        "scan_dose_e_per_A2": 131.0,
        "resolution_A": 1.08,
        "tilt_moves": 2,
        "patterns": 3,
        "exposures": 4,
        "zone_uvw": [0, 0, 1],
    }
    assert {key: done[key] for key in wanted} == wanted
    assert unreachable["reason"] == "[0 0 1] is unreachable: beta_deg = 17 is outside"
    assert unread["misorientation_before_deg"] is None
    assert lost["status"] == "failed"
    assert queued["status"] == "queued"


def test_the_page_is_well_formed_and_loads_nothing(a_night: Any) -> None:
    page = page_of(a_night.folder)
    assert "script" not in page.tags
    assert "link" not in page.tags
    for reference in page.references:
        assert re.match(r"data:image/webp;base64,|#|report_files/|report\.json$", reference)
    for reference in page.references:
        if reference.startswith("report_files/"):
            assert (a_night.folder / reference).is_file(), reference
        if reference.startswith("#"):
            assert reference[1:] in page.ids, reference


def test_every_skip_and_fault_is_told_with_its_reason(a_night: Any) -> None:
    text = " ".join(page_of(a_night.folder).text)
    for reason in (
        "[0 0 1] is unreachable: beta_deg = 17 is outside",
        "no tilt could be read in 2 patterns (too few spots)",
        "lost: not found in two tracking pictures",
        "alpha settled 0.31 deg short of 12.20",
        "score 0.1 is below 0.3",
        "SIMULATOR",
    ):
        assert reason in text


def test_embedded_pictures_are_small(a_night: Any) -> None:
    import base64
    import io

    from PIL import Image

    html = build_report(a_night.folder).html.read_text(encoding="utf-8")
    found = re.findall(r"data:image/webp;base64,([A-Za-z0-9+/=]+)", html)
    assert len(found) > 10
    for text in found:
        assert max(Image.open(io.BytesIO(base64.b64decode(text))).size) <= 384


def test_the_same_run_gives_the_same_report(a_night: Any) -> None:
    first = build_report(a_night.folder)
    html, numbers = first.html.read_bytes(), first.json.read_bytes()
    second = build_report(a_night.folder)
    assert (second.html.read_bytes(), second.json.read_bytes()) == (html, numbers)


def test_pictures_of_an_earlier_report_do_not_linger(a_night: Any) -> None:
    build_report(a_night.folder)
    before = sorted(path.name for path in (a_night.folder / "report_files").iterdir())
    (a_night.folder / "report_files" / "T99-before.png").write_bytes(b"old")
    build_report(a_night.folder)
    assert sorted(path.name for path in (a_night.folder / "report_files").iterdir()) == before


HOSTILE = '</svg><script src="http://x.test/a.js"></script>"><img src=x onerror=alert(1)>{{ 7*7 }}'


def test_hostile_names_stay_text(night: Any) -> None:
    night.start()
    night.survey([(80, 90)], [f"../../{HOSTILE}"])
    name = f"../../{HOSTILE}"
    night.pattern(name, 1.2, _pose(), answered=False)
    night.fault(name, error=HOSTILE)
    night.propose(name, "approve")
    night.finish_target(name, "failed", HOSTILE)
    night.finish(outcome="fault")
    page = page_of(night.folder)
    assert "script" not in page.tags
    assert "img" not in page.tags
    text = " ".join(page.text)
    assert HOSTILE in text
    assert "{{ 7*7 }}" in text
    written = [path for path in night.folder.parent.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(night.folder) for path in written)


def test_a_path_that_leads_out_of_the_run_is_not_opened(night: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    night.start()
    night.survey([(80, 90)], ["T01"])
    night.scan("T01")
    scan = next((night.folder / "scans").iterdir())
    scan.rename(secret)
    from controller.record.events import ScanTaken

    night.say(
        ScanTaken(
            target="T01",
            path="../secret.h5",
            frames_expected=1,
            frames_committed=1,
            complete=True,
            checksum_sha256="",
            fluence_e_per_A2=1.0,
            charged_e_per_A2=1.0,
            pose=_pose(),
            optics=_stem(),
        )
    )
    night.finish()
    text = " ".join(page_of(night.folder).text)
    assert "../secret.h5 leads out of the run folder" in text


def test_a_supervised_night_lists_who_approved_what(night: Any) -> None:
    night.start(mode="supervised")
    night.propose(None, "approve")
    night.step += 1
    night.propose(None, None)
    night.finish(outcome="held")
    data = build_report(night.folder).data
    assert [a["by"] for a in data["approvals"]] == ["A. Kim", None]
    assert data["approvals"][0]["waited_s"] == 40
    assert any("never answered" in need["what"] for need in data["needs_you"])


def test_a_tilt_names_who_approved_it(night: Any) -> None:
    night.start(mode="supervised")
    night.survey([(80, 90)], ["T01"])
    night.propose("T01", "approve")
    night.tilt("T01", 2.2, -2.6)
    night.finish(outcome="stopped")
    assert "residual α +0.012, β −0.020, approved by A. Kim" in " ".join(page_of(night.folder).text)


def test_an_incomplete_scan_is_shown_and_needs_a_person(night: Any) -> None:
    night.start()
    night.survey([(80, 90)], ["T01"])
    night.scan("T01", positions=200)
    night.finish(outcome="interrupted")
    result = build_report(night.folder)
    text = " ".join(page_of(night.folder).text)
    assert "Incomplete: 200 of 483 positions" in text
    assert any("200 of 483" in need["what"] for need in result.data["needs_you"])


def test_altered_data_are_found_by_their_checksum(a_night: Any) -> None:
    scan = next((a_night.folder / "scans").iterdir())
    scan.write_bytes(scan.read_bytes() + b"\0")
    data = build_report(a_night.folder).data
    checks = {file["path"]: file["check"] for file in data["files"]}
    assert checks[f"scans/{scan.name}"] == "differs"
    assert any("differs" in problem for problem in data["problems"])


def test_a_folder_that_is_none_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is no folder; nothing was written.*journal"):
        build_report(tmp_path / "nowhere")


def _pose() -> Any:
    from controller.hardware.values import StagePose

    return StagePose(x_um=0, y_um=0, z_um=0, alpha_deg=0, beta_deg=0)


def _stem() -> Any:
    from controller.hardware.values import OpticsState

    return OpticsState(
        mode=Mode.STEM,
        energy_keV=300,
        probe_current_pA=5,
        beam_diameter_nm=1,
        convergence_semiangle_mrad=10,
        defocus_nm=12,
        detector_sampling_mrad=1,
    )
