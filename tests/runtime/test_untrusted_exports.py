"""Exported folders that someone else wrote: what does not fit is refused by a sentence, before memory is taken."""

from __future__ import annotations

import os
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from snf_runtime import Model
from snf_runtime.errors import ArtifactError
from snf_runtime.exported.content import open_calibration, read_export_arrays
from snf_runtime.exported.manifest import ARRAYS, FILE, check_layout, read_export_manifest
from snf_runtime.scoring.openvino_engine import op, ov
from tests.support.exports import exported_pixels, rewritten

Arrays = dict[str, NDArray[Any]]
ORDERED, MAXIMA = "calibration.folds.0.ordered", "calibration.folds.0.map_maxima"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of pixels, exported. Never write to it."""
    return exported_pixels(tmp_path_factory)


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    return Model.load(exported, threads=1)


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported model that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "copied"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"tolerance": 0.001', '"tolerance": ' + "9" * 401, "a number that a float can hold"),
        ('"tolerance": 0.001', '"tolerance": NaN', "expected finite numbers, got NaN"),
        ('"tolerance": 0.001', '"tolerance": Infinity', "expected finite numbers, got Infinity"),
        ('"tolerance": 0.001', '"tolerance": 1e999', "pinned/tolerance to be a finite number, got inf"),
        ('"version": 3', '"version": 3, "version": 4', "expected 'version' once in its object, got it 2 times"),
        ('"format_version": 1', '"format_version": true', "format_version to be one of 1, got True"),
        ('"format_version": 1', '"format_version": 1.0', "format_version to be one of 1, got 1.0"),
    ],
    ids=["digits", "nan", "infinity", "exponent", "twice", "true", "float"],
)
def test_the_manifest_is_strict_json(copied: Path, old: str, new: str, message: str) -> None:
    text = (copied / FILE).read_text()
    assert text.count(old) == 1
    (copied / FILE).write_text(text.replace(old, new))
    with pytest.raises(ArtifactError, match=re.escape(message)):
        read_export_manifest(copied)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/etc/passwd"), Path.mkdir])
def test_the_manifest_is_a_plain_file(copied: Path, make: Callable[[Path], object]) -> None:
    (copied / FILE).unlink()
    make(copied / FILE)
    with pytest.raises(ArtifactError, match="expected a plain file, got a link, a pipe or a folder"):
        Model.load(copied)


def level(number: int, **changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["pixels"]["levels"][number].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (level(0, size=[10**9, 10**9]), "pixels/levels/0/size to divide (28, 28), got (1000000000, 1000000000)"),
        (level(0, size=[0, 0]), "pixels/levels/0/size to divide (28, 28), got (0, 0)"),
        (level(1, size=[4, 4]), "pixels/levels/1/size to divide (14, 14), got (4, 4)"),
        (level(0, kept=5), "pixels/levels/0/kept to be from 0 to 4, got 5"),
        (level(0, latent_shape=[3, 14, 14]), "latent_shape to be (2, 14, 14), got (3, 14, 14)"),
        (level(0, latent_shape=None), "latent_shape to be (2, 14, 14), got None"),
        (lambda m: m["pixels"].update(levels=[]), "the last of pixels/levels to keep 0 channels, got 1"),
        (lambda m: m["pixels"]["outputs"][3].__setitem__(1, 5), "expected latent of level 0"),
        (lambda m: m["pixels"]["outputs"].append(["latent", -1]), "expected no latent of level -1"),
        (lambda m: m["pixels"]["outputs"].append(["latent", 0]), "expected each of pixels/outputs once"),
        (lambda m: m.update(kind="feature_density"), "expected the kind density of pixels, got feature_density"),
        (lambda m: m.update(weights_sha256="x"), "expected 64 hexadecimal digits in weights_sha256, got 'x'"),
        (lambda m: m["pinned"].update(tolerance=1e9), "pinned/tolerance to be from 0 to 8.84 nats, got 1e+09"),
        (lambda m: m["pinned"].update(tolerance=-1), "pinned/tolerance to be from 0 to 8.84 nats, got -1"),
        (lambda m: m["pinned"].update(statistic_tolerance=1e9), "expected pinned/statistic_tolerance to be from 0"),
        (lambda m: m["preprocessing"].update(fit="tiles"), "expected no tiles with a flow over pixels"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_layouts_that_do_not_fit_are_refused(
    copied: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    rewritten(copied, change)
    with pytest.raises(ArtifactError, match=re.escape(message)):
        check_layout(read_export_manifest(copied))
    with pytest.raises(ArtifactError, match=re.escape(message)):
        Model.load(copied)


@pytest.mark.parametrize(
    ("features", "tiled", "message"),
    [
        ({"input_size": [0, 0]}, False, "features/input_size to be from 1 to 4096, got (0, 0)"),
        ({"layout": {"feature_shape": [8, 0, 4], "constant_log_det": 0.0}}, True, "at most as many places"),
        ({"layout": {"feature_shape": [8, 5, 5], "constant_log_det": 0.0}}, True, "divide tiles of 28 pixels evenly"),
    ],
    ids=["input", "no-places", "uneven"],
)
def test_layouts_of_features_that_do_not_fit_are_refused(
    copied: Path, features: dict[str, object], tiled: bool, message: str
) -> None:
    sound = {"layout": {"feature_shape": [8, 4, 4], "constant_log_det": 0.0}, "input_size": [64, 64]}
    named = {**sound, "backbone": "b", "license": "", "origin": ""}
    rewritten(copied, lambda m: m.update(pixels=None, kind="feature_density", features=named))
    check_layout(read_export_manifest(copied))
    fit = "tiles" if tiled else "exact"
    rewritten(copied, lambda m: (m["features"].update(features), m["preprocessing"].update(fit=fit)))
    with pytest.raises(ArtifactError, match=re.escape(message)):
        check_layout(read_export_manifest(copied))


def npy(values: NDArray[Any]) -> bytes:
    """The bytes of an array as NumPy writes them."""
    header = np.lib.format.header_data_from_array_1_0(values)
    return headed(str(header)) + values.tobytes("A")


def headed(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pinned", npy(np.zeros(3)), "expected names that end in .npy, got pinned"),
        ("big.npy", headed("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,)}"),
         r"expected \d+ bytes in big.npy for \(10000000000000,\), got"),
        ("long.npy", npy(np.zeros(3)) + b"more", "bytes in long.npy"),
        ("text.npy", npy(np.array(["a"])), "rows of one of uint8, int64, float32, float64, got <U1"),
        ("complex.npy", npy(np.zeros(3, np.complex128)), "got complex128"),
        ("object.npy", headed("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + b"cos", "got object"),
        ("columns.npy", npy(np.zeros((2, 3), order="F")), "columns.npy to have rows"),
        ("swapped.npy", npy(np.zeros(3, ">f8")), "got >f8"),
        ("bare.npy", b"no array", "cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith(".npy") else "",
)  # fmt: skip
def test_members_of_the_array_file_are_checked_before_they_are_read(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with zipfile.ZipFile(tmp_path / ARRAYS, "w") as file:
        file.writestr(name, content)
    with pytest.raises(ArtifactError, match=message):
        read_export_arrays(tmp_path)


def test_the_array_file_is_read_by_its_directory(copied: Path, model: Model) -> None:
    """Whatever stands before the first member is not taken for an array. Encrypted members are refused."""
    path = copied / ARRAYS
    sound, content = read_export_arrays(copied), path.read_bytes()
    with np.load(path) as expected:
        assert sound.keys() == set(expected)
        for name, values in sound.items():
            np.testing.assert_array_equal(values, expected[name], strict=True)
    path.write_bytes(npy(np.zeros(3)) + content)
    assert read_export_arrays(copied).keys() == sound.keys()
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.index(start) + flags
        content = content[:place] + b"\x01" + content[place + 1 :]
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="expected arrays that are not compressed or encrypted"):
        read_export_arrays(copied)
    path.write_bytes(b"PK")
    with pytest.raises(ArtifactError, match="not a zip file"):
        read_export_arrays(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update({ORDERED: a[ORDERED] * np.nan}), f"expected {ORDERED} to be sorted numbers"),
        (lambda a: a.update({ORDERED: a[ORDERED][::-1].copy()}), f"expected {ORDERED} to be sorted numbers"),
        (lambda a: a.update({ORDERED: np.array(1.0)}), f"expected {ORDERED} to be float64 in one row"),
        (lambda a: a.update({ORDERED: a[ORDERED].astype(np.float32)}), f"expected {ORDERED} to be float64 in one row"),
        (lambda a: a.update({ORDERED: a[ORDERED][:-1]}), "calibration images, got|expected the maxima of"),
        (lambda a: a.update({MAXIMA: a[MAXIMA][:-1]}), "expected the maxima of"),
        (lambda a: a.update({MAXIMA: a[MAXIMA][::-1].copy()}), f"expected {MAXIMA} to be sorted numbers"),
        (
            lambda a: a.update({"calibration.pixels.mean": np.zeros((3, 3))}),
            r"pixels.mean to be \(28, 28\), got \(3, 3",
        ),
        (lambda a: a.update(calibration=np.zeros(1)), "expected no array calibration"),
        (lambda a: a.update({"calibration.more": np.zeros(1)}), "expected no array calibration.more"),
        (lambda a: a.update({"calibration.log_likelihoods": np.full(3, np.inf)}), "expected finite numbers in"),
        (lambda a: a.update({"calibration.folds.0.statistic.local.grid": np.array([10**9] * 2)}), "grid to be"),
        (lambda a: [a.pop(name) for name in list(a) if ".local." in name], "expected arrays .*local for this model"),
        (lambda a: [a.pop(name) for name in list(a) if ".pixels." in name], "expected arrays calibration.pixels"),
        (lambda a: a.pop(ORDERED), f"lacks {ORDERED}"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_calibrations_that_do_not_fit_are_refused(
    exported: Path, model: Model, change: Callable[[Arrays], object], message: str
) -> None:
    arrays = read_export_arrays(exported)
    assert open_calibration(model.manifest, model.density, arrays).images == model.calibration.images
    change(arrays)
    with pytest.raises(ArtifactError, match=message):
        open_calibration(model.manifest, model.density, arrays)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (op.non_zero, r"expected output 0 to be f32 \[1,N,14,14\], got i64 \[4,"),
        (lambda x: x, r"expected output 0 to be f32 \[1,N,14,14\], got f32 \[1,1,28,28\]"),
    ],
    ids=["dynamic", "shape"],
)
def test_graphs_whose_outputs_are_not_those_of_the_layout_are_refused(
    copied: Path, model: Model, result: Callable[[ov.Node], ov.Node], message: str
) -> None:
    assert model.manifest.pixels is not None
    x = op.parameter([1, 1, 28, 28], np.float32)
    results = [op.result(result(x)) for _ in model.manifest.pixels.outputs]
    ov.serialize(ov.Model(results, [x], "flow"), copied / "pixels.xml")
    rewritten(copied, lambda _: None)
    with pytest.raises(ArtifactError, match=message):
        Model.load(copied, threads=1)
