"""The region picker on scenes that its training never saw.

    python -m benchmarks.regions --scenes 40 --out runs/regions-benchmark
    python -m benchmarks.regions --only foreign,speed --weights runs/regions/regions.npz

Four parts: ``classes`` (IoU of every class, precision, recall and calibration by dose), ``foreign``
(area under the curve of the out-of-distribution flag against each kind of foreign image),
``sequential`` (exposure in steps until the picker is sure, against every fixed dose) and ``speed``
(milliseconds per image on one thread in each runtime, a 4096 x 4096 mosaic, and in the same run
the seconds of one matrix product to tell how fast the machine was).
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.regions_foreign import FOREIGN, Maker, familiar
from models.confidence import Confidence
from models.evaluate import evaluate, pick_image, pickable_crystals
from models.evaluation_scenes import draw_evaluation_frames, draw_evaluation_scene
from models.imaging import Scene
from models.network import open_network
from models.picker import LEAST_ELECTRONS, RegionPicker, RegionResult
from models.sequential import ExposureRule
from models.truth import judge_picks
from models.weights import load_weights

PARTS = ("classes", "foreign", "sequential", "speed")


def strangeness(picker: RegionPicker, make: Maker, seed: int, dose: float) -> float:
    """How foreign the picker finds an image; infinite where it holds no electrons."""
    image = make(np.random.default_rng([seed, 31]), dose)
    result = pick_image(picker, image)
    return np.inf if image.electrons.sum() < LEAST_ELECTRONS else result.unfamiliarity


def area_under_curve(familiar: list[float], foreign: list[float]) -> float:
    """Probability that a foreign image is found more foreign than a familiar one."""
    a, b = np.array(familiar)[:, None], np.array(foreign)[None, :]
    return float(((b > a) + 0.5 * (b == a)).mean())


def foreign_table(picker: RegionPicker, scenes: int, seed: int) -> dict[str, Any]:
    """Area under the curve, and the share flagged, for each kind of foreign image."""
    doses = np.exp(np.random.default_rng(seed).uniform(np.log(0.05), np.log(50), scenes))
    known = [strangeness(picker, familiar, seed + k, d) for k, d in enumerate(doses)]
    table: dict[str, Any] = {"familiar": {"flagged": float(np.mean(np.array(known) > 1))}}
    every: list[float] = []
    for name, make in FOREIGN.items():
        found = [strangeness(picker, make, seed + k, d) for k, d in enumerate(doses)]
        every += found
        table[name] = {
            "auroc": area_under_curve(known, found),
            "flagged": float(np.mean(np.array(found) > 1)),
        }
        print(f"{name:14s} AUROC {table[name]['auroc']:.3f} flagged {table[name]['flagged']:.2f}")
    table["all"] = {"auroc": area_under_curve(known, every)}
    print(
        f"all foreign    AUROC {table['all']['auroc']:.3f}; familiar ones flagged "
        f"{table['familiar']['flagged']:.3f}"
    )
    return table


def classes_table(picker_weights: Path | None, scenes: int, seed: int) -> list[dict[str, Any]]:
    """Metrics of the second generator by dose."""
    weights = load_weights(picker_weights)
    table = []
    for m in evaluate(weights, scenes, seed=seed):
        table.append(m.as_dict())
        ious = " ".join(f"{name} {iou:.2f}" for name, iou in table[-1]["iou"].items())
        print(
            f"{m.electrons_per_px:6.2f} e/px: {ious}; P@1 {m.precision_at_1:.2f}, right when given "
            f"{m.precision_when_given:.2f} ({m.given:.2f} given), recall {m.recall:.2f}, ECE "
            f"{m.calibration_error:.3f}",
            flush=True,
        )
    return table


def sequential_table(picker: RegionPicker, scenes: int, seed: int) -> dict[str, Any]:
    """Share of right first picks against mean dose, for fixed doses and for rules."""
    steps = [0.2 * 2**k for k in range(9)]  # 0.2 to 51.2 e/px
    fixed: dict[float, list[bool]] = {s: [] for s in steps}
    rules = {s: ExposureRule(sure=s, most_e_per_px=steps[-1]) for s in (0.5, 0.6, 0.7, 0.8, 0.9)}
    sequential: dict[float, list[tuple[float, bool]]] = {s: [] for s in rules}
    for k in range(scenes):
        rng = np.random.default_rng([seed, 77, k])
        parts = draw_evaluation_frames(
            rng, electrons_per_px=[steps[0], *np.diff(steps)], shape=(512, 512)
        )
        if not pickable_crystals(parts[0]):
            continue
        sums = np.cumsum([p.image.electrons for p in parts], axis=0)
        results = [_pick_sum(picker, parts[0], s) for s in sums]
        right = [_first_is_right(parts[0], r) for r in results]
        for s, ok in zip(steps, right, strict=True):
            fixed[s].append(ok)
        for sure, rule in rules.items():
            at, taken = 0, steps[0]
            while (more := rule.further(results[at], taken)[0]) > 0 and at + 1 < len(steps):
                at = next(
                    n for n, s in enumerate(steps) if s >= min(taken + more, steps[-1]) * 0.99
                )
                taken = steps[at]
            sequential[sure].append((taken, right[at]))
    table = {
        "scenes": len(fixed[steps[0]]),
        "fixed": {f"{s:g}": float(np.mean(v)) for s, v in fixed.items()},
        "sequential": {
            f"{s:g}": {
                "mean_e_per_px": float(np.mean([t for t, _ in v])),
                "median_e_per_px": float(np.median([t for t, _ in v])),
                "right": float(np.mean([ok for _, ok in v])),
            }
            for s, v in sequential.items()
        },
    }
    for s, share in table["fixed"].items():
        print(f"fixed {s:>5s} e/px: {share:.2f} right")
    for s, row in table["sequential"].items():
        print(
            f"until sure by {s}: {row['right']:.2f} right at mean {row['mean_e_per_px']:.2f}, "
            f"median {row['median_e_per_px']:.2f} e/px"
        )
    return table


def _pick_sum(picker: RegionPicker, scene: Scene, electrons: np.ndarray) -> RegionResult:
    incident = scene.image.incident_electrons_per_px
    dose = float(electrons.mean()) / max(float(scene.image.electrons.mean()), 1e-6)
    return picker.pick(
        electrons,
        mode=scene.image.mode,
        pixel_size_nm=scene.image.pixel_size_nm,
        incident_electrons_per_px=None if incident is None else incident * dose,
    )


def _first_is_right(scene: Scene, result: RegionResult) -> bool:
    picks = [(p.y_px, p.x_px, p.radius_nm) for p in result.picks[:1]]
    return any(judge_picks(scene.specimen.truth, picks))


def speed_table(weights: Path | None, seed: int) -> dict[str, Any]:
    """Milliseconds on one thread; the matrix product tells how fast the machine was."""
    loaded = load_weights(weights)
    image = draw_evaluation_scene(
        np.random.default_rng([seed, 5]), electrons_per_px=5.0, shape=(512, 512)
    ).image
    mosaic = np.tile(image.values, (8, 8))
    a = np.random.default_rng(0).normal(size=(1024, 1024)).astype(np.float32)
    table: dict[str, Any] = {"matmul_1024_ms": _median_ms(lambda: a @ a, 5)}
    runtimes = ["torch"] if find_spec("torch") else []
    runtimes += ["onnx"] if find_spec("onnxruntime") else []
    for runtime in runtimes:
        if runtime == "torch":
            import torch

            torch.set_num_threads(1)
        network = open_network(loaded, runtime)
        picker = RegionPicker(network, Confidence.from_arrays(loaded.calibration))
        pick_image(picker, image)
        big = replace(image, values=mosaic, pixel_size_nm=10.0)
        table[runtime] = {
            "image_512_ms": _median_ms(partial(pick_image, picker, image), 9),
            "mosaic_4096_s": _median_ms(partial(pick_image, picker, big), 1) / 1e3,
        }
        print(
            f"{runtime}: {table[runtime]['image_512_ms']:.0f} ms per 512 x 512 image, "
            f"{table[runtime]['mosaic_4096_s']:.1f} s per 4096 x 4096 mosaic"
        )
    return table


def _median_ms(work: Callable[[], object], times: int) -> float:
    """CPU milliseconds of this process: a busy machine does not count."""
    taken = []
    for _ in range(times):
        began = time.process_time()
        work()
        taken.append(1e3 * (time.process_time() - began))
    return float(np.median(taken))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas")
    parser.add_argument("--scenes", type=int, default=40, help="per dose or kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--weights", type=Path, help="instead of the shipped ones")
    parser.add_argument("--out", type=Path, help="folder for regions.json")
    chosen = parser.parse_args()
    parts = chosen.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown parts {sorted(unknown)}; there are {', '.join(PARTS)}")
    picker = RegionPicker.load(chosen.weights)
    work: dict[str, Callable[[], Any]] = {
        "classes": lambda: classes_table(chosen.weights, chosen.scenes, chosen.seed),
        "foreign": lambda: foreign_table(picker, chosen.scenes, chosen.seed),
        "sequential": lambda: sequential_table(picker, chosen.scenes, chosen.seed),
        "speed": lambda: speed_table(chosen.weights, chosen.seed),
    }
    results = {}
    for part in parts:
        print(f"-- {part}", flush=True)
        results[part] = work[part]()
        if chosen.out is not None:
            chosen.out.mkdir(parents=True, exist_ok=True)
            (chosen.out / "regions.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
