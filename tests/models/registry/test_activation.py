"""Which new calibration becomes the active one by itself, and what is said of one that does not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from snf_models.anomaly.calibrate import calibrate
from snf_models.anomaly.reference_images import reference_of
from snf_models.artifacts.manifest import Activation, CalibrationRecord, CalibrationSummary, read_manifest
from snf_models.datasets import Dataset, load_dataset
from snf_models.registry.calibrations import (
    ARRAYS,
    CHOICE,
    NOT_ASKED,
    RECORD,
    CalibrationStore,
    attainable,
    calibration_bytes,
    coarser,
)
from snf_models.registry.registry import ZOO, Registry
from snf_models.scorer import Scorer
from tests.support.documents import check_table
from tests.support.forked_context import forked_context
from tests.support.paths import ROOT
from tests.support.unmeasured import MEASURED

Made = tuple[bytes, CalibrationSummary]
SHIPPED = "mnist-snf-glow"
SIZES = (20, 30, 300)


def made_of(scorer: Scorer, images: int) -> Made:
    """A calibration on so many images of real digits, without gradients."""
    mini = load_dataset("mnist-mini", None)
    parts = np.concatenate([mini.test, mini.statistics, mini.calibration, mini.train])
    dataset = Dataset("line", parts[:20], parts[20:21], parts[21 : 20 + images], test=parts[:0], digest="line")
    reference = reference_of(dataset, scorer.manifest)
    calibration, summary = calibrate(scorer.density, reference, scorer.pinned[0], lambda *_: None)
    assert summary.calibration_images == images
    return calibration_bytes(calibration), summary


@pytest.fixture(scope="module")
def made(scorer: Scorer) -> dict[int, Made]:
    return {images: made_of(scorer, images) for images in SIZES}


def decided(calibrations: CalibrationStore, made: Made, activate: bool | None = None) -> Activation:
    number = calibrations.publish(*made, activate=activate)
    activation = calibrations.record(number).activation
    assert (calibrations.active() == number) == activation.active
    return activation


def row(own: int, images: int, activation: Activation) -> str:
    said = "" if activation.reason is None else activation.reason.partition("; choose")[0]
    return f"| {own:,} | {images} | {'yes' if activation.active else 'no'} | {said} |"


def test_20_30_and_300_images_beside_a_calibration_in_use(
    calibrations: CalibrationStore,
    scorer: Scorer,
    made: dict[int, Made],
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    shipped = read_manifest(ZOO / SHIPPED / "1")
    # What is decided follows from the numbers of images, whatever the model.
    weights = {"weights_sha256": shipped.calibration.weights_sha256}
    of_shipped = {images: (content, summary.model_copy(update=weights)) for images, (content, summary) in made.items()}
    shipped_store = Registry(tmp_path / "home").calibrations(SHIPPED, 1)
    rows, became_active = [], []
    for manifest, store, ready in ((scorer.manifest, calibrations, made), (shipped, shipped_store, of_shipped)):
        own = manifest.calibration
        for images in SIZES:
            store.choose(0, own.weights_sha256)
            activation = decided(store, ready[images])
            rows.append(row(own.calibration_images, images, activation))
            became_active.append(activation.active)
    assert became_active == [False, False, True, False, False, False]
    head = "| images of the one in use | images of the new one | active | what is said |\n|---:|---:|---|---|\n"
    check_table(ROOT / "docs" / "calibration.md", head + "".join(f"{line}\n" for line in rows), pytestconfig)


def test_true_and_false_are_done_as_told(calibrations: CalibrationStore, made: dict[int, Made]) -> None:
    assert decided(calibrations, made[20], True) == Activation(active=True)
    assert decided(calibrations, made[300], False) == Activation(active=False, reason=NOT_ASKED)
    assert calibrations.active() == 1


def test_it_is_compared_with_the_one_in_use_and_not_with_the_newest(
    calibrations: CalibrationStore, made: dict[int, Made]
) -> None:
    weights = made[300][1].weights_sha256
    assert decided(calibrations, made[300]).active
    coarser = decided(calibrations, made[30])
    assert coarser.reason == (
        "its smallest p-value is 0.0323, that of calibration 1 in use 0.00332: it could no longer flag at alpha "
        "0.005, 0.01 and 0.02; choose calibration 2 to use it all the same"
    )
    calibrations.choose(2, weights)
    assert decided(calibrations, made[30]).active, "as coarse as the one in use"
    assert decided(calibrations, made[20]).active, "it attains the same alphas"
    calibrations.choose(1, weights)
    assert "calibration 1 in use" in (decided(calibrations, made[20]).reason or "")
    assert calibrations.active() == 1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / ARRAYS).unlink(), "is missing"),
        (lambda folder: (folder / ARRAYS).write_bytes(b"0"), "SHA-256"),
        (shutil.rmtree, "no calibration 1"),
    ],
)
def test_a_damaged_one_in_use_is_replaced(
    calibrations: CalibrationStore,
    made: dict[int, Made],
    damage: Callable[[Path], object],
    said: str,
) -> None:
    calibrations.publish(*made[300])
    damage(calibrations.folder / "1")
    activation = decided(calibrations, made[20])
    assert activation.active
    assert (activation.reason or "").startswith("calibration 1, used so far, is damaged: ")
    assert said in (activation.reason or "")


def test_a_damaged_choice_is_replaced(calibrations: CalibrationStore, made: dict[int, Made]) -> None:
    calibrations.publish(*made[300])
    (calibrations.folder / CHOICE).write_text("1")
    activation = decided(calibrations, made[20])
    assert activation.active
    assert "active.json is not a valid choice" in (activation.reason or "")


def test_records_of_earlier_versions_are_read(calibrations: CalibrationStore, made: dict[int, Made]) -> None:
    calibrations.publish(*made[20])
    path = calibrations.folder / "1" / RECORD
    record = CalibrationRecord.model_validate_json(path.read_bytes())
    path.write_text(record.model_dump_json(exclude={"activation"}))
    assert calibrations.record(1) == record.model_copy(update={"activation": None})
    assert calibrations.active() == 1


def _publish(registry: Registry, made: Made) -> None:
    registry.calibrations("digits", 1).publish(*made, activate=None)


def test_of_two_jobs_at_once_the_finer_one_is_in_use(
    registry: Registry, calibrations: CalibrationStore, made: dict[int, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(MEASURED, raising=False)  # what they do is covered above
    context = forked_context()
    workers = [context.Process(target=_publish, args=(registry, made[images])) for images in (20, 300)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert calibrations.numbers() == [0, 1, 2]
    assert calibrations.record(calibrations.active()).summary.calibration_images == 300


def test_usual_alphas_need_so_small_a_p_value() -> None:
    assert attainable(1 / 1000) == (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)
    assert attainable(1 / 999) == (0.005, 0.01, 0.02, 0.05, 0.1)
    assert attainable(0.11) == ()
    lost = coarser(1, 0.06, 0, 0.002) or ""
    assert "could no longer flag at alpha 0.005, 0.01, 0.02 and 0.05" in lost


@pytest.mark.parametrize(
    ("images", "used", "active"), [(60, 65, True), (400, 900, True), (30, 65, False), (65, 20, True)]
)
def test_fewer_images_that_attain_the_same_alphas_are_used(images: int, used: int, active: bool) -> None:
    assert (coarser(1, 1 / (images + 1), 0, 1 / (used + 1)) is None) is active
