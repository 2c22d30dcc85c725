"""Stored datasets as training sees them: any size, groups kept together, the same pixels as in scoring."""

import gc
import io
import json
import os
import shutil
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snf_client.schemas.datasets import ImageFacts
from snf_client.schemas.training import TrainingConfig
from snf_models.datasets import DatasetStore, dataset_names, load_dataset, summarize
from snf_models.datasets.dataset import Dataset
from snf_models.datasets.prepared import KEPT, make_room
from snf_models.datasets.storage import near_pairs
from snf_models.datasets.store import choose_preprocessing
from snf_models.disk import folder_bytes
from snf_models.errors import DatasetNotFound, DatasetUnfit, StorageFull
from snf_models.images import provenance_warning
from snf_models.loading.trained import load_artifact
from snf_models.pipeline.presets import PRESETS
from snf_models.scoring import EngineOptions
from snf_runtime.images.codec import decode_image
from snf_runtime.images.preprocessing import Preprocessing
from tests.models.datasets.upload_files import DIGITS, mixed, npz, pngs, source, zipped
from tests.models.helpers import QUICK
from tests.models.training.runs import train_whole
from tests.support.image_files import run_length_bmp

PHOTOS = mixed()
NOTHING = TrainingConfig()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DatasetStore:
    folder = tmp_path_factory.mktemp("home")
    store = DatasetStore(folder / "datasets")
    store.create("photos", [source(folder / "uploads", zipped(PHOTOS))])
    store.create("digits", [source(folder / "uploads", zipped(pngs(40)))])
    return store


def everything(dataset: Any) -> np.ndarray:
    return np.concatenate([dataset.train, dataset.statistics, dataset.calibration])


POLICIES: dict[str, dict[str, Any]] = {
    "nothing asked": {},
    "crop": {"image_size": 16, "fit": "crop"},
    "stretch": {"image_size": [16, 24], "fit": "stretch", "colour": "grey"},
    "pad": {"image_size": 32, "fit": "pad", "colour": "rgb"},
    "larger": {"image_size": 64},
}


@pytest.mark.parametrize("asked", POLICIES.values(), ids=list(POLICIES))
def test_training_and_scoring_see_the_same_pixels(asked: dict[str, Any], store: DatasetStore) -> None:
    config = TrainingConfig(**asked)
    dataset = load_dataset("photos", None, store, config)
    assert dataset.image_shape == dataset.preprocessing.shape
    assert isinstance(dataset.train, np.memmap)
    decoded = {decode_image(data, dataset.preprocessing).pixels.tobytes() for data in PHOTOS.values()}
    assert {image.tobytes() for image in everything(dataset)} == decoded
    summary = summarize("photos", None, store, config)
    assert summary.image_shape == dataset.image_shape
    sizes = (len(dataset.train), len(dataset.statistics), len(dataset.calibration), len(dataset.test))
    assert (summary.train, summary.statistics, summary.calibration, summary.test) == sizes
    assert sum(sizes) == 60


def test_what_is_chosen_for_mixed_photos(store: DatasetStore) -> None:
    dataset = load_dataset("photos", None, store, NOTHING)
    assert dataset.preprocessing == Preprocessing(channels=3, height=28, width=28, fit="crop", colour="rgb")
    decoded = decode_image(PHOTOS["lot1/01.jpeg"], dataset.preprocessing)
    assert (decoded.converted, decoded.resized, decoded.format) == ("L -> RGB", True, "JPEG")
    assert decoded.source_size == (28, 26)


def test_images_of_one_kind_are_taken_as_they_are(store: DatasetStore) -> None:
    dataset = load_dataset("digits", None, store, NOTHING)
    assert dataset.preprocessing == Preprocessing(channels=1, height=28, width=28)
    assert {image.tobytes() for image in everything(dataset)} == {image.tobytes() for image in DIGITS[:40]}


def facts(**changes: Any) -> ImageFacts:
    return ImageFacts(
        **{"smallest": (40, 30), "largest": (90, 80), "median_shorter_side": 51, "coloured": True, "channels": None}
        | changes
    )


SAME = {"smallest": (40, 30), "largest": (40, 30), "channels": 3}
CHOICES = [
    (facts(), {}, (3, 48, 48, "crop", "rgb")),
    (facts(median_shorter_side=500), {}, (3, 64, 64, "crop", "rgb")),
    (facts(coloured=False, channels=1), {}, (1, 48, 48, "crop", "exact")),
    (facts(**SAME), {}, (3, 30, 40, "exact", "exact")),
    (facts(**{**SAME, "channels": None}), {}, (3, 30, 40, "exact", "rgb")),
    (facts(**SAME), {"fit": "crop"}, (3, 30, 40, "crop", "exact")),
    (facts(**SAME), {"colour": "grey"}, (1, 30, 40, "exact", "grey")),
    (facts(**SAME), {"image_size": [30, 40]}, (3, 30, 40, "exact", "exact")),
    (facts(**SAME), {"image_size": 32}, (3, 32, 32, "crop", "exact")),
    (
        facts(**{**SAME, "smallest": (4000, 3000), "largest": (4000, 3000), "median_shorter_side": 3000}),
        {},
        (3, 64, 64, "crop", "exact"),
    ),
    (facts(), {"image_size": [8, 16], "fit": "pad", "colour": "grey"}, (1, 8, 16, "pad", "grey")),
]


@pytest.mark.parametrize(("known", "asked", "expected"), CHOICES)
def test_choices(known: ImageFacts, asked: dict[str, Any], expected: tuple[Any, ...]) -> None:
    found = choose_preprocessing(TrainingConfig(**asked), known, "photos")
    assert (found.channels, found.height, found.width, found.fit, found.colour) == expected


def test_what_cannot_be_chosen(store: DatasetStore) -> None:
    for asked, reason in (
        ({"fit": "exact"}, r"24x20 to 48x44 \(width x height\), fit exact takes"),
        ({"fit": "exact", "image_size": 16}, "fit exact takes 16x16"),
        ({"fit": "crop", "colour": "exact"}, "some are grey|some images of photos are grey"),
    ):
        with pytest.raises(DatasetUnfit, match=reason):
            summarize("photos", None, store, TrainingConfig(**asked))
        with pytest.raises(DatasetUnfit, match=reason):
            load_dataset("photos", None, store, TrainingConfig(**asked))
    shape = summarize("photos", None, store, TrainingConfig(image_size=15)).image_shape
    with pytest.raises(DatasetUnfit, match="expected multiples of 2, at least 8, got 15x15; set image_size"):
        PRESETS["snf-glow-tiny"].architecture(shape, "affine")


def test_names(store: DatasetStore) -> None:
    assert dataset_names(None, store) == ["mnist-mini", "digits", "photos"]
    for name in ("letters", "../photos", "mnist"):
        with pytest.raises(DatasetNotFound, match="mnist-mini, digits, photos"):
            load_dataset(name, None, store)


def test_pixels_are_prepared_once(store: DatasetStore, tmp_path: Path) -> None:
    config = TrainingConfig(image_size=20)
    told: list[tuple[int, int]] = []
    first = load_dataset("photos", None, store, config, lambda *at: told.append(at))
    assert told[-1] == (60, 60)
    again = load_dataset("photos", None, store, config, lambda *_: pytest.fail("prepared again"))
    assert again.digest == first.digest
    cache = Path(again.train.filename).parent
    (cache / "pixels.npy").write_bytes(b"damaged")
    assert load_dataset("photos", None, store, config).digest == first.digest
    # Uploaded in another order, the images are shared out alike.
    other = DatasetStore(tmp_path / "datasets")
    other.create("photos", [source(tmp_path / "uploads", zipped(dict(reversed(PHOTOS.items()))))])
    assert load_dataset("photos", None, other, config).digest == first.digest
    with pytest.raises(StorageFull):
        load_dataset("photos", None, DatasetStore(other.root, quota=1000), TrainingConfig(image_size=24))


def test_prepared_pixels_are_bounded_and_those_in_use_are_kept(tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "datasets")
    store.create("photos", [source(tmp_path / "uploads", zipped(mixed(20)))])
    caches = store.root / "photos" / "prepared"

    def load(side: int, quota: int | None = None) -> Dataset:
        quoted = DatasetStore(store.root, quota=quota)
        return load_dataset("photos", None, quoted, TrainingConfig(image_size=side))

    def made(dataset: Dataset) -> Path:
        pixels: Any = dataset.train
        return Path(pixels.filename).parent

    in_use = load(8)
    kept = made(load(9))
    for side in range(10, 20):
        time.sleep(0.01)  # the order of use is told by the clock of the disk
        assert made(load(9)) == kept
        newest = made(load(side))
        assert len(list(caches.iterdir())) <= KEPT
    assert {made(in_use), kept, newest} <= set(caches.iterdir())
    assert len(list(caches.iterdir())) == KEPT
    # Where the quota leaves no room, others make room as well.
    full = folder_bytes(store.root)
    assert len({made(load(side, full)) for side in (40, 41)} & set(caches.iterdir())) >= 1
    assert len(list(caches.iterdir())) < KEPT
    assert made(in_use).exists()
    with pytest.raises(StorageFull):
        load(1000, full)
    assert list(caches.iterdir()) == [made(in_use)]
    before = everything(in_use)
    cache = made(in_use)
    del in_use
    gc.collect()
    with pytest.raises(StorageFull):
        load(1000, full)
    assert not cache.exists()
    assert (everything(load(8)) == before).all()


def test_a_cache_that_another_process_removes_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("going", "gone", "here"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    stat = Path.stat

    def stat_meanwhile(path: Path, **given: Any) -> os.stat_result:
        if path.parent.name == "gone":
            shutil.rmtree(path.parent, ignore_errors=True)
        found = stat(path, **given)
        if path.parent.name == "going":
            shutil.rmtree(path.parent)
        return found

    monkeypatch.setattr(Path, "stat", stat_meanwhile)
    make_room(tmp_path, "lock", lambda: None)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_folds_are_kept_with_the_pixels(store: DatasetStore, tmp_path: Path) -> None:
    """They belong to the images whatever the order of the upload; a cache that lost them is made anew."""
    config = TrainingConfig(image_size=12)
    dataset = load_dataset("photos", None, store, config)
    split = store.report("photos").split
    assert np.bincount(dataset.folds).tolist() == split.folds == [4, 4, 4, 4, 4]
    summary = summarize("photos", None, store, config)
    assert (summary.statistics, summary.calibration, summary.folds) == (20, 0, 5)

    record = Path(dataset.train.filename).parent / "record.json"
    kept = json.loads(record.read_text())
    assert kept["folds"] == dataset.folds.tolist()
    for folds in ([], kept["folds"][1:], [0] * 20):
        record.write_text(json.dumps(kept | {"folds": folds}))
        again = load_dataset("photos", None, store, config)
        assert again.folds.tolist() == kept["folds"]
        assert again.digest == dataset.digest

    other = DatasetStore(tmp_path / "datasets")
    other.create("photos", [source(tmp_path / "uploads", zipped(dict(reversed(PHOTOS.items()))))])
    reversed_upload = load_dataset("photos", None, other, config)
    assert reversed_upload.folds is not None
    assert np.array_equal(reversed_upload.folds, dataset.folds)
    assert np.array_equal(reversed_upload.statistics, dataset.statistics)


def test_many_images_have_a_calibration_part_and_no_folds(tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "datasets")
    images = np.random.default_rng(0).integers(0, 256, (400, 8, 8), dtype=np.uint8)
    for count, expected in ((399, (240, 159, 0, 5)), (400, (240, 40, 120, 0))):
        report = store.create("noise", [source(tmp_path / "uploads", npz(images=images[:count]))])
        summary = summarize("noise", None, store)
        assert (summary.train, summary.statistics, summary.calibration, summary.folds) == expected
        assert (load_dataset("noise", None, store).folds is None) == (expected[3] == 0)
        assert summary.whole_folds == 5
        whole_folds = load_dataset("noise", None, store).whole_folds
        assert whole_folds is not None
        assert np.bincount(whole_folds).tolist() == [80] * 4 + [count - 320]
        assert any("images are few" in note for note in report.notes) == (count < 400)
        store.delete("noise")


def test_a_built_in_set_can_be_resized() -> None:
    config = TrainingConfig(image_size=16)
    dataset = load_dataset("mnist-mini", None, None, config)
    assert dataset.image_shape == (1, 16, 16) == summarize("mnist-mini", None, None, config).image_shape
    assert dataset.preprocessing == Preprocessing(channels=1, height=16, width=16, fit="crop")
    assert dataset.digest != load_dataset("mnist-mini", None).digest


def test_stored_images_are_read_where_limits_on_their_cost_came_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DatasetStore(tmp_path / "datasets")
    with monkeypatch.context() as earlier:
        earlier.setattr("snf_runtime.images.codec.check_cost", lambda *_: None)
        earlier.setattr("snf_runtime.images.codec.BoundedFile", lambda data, _: io.BytesIO(data))
        costly = {"costly.bmp": run_length_bmp(DIGITS[40, 0])}
        store.create("digits", [source(tmp_path / "uploads", zipped(pngs(40) | costly))])
    images = everything(load_dataset("digits", None, store, NOTHING))
    assert {image.tobytes() for image in images} == {image.tobytes() for image in DIGITS[:41]}


def test_lots_do_not_leak(store: DatasetStore) -> None:
    split = store.report("photos").split
    assert (split.rule, split.seed) == ("by-group", 0)
    lots = tuple(f"{lot}/" for lot in split.groups["statistics"])
    assert len(lots) == 2
    dataset = load_dataset("photos", None, store, NOTHING)
    assert dataset.preprocessing is not None
    expected = {
        decode_image(data, dataset.preprocessing).pixels.tobytes()
        for path, data in PHOTOS.items()
        if path.startswith(lots)
    }
    assert {image.tobytes() for image in dataset.statistics} == expected
    assert dataset.calibration.shape == (0, *dataset.image_shape)


def test_groups_of_an_array(tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "datasets")
    for group in (np.arange(100) // 10, np.array([f"lot {n // 10}" for n in range(100)])):
        data = npz(images=DIGITS[:100, 0], group=group)
        report = store.create("digits", [source(tmp_path / "uploads", data)])
        assert report.different_groups == 10
        assert report.split.rule == "by-group"
        assert (report.split.train, report.split.statistics, report.split.calibration) == (60, 40, 0)
        store.delete("digits")


def test_near_pairs_are_those_of_all_pairs() -> None:
    generator = np.random.default_rng(0)
    base = generator.integers(0, 2**64, 60, dtype=np.uint64)
    flips = [np.uint64(sum(1 << int(bit) for bit in generator.choice(64, n % 6, replace=False))) for n in range(240)]
    hashes = np.unique(np.concatenate([base, np.tile(base, 4) ^ np.array(flips)]))
    pairs = combinations(range(len(hashes)), 2)
    expected = [[i, j] for i, j in pairs if int(hashes[i] ^ hashes[j]).bit_count() <= 3]
    assert near_pairs(hashes).tolist() == expected
    assert len(expected) > 100


def test_a_model_of_mixed_photos(store: DatasetStore, tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"image_size": (16, 16), "max_steps": 2})
    dataset = load_dataset("photos", None, store, config)
    events: list[dict[str, Any]] = []
    engine = EngineOptions("torch")  # compiles nothing
    path = train_whole(dataset, "snf-glow-tiny", config, tmp_path, observe=events.append, engine=engine)
    manifest = load_artifact(path).manifest
    assert manifest.preprocessing == dataset.preprocessing
    assert manifest.training.split == store.report("photos").split
    provenance = manifest.training.provenance
    assert provenance.formats == {"JPEG": 15, "PNG": 15, "BMP": 15, "WEBP": 15}
    assert (provenance.smallest, provenance.largest, provenance.resized) == ((24, 20), (44, 44), 60)
    assert sum(provenance.converted.values()) > 20
    assert json.loads((path / "manifest.json").read_text())["training"]["config"]["image_size"] == [16, 16]
    card = (path / "card.md").read_text()
    assert "40 training/20 reference in 5 folds by group, seed 0" in card
    assert "cross-conformal over 20 held-out images" in card
    assert "15 PNG" in card
    # A finished run is known again, though JSON made a list of the size.
    assert train_whole(dataset, "snf-glow-tiny", config, tmp_path, observe=events.append) == path
    inside = decode_image(PHOTOS["lot1/01.jpeg"], manifest.preprocessing)
    assert provenance_warning(provenance, inside) is None
    assert provenance_warning(provenance.model_copy(update={"formats": {"PNG": 60}}), inside) is not None
