"""Measure a picker on scenes of the second generator: every class, at every dose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classes import CLASS_NAMES
from models.confidence import Confidence
from models.evaluation_scenes import draw_evaluation_scene
from models.imaging import Scene, SurveyImage
from models.network import open_network
from models.picker import SCORE_TO_ACT, RegionPicker, RegionResult
from models.truth import judge_picks
from models.weights import Weights

DOSES_E_PER_PX = (0.05, 0.2, 1.0, 5.0, 50.0)


@dataclass(frozen=True)
class Metrics:
    """Figures at one dose; NaN where nothing was there to count."""

    electrons_per_px: float
    scenes: int
    iou: tuple[float, ...]
    """Intersection over union of each class, over all pixels of all scenes."""
    precision_at_1: float
    """Share of scenes with a usable crystal in which the first pick is right."""
    precision_when_given: float
    """Share of right first picks among the scenes in which the picker did not abstain."""
    given: float
    """Share of scenes in which it did not abstain."""
    recall: float
    """Share of the usable crystals taken by right picks with a score to act on."""
    calibration_error: float
    """Expected calibration error of the scores of all listed picks, ten bins."""
    flagged: float
    """Share called out of distribution: false alarms."""
    thickness_error_mfp: float
    """Median absolute error of t/mfp on crystal pixels."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON, classes by name."""
        return asdict(self) | {"iou": dict(zip(CLASS_NAMES, self.iou, strict=True))}


def evaluate(
    weights: Weights,
    scenes_per_dose: int,
    *,
    seed: int,
    progress: Callable[[str, int, int, float], None] | None = None,
    doses_e_per_px: Sequence[float] = DOSES_E_PER_PX,
    shape: tuple[int, int] = (512, 512),
) -> Iterator[Metrics]:
    """Metrics dose by dose; nothing if the weights are not calibrated or no scenes are wanted.

    Parameters
    ----------
    weights
        Network and calibration.
    scenes_per_dose, seed
        The same specimens come back at every dose.
    progress
        Called per scene.
    doses_e_per_px, shape
        Mean detected electrons per pixel; pixels of a scene.
    """
    if not weights.calibration or scenes_per_dose == 0:
        return
    picker = RegionPicker(open_network(weights), Confidence.from_arrays(weights.calibration))
    total, done = len(doses_e_per_px) * scenes_per_dose, 0
    for dose in doses_e_per_px:
        outcomes = []
        for k in range(scenes_per_dose):
            rng = np.random.default_rng([seed, k])
            scene = draw_evaluation_scene(rng, electrons_per_px=dose, shape=shape)
            outcomes.append(_outcome(scene, pick_scene(picker, scene)))
            done += 1
            if progress is not None:
                progress("evaluate", done, total, 0.0)
        yield _summary(dose, outcomes)


def pick_scene(picker: RegionPicker, scene: Scene) -> RegionResult:
    """Regions of a drawn scene, from its raw values and its calibration."""
    return pick_image(picker, scene.image)


def pick_image(picker: RegionPicker, image: SurveyImage) -> RegionResult:
    """Regions of an image, from its raw values and its calibration."""
    return picker.pick(
        image.values,
        mode=image.mode,
        pixel_size_nm=image.pixel_size_nm,
        gain=image.gain,
        offset=image.offset,
        incident_electrons_per_px=image.incident_electrons_per_px,
    )


def confusion(labels: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels by true class (row) and given class (column), (6, 6)."""
    n = len(CLASS_NAMES)
    joint = truth.astype(np.int64).ravel() * n + labels.ravel()
    return np.bincount(joint, minlength=n * n).reshape(n, n)


def intersection_over_union(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Per class from a confusion matrix, (6,); NaN for a class that is nowhere."""
    hit = np.diag(counts).astype(np.float64)
    union = counts.sum(axis=0) + counts.sum(axis=1) - hit
    return np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)


def calibration_error(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Expected calibration error in ten bins of the score."""
    if len(scores) == 0:
        return float("nan")
    bins = np.minimum((scores * 10).astype(int), 9)
    weight = np.bincount(bins, minlength=10)
    gap = np.bincount(bins, scores - right, minlength=10)
    return float(np.abs(gap).sum() / weight.sum())


@dataclass(frozen=True)
class _Outcome:
    counts: NDArray[np.int64]
    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    usable_crystals: int
    given: bool
    flagged: bool
    thickness_error_mfp: float


def _outcome(scene: Scene, result: RegionResult) -> _Outcome:
    truth = scene.specimen.truth
    right = judge_picks(truth, [(p.y_px, p.x_px, p.radius_nm) for p in result.picks])
    on_crystal = truth.instances > 0
    error = np.abs(result.thickness_mfp - truth.thickness_mfp)[on_crystal]
    return _Outcome(
        counts=confusion(result.labels, truth.labels),
        scores=np.array([p.score for p in result.picks]),
        right=np.array(right, bool),
        usable_crystals=pickable_crystals(scene),
        given=not result.abstained,
        flagged=result.out_of_distribution,
        thickness_error_mfp=float(np.median(error)) if error.size else float("nan"),
    )


def pickable_crystals(scene: Scene) -> int:
    """How many crystals have room for a right disc."""
    truth = scene.specimen.truth
    deep = truth.usable_distance_nm >= 40.0
    return len(np.unique(truth.usable[deep & (truth.usable > 0)]))


def _summary(dose: float, outcomes: list[_Outcome]) -> Metrics:
    first = [bool(o.right[:1].any()) for o in outcomes]
    possible = [k for k, o in enumerate(outcomes) if o.usable_crystals > 0]
    given = [k for k, o in enumerate(outcomes) if o.given]
    scores = np.concatenate([o.scores for o in outcomes])
    right = np.concatenate([o.right for o in outcomes])
    crystals = sum(o.usable_crystals for o in outcomes)
    return Metrics(
        electrons_per_px=dose,
        scenes=len(outcomes),
        iou=tuple(
            float(v) for v in intersection_over_union(np.sum([o.counts for o in outcomes], axis=0))
        ),
        precision_at_1=_share([first[k] for k in possible]),
        precision_when_given=_share([first[k] for k in given]),
        given=len(given) / max(len(outcomes), 1),
        recall=float((right & (scores >= SCORE_TO_ACT)).sum()) / crystals
        if crystals
        else float("nan"),
        calibration_error=calibration_error(scores, right),
        flagged=_share([o.flagged for o in outcomes]),
        thickness_error_mfp=float(np.nanmedian([o.thickness_error_mfp for o in outcomes])),
    )


def _share(hits: list[bool]) -> float:
    return float(np.mean(hits)) if hits else float("nan")
