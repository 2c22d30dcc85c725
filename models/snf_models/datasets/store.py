"""The datasets of this machine: those of users in a store, and built-in ones by name."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from snf_client.schemas.datasets import DatasetReport, ImageFacts, ReferenceRecord, Split
from snf_client.schemas.training import ImageOptions
from snf_models.datasets.dataset import (
    FOLDS,
    HELD_OUT_SHARE,
    MIN_IMAGES,
    MOST_REPEATED,
    Dataset,
    DatasetSummary,
    Progress,
    digest_of,
    group_and_split,
    no_progress,
)
from snf_models.datasets.prepared import LEFTOVER_SECONDS, prepare
from snf_models.datasets.references import REFERENCE, ReferencedFiles, build_index, read_record
from snf_models.datasets.storage import NearDuplicates, Storage, StorageWriter, distinct, make_report, write_storage
from snf_models.datasets.uploads import (
    Findings,
    ImageFile,
    ImagePixels,
    Limits,
    Rejected,
    Source,
    UploadMeter,
    read_sources,
)
from snf_models.disk import DiskQuota, make_folder, new_folder, remove_folder, remove_leftovers, storage_errors
from snf_models.errors import DatasetNotFound, DatasetRefused, DatasetTaken, DatasetUnfit, ImageError
from snf_models.images import ARRAY, Provenance
from snf_models.locations.location import Location
from snf_models.naming import check_name, is_name
from snf_models.texts import choices
from snf_runtime.images.codec import encode_png, image_grid, npy_header
from snf_runtime.images.preprocessing import (
    CHANNELS,
    MAX_LEVELS,
    Colour,
    Pixels,
    Preprocessing,
    conform,
    conform_pixels,
)

FILES = {"mnist": "mnist.npz", "fashion-mnist": "fashion_mnist.npz", "cifar10": "cifar10.npz"}
MINI = "mnist-mini"
NAMES = (MINI, *FILES)
LICENCES = {
    MINI: "CC BY-SA 3.0, those of MNIST",
    "mnist": "CC BY-SA 3.0",
    "fashion-mnist": "MIT",
    "cifar10": "no formal licence; its author asks for a citation of Krizhevsky, Learning Multiple Layers of Features "
    "from Tiny Images, 2009",
}
"""Licences of the images, as their publishers state them."""
LARGE_SPLITS = {60_000: (50_000, 5_000, 5_000), 50_000: (45_000, 2_500, 2_500)}
"""Sizes of train, statistics and calibration by the number of official training images, in the order of the file."""
SEED = 0


def builtin_file(name: str, data_dir: Path | None) -> Path | None:
    """Return the file path of a built-in dataset such as ``mnist``, or None if this machine lacks the file."""
    if name == MINI:
        return Path(str(resources.files("snf_models") / "data" / MINI / "images.npz"))
    if data_dir is None or name not in FILES or not (data_dir / FILES[name]).is_file():
        return None
    return data_dir / FILES[name]


def summarize_builtin(name: str, path: Path, config: ImageOptions) -> DatasetSummary:
    """Return a built-in dataset's shape and counts without reading pixels; raise ``DatasetUnfit`` if it is damaged."""
    with _named(path), zipfile.ZipFile(path) as arrays:
        count, height, width, *channels = _shape(arrays, "x_train")
        tested = _shape(arrays, "x_test")[0] if "x_test.npy" in arrays.namelist() else 0
    train, statistics, calibration = _split_sizes(name, count)
    shape = (channels[0] if channels else 1, height, width)
    chosen = _choice(config, shape, name)
    return DatasetSummary(chosen.shape if chosen else shape, train, statistics, calibration, tested)


def load_builtin(name: str, path: Path, config: ImageOptions) -> Dataset:
    """Split official training files in their own order, other datasets 80/10/10 by a seeded permutation."""
    arrays = builtin_arrays(path)
    images = arrays["x_train"]
    test = arrays.get("x_test", images[:0])
    sizes = _split_sizes(name, len(images))
    size = (images.shape[3], images.shape[2])
    chosen = _choice(config, images.shape[1:], name)
    resized = len(images) if chosen and chosen.size != size and not chosen.tiled else 0
    if chosen and chosen.shape != images.shape[1:]:
        images, test = _conformed(images, chosen, name), _conformed(test, chosen, name)
    official = len(images) in LARGE_SPLITS
    order = np.arange(len(images)) if official else np.random.default_rng(SEED).permutation(len(images))
    train, statistics, calibration = (images[part] for part in np.split(order, np.cumsum(sizes)[:2]))
    split = Split(
        rule="in-order" if official else "by-image",
        reason="the published split" if official else "the images are in no groups",
        seed=None if official else SEED,
        **dict(zip(("train", "statistics", "calibration"), sizes, strict=True)),
    )
    provenance = Provenance(formats={ARRAY: len(images)}, smallest=size, largest=size, resized=resized)
    digest = digest_of(images, test)
    return Dataset(name, train, statistics, calibration, test, digest, chosen, provenance, split)


def builtin_arrays(path: Path) -> dict[str, Pixels]:
    """Return the images, uint8 ``(N, C, H, W)``, of training and, if any, of tests; raise ``DatasetUnfit``."""
    with _named(path), np.load(path, allow_pickle=False) as arrays:
        return {name: _channels_first(arrays[name]) for name in ("x_train", *(arrays.keys() & {"x_test"}))}


def _choice(config: ImageOptions, shape: tuple[int, ...], name: str) -> Preprocessing | None:
    if (config.image_size, config.fit, config.colour) == (None, None, None):
        return None
    return choose_preprocessing(config, shape_facts(shape), name)


def shape_facts(shape: tuple[int, ...]) -> ImageFacts:
    """Return the facts of images of one shape ``(C, H, W)``."""
    channels, height, width = shape
    size, shorter = (width, height), min(width, height)
    return ImageFacts(
        smallest=size, largest=size, median_shorter_side=shorter, coloured=channels > 1, channels=channels
    )


MAX_MODEL_SIDE = 1024
TILE_SIDE = 256  # side of the tiles of a model with fit tiles, where image_size is unset


def choose_preprocessing(config: ImageOptions, facts: ImageFacts, name: str) -> Preprocessing:
    """Choose what the configuration leaves open to suit the images; the default size is theirs where all have one.

    >>> facts = ImageFacts(smallest=(40, 50), largest=(640, 480), median_shorter_side=51, coloured=True, channels=3)
    >>> choose_preprocessing(ImageOptions(), facts, "photos")
    Preprocessing(channels=3, height=48, width=48, fit='crop', colour='exact', levels=65536)
    """
    width, height = _size(config, facts)
    as_they_are = facts.smallest == facts.largest == (width, height)
    fit = config.fit or ("exact" if as_they_are else "crop")
    if fit == "tiles" and width != height:
        raise DatasetUnfit(f"fit tiles takes square tiles, got image_size {height}x{width}; set image_size to one side")
    if fit == "exact" and not as_they_are:
        sizes = " to ".join(dict.fromkeys("{}x{}".format(*size) for size in (facts.smallest, facts.largest)))
        raise DatasetUnfit(
            f"the images of {name} are {sizes} (width x height), fit exact takes {width}x{height} alone; "
            "set fit to crop, stretch or pad"
        )
    colour: Colour = config.colour or ("rgb" if facts.channels is None else "exact")
    channels = facts.channels if colour == "exact" else CHANNELS[colour]
    if channels is None:
        raise DatasetUnfit(f"some images of {name} are grey and some have colour; set colour to rgb or grey")
    levels = config.levels or MAX_LEVELS
    return Preprocessing(channels=channels, height=height, width=width, fit=fit, colour=colour, levels=levels)


def _size(config: ImageOptions, facts: ImageFacts) -> tuple[int, int]:
    if config.image_size is not None:
        return config.image_size[1], config.image_size[0]
    if config.fit == "tiles":
        return TILE_SIDE, TILE_SIDE
    if facts.smallest == facts.largest and max(facts.largest) <= MAX_MODEL_SIDE:
        return facts.largest
    side = min(config.automatic_side, max(4, facts.median_shorter_side // 4 * 4))
    return side, side


def _conformed(images: Pixels, preprocessing: Preprocessing, name: str) -> Pixels:
    size = images.shape[2:] if preprocessing.tiled else preprocessing.shape[1:]
    conformed = np.empty((len(images), preprocessing.channels, *size), dtype=np.uint8)
    try:
        for index, image in enumerate(images):
            conformed[index] = conform_pixels(image, preprocessing).pixels
    except ImageError as error:
        raise DatasetUnfit(f"{name}: {error.detail}") from error
    return conformed


def _split_sizes(name: str, count: int) -> tuple[int, int, int]:
    held_out = count // HELD_OUT_SHARE
    sizes = LARGE_SPLITS.get(count, (count - 2 * held_out, held_out, held_out))
    if min(sizes) < 1:
        raise DatasetUnfit(f"{name} has {count} images, at least {MIN_IMAGES} are needed")
    return sizes


def _shape(arrays: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    with arrays.open(f"{name}.npy") as header:
        return npy_header(header)[0]


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        # The text of an OSError has the whole path, which must not reach a caller.
        reason = error.strerror if isinstance(error, OSError) else error
        raise DatasetUnfit(f"{path.name} is not an .npz file with images in x_train: {reason}") from error


def _channels_first(images: Pixels) -> Pixels:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DatasetUnfit(f"expected uint8 images (N, H, W) or (N, H, W, C), got {images.dtype} {images.shape}")
    if images.ndim == 3:
        return images[:, None]
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


REPORT = "report.json"
SHEET = "contact_sheet.png"
SHEET_IMAGES = 100
THUMBNAIL = Preprocessing(channels=3, height=64, width=64, fit="pad", colour="rgb")


@dataclass(frozen=True)
class NewDataset:
    name: str
    sources: Sequence[Source]
    limits: Limits
    quota: int | None  # bytes of all datasets together
    near_duplicates: NearDuplicates = "keep"

    @property
    def packed(self) -> int:
        return sum(source.path.stat().st_size for source in self.sources)


def fill_folder(folder: Path, new: NewDataset, progress: Progress) -> None:
    """Write images, index, report and contact sheet of an upload; ``progress`` gets the bytes read, and all."""
    room = DiskQuota(folder.parent, new.quota)
    packed = new.packed
    room.require(packed)
    meter, findings = UploadMeter(packed, new.limits), Findings()
    with write_storage(folder, room, new.near_duplicates) as writer:
        for item in read_sources(new.sources, meter):
            if item is None:
                findings.ignored += 1
            elif isinstance(item, Rejected):
                findings.reject(item.path, item.slug, item.reason)
            else:
                add_image(writer, item, findings)
            progress(min(meter.done, meter.packed), meter.packed)
        report = report_on(new.name, writer, findings)
    write_report(folder, report)
    progress(packed, packed)


def add_image(writer: StorageWriter, item: ImageFile | ImagePixels, findings: Findings, place: int = 0) -> None:
    try:
        if not writer.add(item, place):
            findings.reject(item.path, "name-taken", "another file has this name")
    except ImageError as error:
        findings.reject(item.path, error.slug, error.detail)


def report_on(name: str, writer: StorageWriter, findings: Findings) -> DatasetReport:
    """Divide a new dataset into parts and report on it; raise ``DatasetRefused`` if there are too few images."""
    different = distinct(writer.index, "digest")
    if different < MIN_IMAGES:
        detail = f"{different} different images can be used, at least {MIN_IMAGES} are needed"
        if findings.files:
            first = findings.files[0]
            detail += f"; {findings.slugs.total()} files were rejected, the first, {first.path}: {first.reason}"
        if findings.ignored:
            detail += f"; {findings.ignored} files were skipped, because their names are no images'"
        raise DatasetRefused("dataset-too-small", "The dataset is too small", detail)
    return make_report(name, writer.index, findings, group_and_split(writer.index))


def write_report(folder: Path, report: DatasetReport) -> None:
    (folder / SHEET).write_bytes(_contact_sheet(folder, report.images))
    (folder / REPORT).write_text(report.model_dump_json(indent=1), encoding="utf-8")


def _contact_sheet(folder: Path, count: int) -> bytes:
    chosen = set(np.linspace(0, count - 1, min(count, SHEET_IMAGES)).round().astype(int).tolist())
    with Storage.open(folder) as storage:
        thumbnails = [
            conform(storage.image(stored), THUMBNAIL).pixels
            for place, stored in enumerate(storage.images("path"))
            if place in chosen
        ]
    return encode_png(image_grid(np.stack(thumbnails)))


@dataclass(frozen=True)
class NewReference:
    """A dataset by reference to be created."""

    name: str
    location: str
    column: str | None = None  # of Parquet files, None to find it
    inspect: bool = False  # read every image once, as jobs other than scoring need
    quota: int | None = None  # bytes of all datasets together
    by_request: bool = False  # whether a request to the service named the location


def fill_reference(folder: Path, new: NewReference, progress: Progress = no_progress) -> None:
    """Write an index, and with inspection a table of the images, a report and a contact sheet."""
    room = DiskQuota(folder.parent, new.quota)
    room.require(0)
    passes = 2 if new.inspect else 1
    record = build_index(
        Location(new.location),
        folder / REFERENCE,
        column=new.column,
        by_request=new.by_request,
        progress=lambda done, total: progress(done, passes * total),
    )
    room.take((folder / REFERENCE).stat().st_size)
    room.require(0)
    if new.inspect:
        _inspect(folder, new.name, record, room, progress)


def _inspect(folder: Path, name: str, record: ReferenceRecord, room: DiskQuota, progress: Progress) -> None:
    findings = Findings()
    findings.ignored, findings.files = record.ignored, list(record.rejected_files)
    findings.slugs = Counter(record.rejected_by)
    done, total = record.bytes, 2 * record.bytes
    with (
        write_storage(folder, room, copies=False) as writer,
        closing(ReferencedFiles(folder / REFERENCE).read(0, record.images)) as files,
    ):
        for place, path, content in files:
            if isinstance(content, ImageError):
                findings.reject(path, content.slug, content.detail)
            else:
                add_image(writer, ImageFile(path, content), findings, place)
                done += len(content)
            progress(min(done, total), total)
        report = report_on(name, writer, findings)
    write_report(folder, report)


class DatasetStore:
    """Store of user datasets, a folder for each under ``root``; ``quota`` is the most bytes of all together."""

    def __init__(self, root: Path, *, quota: int | None = None) -> None:
        self.root = root
        self.quota = quota

    def names(self) -> list[str]:
        """Return the sorted names of complete datasets."""
        folders = {path.parent.name for file in (REPORT, REFERENCE) for path in self.root.glob(f"*/{file}")}
        return sorted(filter(is_name, folders))

    def has(self, name: str) -> bool:
        return is_name(name) and any((self.root / name / file).is_file() for file in (REPORT, REFERENCE))

    def report(self, name: str) -> DatasetReport:
        """Read the report; raise ``DatasetNotFound``, or ``DatasetUnfit`` for a reference that was not inspected."""
        self.require_inspected(name)
        try:
            return DatasetReport.model_validate_json((self._folder(name) / REPORT).read_bytes())
        except (OSError, ValidationError) as error:
            raise DatasetNotFound(f"the report of dataset {name!r} cannot be read") from error

    def is_inspected(self, name: str) -> bool:
        return (self._folder(name) / REPORT).is_file()

    def require_inspected(self, name: str) -> None:
        """Raise ``DatasetNotFound``, or ``DatasetUnfit`` for a reference that was not inspected."""
        if not self.is_inspected(name):
            raise DatasetUnfit(
                f"{name} refers to images that were not inspected: only jobs of type score take it; for others delete "
                "it and refer to the images again with inspect"
            )

    def reference(self, name: str) -> ReferenceRecord | None:
        """Return None for an uploaded dataset; raise ``DatasetNotFound``."""
        index = self.reference_index(name)
        return None if index is None else read_record(index)

    def reference_index(self, name: str) -> Path | None:
        """Return None for an uploaded dataset; raise ``DatasetNotFound``."""
        path = self._folder(name) / REFERENCE
        return path if path.is_file() else None

    def contact_sheet(self, name: str) -> Path:
        """Return a PNG of up to 100 images; raise as :meth:`report`."""
        self.require_inspected(name)
        return self._folder(name) / SHEET

    def check_free(self, name: str) -> None:
        """Raise ``InvalidName`` or ``DatasetTaken`` otherwise."""
        check_name(name)
        if name in NAMES or (self.root / name).exists():
            raise _taken(name)

    @contextmanager
    def creating(self, name: str) -> Iterator[Path]:
        """Yield a folder that becomes a dataset if the block ends without an exception, and is removed otherwise."""
        self.check_free(name)
        make_folder(self.root)
        remove_leftovers(self.root, LEFTOVER_SECONDS)
        with storage_errors():
            try:
                with new_folder(self.root / name) as folder:
                    yield folder
            except FileExistsError as error:
                raise _taken(name) from error

    def create(
        self,
        name: str,
        sources: Sequence[Source],
        *,
        limits: Limits | None = None,
        progress: Progress = no_progress,
        near_duplicates: NearDuplicates = "keep",
    ) -> DatasetReport:
        """Create a dataset from files that this process reads. Raises as :meth:`creating`, and ``DatasetRefused``."""
        new = NewDataset(name, sources, limits or Limits(), self.quota, near_duplicates)
        with self.creating(name) as folder:
            fill_folder(folder, new, progress)
        return self.report(name)

    def delete(self, name: str) -> None:
        """Remove a dataset. Processes that map its pixels keep them; images at a location stay."""
        try:
            remove_folder(self._folder(name))
        except FileNotFoundError as error:  # another call has removed it
            raise self._not_found(name) from error

    def load(self, name: str, config: ImageOptions, progress: Progress = no_progress) -> Dataset:
        """Map the preprocessed pixels, made at the first call; raise ``DatasetUnfit``, ``StorageFull``."""
        report = self.report(name)
        preprocessing = choose_preprocessing(config, report.facts, report.name)
        with storage_errors():
            return prepare(self._folder(name), report, preprocessing, self._room, progress)

    def _room(self) -> DiskQuota:
        return DiskQuota(self.root, self.quota)

    def _folder(self, name: str) -> Path:
        if not self.has(name):
            raise self._not_found(name)
        return self.root / name

    def _not_found(self, name: str) -> DatasetNotFound:
        return DatasetNotFound(f"there is no dataset {name!r}; {choices(name, self.names())}")


def summarize_report(report: DatasetReport, config: ImageOptions) -> DatasetSummary:
    """Raise ``DatasetUnfit`` if the images cannot be used as ``config`` asks."""
    preprocessing = choose_preprocessing(config, report.facts, report.name)
    split = report.split
    parts = split.train, split.statistics, split.calibration
    whole_folds = FOLDS if report.images <= MOST_REPEATED else 0
    return DatasetSummary(preprocessing.shape, *parts, 0, len(split.folds), whole_folds)


def _taken(name: str) -> DatasetTaken:
    return DatasetTaken(f"a dataset {name!r} exists already; choose another name or delete it first")


def dataset_names(data_dir: Path | None, store: DatasetStore | None = None) -> list[str]:
    builtin = [name for name in NAMES if builtin_file(name, data_dir) is not None]
    return builtin + (store.names() if store is not None else [])


def summarize(
    name: str, data_dir: Path | None, store: DatasetStore | None = None, config: ImageOptions | None = None
) -> DatasetSummary:
    """Summarize without decoding an image; raise ``DatasetNotFound``, ``DatasetUnfit``."""
    config = config or ImageOptions()
    path = builtin_file(name, data_dir)
    if path is not None:
        return summarize_builtin(name, path, config)
    return summarize_report(check_stored(name, data_dir, store).report(name), config)


def image_facts(name: str, data_dir: Path | None, store: DatasetStore | None) -> ImageFacts:
    """Return sizes and colour of the images; raise ``DatasetNotFound``, ``DatasetUnfit``."""
    if builtin_file(name, data_dir) is not None:
        return shape_facts(summarize(name, data_dir).image_shape)
    return check_stored(name, data_dir, store).report(name).facts


def count_images(name: str, data_dir: Path | None, store: DatasetStore) -> int:
    """Count the images, in a dataset by reference also those that cannot be decoded."""
    record = None if builtin_file(name, data_dir) else check_stored(name, data_dir, store).reference(name)
    if record is not None:
        return record.images
    return summarize(name, data_dir, store).images


def load_dataset(
    name: str,
    data_dir: Path | None,
    store: DatasetStore | None = None,
    config: ImageOptions | None = None,
    progress: Progress = no_progress,
) -> Dataset:
    """Load the images of a built-in or user dataset, divided into parts, in the size and colour of ``config``.

    Args:
        name: The dataset.
        data_dir: The folder of built-in datasets.
        store: The datasets of users.
        config: Size, fit and colour of the images. Default: chosen to suit the images.
        progress: Called with the number of prepared images, and of all; what it raises ends the work.

    Raises:
        DatasetNotFound: There is no such dataset.
        DatasetUnfit: The configuration does not fit the images.
        StorageFull: There is no room for the prepared pixels.
    """
    config = config or ImageOptions()
    path = builtin_file(name, data_dir)
    if path is not None:
        return load_builtin(name, path, config)
    return check_stored(name, data_dir, store).load(name, config, progress)


def check_stored(name: str, data_dir: Path | None, store: DatasetStore | None) -> DatasetStore:
    """Return the store, or raise ``DatasetNotFound``, which suggests names of datasets."""
    if store is None or name in NAMES or not store.has(name):
        hint = "" if data_dir else "; set SNF_DATA_DIR to a folder with mnist.npz, fashion_mnist.npz or cifar10.npz"
        raise DatasetNotFound(f"there is no dataset {name!r}; {choices(name, dataset_names(data_dir, store))}{hint}")
    return store
