"""The demo night: a plan that a newcomer can run, read and start from."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import yaml

from controller.plan.run import RunPlan


def demo_plan(*, seed: int, scenario: str = "typical") -> RunPlan:
    """The shipped plan with another seed and scenario."""
    data = yaml.safe_load(demo_text())
    data["seed"] = seed
    data["instrument"]["options"] = {"scenario": scenario, "seed": seed}
    return RunPlan.from_mapping(data, base=Path.cwd(), source="the shipped demo plan")


def demo_text() -> str:
    """The shipped plan as YAML, with its comments."""
    return files("controller.plan").joinpath("demo.yaml").read_text(encoding="utf-8")
