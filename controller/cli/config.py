"""``lodestem config``: make, check and explain plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
import yaml

from controller.cli.output import InputError, command
from controller.cli.plans import read_plan
from controller.plan.demo import demo_text
from controller.plan.run import RunPlan


def init_command(path: Path) -> None:
    """Write the commented demo plan to `path`."""
    with command("config") as output:
        if path.exists():
            raise InputError(f"{path} exists; nothing was written", "give another name")
        path.write_text(demo_text(), encoding="utf-8")
        output.result({"path": str(path)}, str(path))


def validate_command(path: Path, *, as_json: bool) -> None:
    """Check a plan without an instrument."""
    with command("config", as_json=as_json) as output:
        plan = read_plan(path)
        output.result(
            {"valid": True, "fingerprint": plan.fingerprint()},
            f"{path} is a valid plan ({plan.name}, {plan.sample.material})",
        )


def show_command(path: Path, *, as_json: bool) -> None:
    """Print every value of a plan with its origin."""
    with command("config", as_json=as_json) as output:
        plan = read_plan(path)
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows = [
            (key, value, _origin(key, value, given, path))
            for key, value in leaves(plan.model_dump(mode="json", by_alias=True))
        ]
        output.result(
            {key: {"value": value, "origin": origin} for key, value, origin in rows},
            "\n".join(f"{key} = {json.dumps(value)}  # {origin}" for key, value, origin in rows),
        )


def schema_command() -> None:
    """Print the JSON Schema of plans."""
    typer.echo(json.dumps(RunPlan.model_json_schema(), indent=2))


def leaves(data: Any, prefix: str = "") -> list[tuple[str, Any]]:  # noqa: ANN401
    """(dotted key, value) of every leaf of nested mappings."""
    if isinstance(data, dict) and data:
        return [
            leaf
            for key, value in data.items()
            for leaf in leaves(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    return [(prefix, data)]


def _origin(key: str, value: Any, given: Any, path: Path) -> str:  # noqa: ANN401
    node = given
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            from_library = key.startswith("sample.") and value is not None
            return "library of materials" if from_library else "default"
        node = node[part]
    return str(path)
