"""The command line: exit codes, one JSON document, errors with a remedy, nothing heavy at start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from controller.cli.main import app


def lodestem(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_version_and_help() -> None:
    assert lodestem("--version").stdout.startswith("lodestem 0.")
    for verb in ("demo", "run", "simulate", "align", "segment", "reconstruct", "report", "doctor"):
        assert lodestem(verb, "--help").exit_code == 0


def test_starting_up_imports_nothing_heavy() -> None:
    code = (
        "import sys, controller.cli.main, controller.server.session, controller.plan.run\n"
        "heavy = {'torch', 'cv2', 'scipy', 'matplotlib', 'gemmi', 'numba'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_plan_from_init_is_valid_and_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    assert lodestem("config", "init", str(path)).exit_code == 0
    assert lodestem("config", "validate", str(path)).exit_code == 0
    again = lodestem("config", "init", str(path))
    assert again.exit_code == 2
    assert "nothing was written" in again.stderr


def test_show_tells_every_value_and_its_origin(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    lodestem("config", "init", str(path))
    shown = json.loads(lodestem("config", "show", str(path), "--json").stdout)["result"]
    assert shown["scan.fluence_e_per_A2"]["origin"] == str(path)
    assert shown["scan.dwell_s"]["origin"] == "default"
    assert shown["sample.critical_dose_e_per_A2"] == {
        "value": 256.0,
        "origin": "library of materials",
    }


def test_the_schema_knows_the_plan() -> None:
    schema = json.loads(lodestem("config", "schema").stdout)
    assert schema["additionalProperties"] is False
    assert "alignment" in schema["properties"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sample: {material: UiO-66}\nscann: {}", ["scann", "unknown key"]),
        (
            "sample: {material: UiO-66}\nscan: {fluence_e_per_A2: -1}",
            ["scan.fluence_e_per_A2", "-1", "greater than 0"],
        ),
        ("sample: {material: UiO-66}\nscan: {step_A: .nan}", ["scan.step_A", "nan"]),
        (
            "sample: {material: UiO-66}\nlimits: {alpha_deg: [-80, 80]}",
            ["alpha_deg", "80", "holder", "nothing was moved"],
        ),
        (
            "sample: {material: UiO-66}\ninstrument: {options: {scenario: nowhere}}",
            ["nowhere", "typical"],
        ),
        ("sample: {material: UiO-66}\ninstrument: {backend: tecnai}", ["tecnai", "sim"]),
    ],
)
def test_a_bad_plan_is_exit_2_with_key_value_limit_and_remedy(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    done = lodestem("run", str(path), "--dry-run", "--json")
    assert done.exit_code == 2
    document = json.loads(done.stdout)
    assert document["ok"] is False
    said = document["error"]["message"] + document["error"]["hint"]
    for word in words:
        assert word in said


def test_a_dry_run_tells_dose_hours_and_bytes_and_exposes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    lodestem("config", "init", str(path))
    done = lodestem("run", str(path), "--dry-run", "--json", "--out", str(tmp_path / "run"))
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert result["feasible"]
    assert 0 < result["before_scan_e_per_A2"] < 0.5
    assert not (tmp_path / "run").exists()


def test_supervised_without_a_terminal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    lodestem("config", "init", str(path))
    done = lodestem("run", str(path), "--supervised", "--out", str(tmp_path / "run"))
    assert done.exit_code == 2
    assert "terminal" in done.stderr


@pytest.mark.parametrize("verb", ["align", "segment", "reconstruct"])
def test_a_missing_file_is_exit_2(verb: str, tmp_path: Path) -> None:
    done = lodestem(verb, str(tmp_path / "missing.h5"), "--json")
    assert done.exit_code == 2
    assert "does not exist" in json.loads(done.stdout)["error"]["message"]


def test_a_folder_without_a_run_has_no_report(tmp_path: Path) -> None:
    assert lodestem("report", str(tmp_path)).exit_code == 2


def test_the_doctor_finds_this_installation_fit() -> None:
    done = lodestem("doctor", "--json")
    checks = {c["check"]: c for c in json.loads(done.stdout)["result"]["checks"]}
    assert "sim" in checks["instrument drivers"]["detail"].split(", ")
    assert checks["region model"]["ok"]
    assert checks["package torch"]["ok"]
