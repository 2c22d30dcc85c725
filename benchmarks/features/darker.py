"""A scene that becomes darker: images until the drift alarm, and false alarms after recalibration on 100 images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.features.cells import SolarCells
from benchmarks.features.common import FeatureRun
from benchmarks.features.trained import trained_on_split
from snf_app.drift.streams import DriftReference, Stream
from snf_models.anomaly.calibrate import collect_evidence
from snf_models.anomaly.exchangeability import false_alarm_interval
from snf_models.anomaly.reference_images import reference_of
from snf_models.datasets import load_dataset
from snf_models.datasets.dataset import Dataset, digest_of, split_images
from snf_models.registry.registry import ZOO
from snf_models.scorer import Scorer
from snf_runtime.images.preprocessing import Pixels
from snf_runtime.scoring.evidence import Evidence
from snf_worker.settings import Settings

NAME = "darker"
PARTS_OF_RUN = ("elpv", "mnist-snf-glow", "fashion-snf-glow", "cifar10-snf-glow")
"""Models: one of features of solar cells, and those that are shipped."""
BRIGHTNESS = 0.9
"""Factor of all grey values in the changed scene."""
RECALIBRATION = 100
"""Images of the changed scene that the model is calibrated on."""
WATCHED = 500
"""Images of the changed scene that are watched for an alarm, one after the other."""
IMAGES = 2000
"""Most normal images of a model."""
ALPHA = 0.05


def measure(run: FeatureRun) -> None:
    """Measure every model, and write after each."""
    document: dict[str, Any] = {"rows": {}, **run.known(NAME)}
    for name in run.extras["only"]:
        scorer, images = subject(run, name)
        document["rows"][name] = changed_scene(run, scorer, images)
        Console(stderr=True).print(name, document["rows"][name])
        run.write(NAME, document, report(document))
    print(report(document))


def subject(run: FeatureRun, name: str) -> tuple[Scorer, Pixels]:
    """Return a model and normal images that neither its training nor its calibration has seen."""
    if name == "elpv":
        split = SolarCells.load(run).split(0)
        return trained_on_split(run, split)[0], split.test
    scorer = Scorer.load(ZOO / name / "1", options=run.options)
    test = load_dataset(scorer.manifest.training.dataset, run.data_dir).test
    return scorer, test[:: max(1, len(test) // run.some(IMAGES, 300))]


def changed_scene(run: FeatureRun, scorer: Scorer, images: Pixels) -> dict[str, Any]:
    """Return after how many darker images the alarm is raised, and the false alarms before and after recalibration.

    Each repetition watches the images in another order. Half of them, 100 at most, then recalibrate the model, and the
    others are judged by both calibrations.
    """
    darker = np.rint(images * BRIGHTNESS).astype(np.uint8)
    usual, changed = (collect_evidence(scorer.density, some).evidence for some in (images, darker))
    p_usual, p_changed = (scorer.calibration.p_values(some) for some in (usual, changed))
    until: list[int | None] = []
    without: list[int | None] = []
    shares = []
    for seed in range(run.some(run.seeds, 2)):
        order = np.random.default_rng(seed).permutation(len(images))
        until.append(alarm_after(scorer, changed, order[:WATCHED]))
        without.append(alarm_after(scorer, usual, order[:WATCHED]))
        chosen, rest = np.split(order, [min(RECALIBRATION, len(order) // 2)])
        calibration, summary = scorer.calibrate(
            reference_of(uploaded(darker[chosen]), scorer.manifest), lambda _part, _done, _images: None
        )
        p = calibration.p_values(changed[rest])
        low, high = false_alarm_interval(summary.calibration_images, len(rest), ALPHA)
        share = float((p <= ALPHA).mean())
        shares.append({"share": share, "interval": [low, high], "inside": low <= share <= high})
    return {
        "images": len(images),
        "alarm_after": until,
        "alarms_without_change": sum(found is not None for found in without),
        "flagged_before": float((p_usual <= ALPHA).mean()),
        "flagged_darker": float((p_changed <= ALPHA).mean()),
        "recalibration_images": min(RECALIBRATION, len(images) // 2),
        "after_recalibration": shares,
    }


def alarm_after(scorer: Scorer, evidence: Evidence, order: NDArray[np.int64]) -> int | None:
    """Return the number of images until the service raises an alarm, or None."""
    assert evidence.white_levels is not None
    statistics = scorer.calibration.folds[0].values(evidence)
    stream = Stream.start(DriftReference.of(scorer), 0.0)
    for count, image in enumerate(order, 1):
        stream.new_statistics.append(float(statistics[image]))
        stream.new_white_levels.append(int(evidence.white_levels[image]))
        stream.bet()
        stream.update_alarm(Settings().drift_martingale, "model", float(count))
        if stream.alarm_since is not None:
            return count
    return None


def uploaded(images: Pixels) -> Dataset:
    """Return images as a dataset, divided as an upload is."""
    divided = split_images([""] * len(images), [digest_of(image[None]).encode() for image in images])
    train, statistics, calibration = (images[divided.part == number] for number in range(3))
    folds = None if divided.fold is None else divided.fold[divided.part == 1]
    digest = digest_of(train, statistics, calibration)
    return Dataset("darker", train, statistics, calibration, images[:0], digest, split=divided.split, folds=folds)


def report(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# A scene that becomes darker",
        "",
        f"Grey values times {BRIGHTNESS:g}. Each repetition watches the images in another order and recalibrates on "
        "others. The alarm is that of the service with its default settings, looked at after every image.",
        "",
        f"| model | images | alarm after, images: median, most | alarms of unchanged images | flagged at {ALPHA:.0%}: "
        "before, darker | after recalibration: mean, runs inside the 99 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in document["rows"].items():
        found = [count for count in row["alarm_after"] if count is not None]
        runs, shares = len(row["alarm_after"]), row["after_recalibration"]
        alarm = f"{np.median(found):.0f}, {max(found)}" if found else "-"
        if len(found) < runs:
            alarm += f" (none in {runs - len(found)} of {runs} runs)"
        lines.append(
            f"| {name} | {row['images']} | {alarm} | {row['alarms_without_change']} of {runs} | "
            f"{row['flagged_before']:.1%}, {row['flagged_darker']:.1%} | "
            f"{np.mean([one['share'] for one in shares]):.1%} on {row['recalibration_images']} images, "
            f"{sum(one['inside'] for one in shares)} of {runs} |"
        )
    return "\n".join(lines) + "\n"
