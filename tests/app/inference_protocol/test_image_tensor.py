"""The image tensor of a request: what is read, and every kind of wrong tensor is refused before it takes memory."""

import json
from typing import Any

import numpy as np
import pytest

from snf_app.http.errors import Problem
from snf_app.inference_protocol.service import CHUNK, InferBody, image_input, parse_request, pixels_of
from snf_runtime.images.preprocessing import Preprocessing

EXACT = Preprocessing(channels=3, height=2, width=4)
TILED = Preprocessing(channels=3, height=64, width=64, fit="tiles")
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3, 2, 4), np.uint8)
FLAT = PIXELS.ravel().tolist()
TENSOR: dict[str, Any] = {"name": "image", "shape": [2, 3, 2, 4], "datatype": "UINT8"}
LIMIT = 5


def read(tensor: dict[str, Any], binary: bytes = b"", preprocessing: Preprocessing = EXACT) -> np.ndarray[Any, Any]:
    asked = parse_request(InferBody(json.dumps({"inputs": [tensor]}).encode(), memoryview(binary)))
    return pixels_of(image_input(asked.inputs, preprocessing, LIMIT), memoryview(binary))


def nested(shape: list[int], values: list[Any]) -> Any:
    """Lists that are nested as a shape says, whose innermost lists are of any type."""
    for size in reversed(shape[1:]):
        values = [values[start : start + size] for start in range(0, len(values), size)]
    return values


@pytest.mark.parametrize(
    ("tensor", "binary"),
    [
        (TENSOR | {"data": FLAT}, b""),
        (TENSOR | {"data": PIXELS.tolist()}, b""),
        (TENSOR | {"parameters": {"binary_data_size": 48}}, PIXELS.tobytes()),
        (TENSOR | {"parameters": {"binary_data_size": 48}, "data": None}, PIXELS.tobytes()),
        (TENSOR | {"parameters": {}, "data": FLAT}, b""),
    ],
)
def test_all_forms_of_a_tensor_are_the_same_images(tensor: dict[str, Any], binary: bytes) -> None:
    found = read(tensor, binary)
    assert found.dtype == np.uint8
    assert np.array_equal(found, PIXELS)


def test_a_model_of_tiles_takes_images_of_any_size() -> None:
    values = list(range(2 * 3 * 5 * 7))
    found = read(TENSOR | {"shape": [2, 3, 5, 7], "data": values}, preprocessing=TILED)
    assert np.array_equal(found.ravel(), values)


def test_more_values_than_are_converted_at_a_time() -> None:
    size = CHUNK // 3 + 11
    values = np.random.default_rng(1).integers(0, 256, (1, 3, 1, size), np.uint8)
    assert np.array_equal(read(TENSOR | {"shape": [1, 3, 1, size], "data": values.tolist()}, b"", TILED), values)


def changed(index: int, value: Any) -> list[Any]:
    return [*FLAT[:index], value, *FLAT[index + 1 :]]


WRONG: dict[str, tuple[dict[str, Any], bytes, str]] = {
    "another name": ({"name": "pixels"}, b"", "/body/inputs/0/name: expected 'image', got 'pixels'"),
    "another type": ({"datatype": "FP32"}, b"", "/body/inputs/0/datatype: expected 'UINT8', got 'FP32'"),
    "lower case": ({"datatype": "uint8"}, b"", "expected 'UINT8', got 'uint8'"),
    "no batch": ({"shape": [3, 2, 4]}, b"", "/body/inputs/0/shape: expected [-1, 3, 2, 4]"),
    "no shape": ({"shape": []}, b"", "expected [-1, 3, 2, 4] with at least one image, got []"),
    "channels last": ({"shape": [2, 2, 4, 3]}, b"", "expected [-1, 3, 2, 4]"),
    "no images": ({"shape": [0, 3, 2, 4], "data": []}, b"", "with at least one image, got [0, 3, 2, 4]"),
    "any number": ({"shape": [-1, 3, 2, 4]}, b"", "with at least one image, got [-1, 3, 2, 4]"),
    "negative": ({"shape": [-2, -3, 2, 4]}, b"", "shape/0: expected a value greater than or equal to -1"),
    "overflow": ({"shape": [2**63, 3, 2, 4]}, b"", "/body/inputs/0/shape/0: expected a value less than"),
    "huge": ({"shape": [2**62, 3, 2**62, 4]}, b"", "expected [-1, 3, 2, 4]"),
    "digits": ({"shape": [int("9" * 4000), 3, 2, 4]}, b"", "/body/inputs/0/shape/0: expected a value less than"),
    "dimensions": ({"shape": [1] * 17}, b"", "/body/inputs/0/shape"),
    "shape of floats": ({"shape": [2.0, 3, 2, 4]}, b"", "/body/inputs/0/shape/0: expected a valid integer"),
    "shape of text": ({"shape": ["2", 3, 2, 4]}, b"", "/body/inputs/0/shape/0: expected a valid integer"),
    "shape of bool": ({"shape": [True, 3, 2, 4]}, b"", "/body/inputs/0/shape/0: expected a valid integer"),
    "too few": ({"data": FLAT[1:]}, b"", "/body/inputs/0/data: expected 48 values for [2, 3, 2, 4], got 47"),
    "too many": ({"data": [*FLAT, 0]}, b"", "expected 48 values for [2, 3, 2, 4], got 49"),
    "empty": ({"data": []}, b"", "expected 48 values for [2, 3, 2, 4], got 0"),
    "ragged": ({"data": [*PIXELS.tolist()[:1], PIXELS.tolist()[1][:2]]}, b"", "lists on level 2 have 3 items each"),
    "nested otherwise": ({"data": nested([2, 2, 4, 3], FLAT)}, b"", "lists on level 2 have 3 items each"),
    "nested too deep": ({"data": nested([2, 3, 2, 4, 1], FLAT)}, b"", "whole numbers from 0 to 255, got a list"),
    "nested later": ({"data": changed(7, [1])}, b"", "expected whole numbers from 0 to 255, got a list"),
    "too large": ({"data": changed(47, 256)}, b"", "expected whole numbers from 0 to 255, got 256"),
    "negative value": ({"data": changed(0, -1)}, b"", "expected whole numbers from 0 to 255, got -1"),
    "many digits": ({"data": changed(0, 10**200)}, b"", "got an integer of 665 bits"),
    "float": ({"data": changed(3, 1.0)}, b"", "expected whole numbers from 0 to 255, got 1.0"),
    "bool": ({"data": changed(3, True)}, b"", "expected whole numbers from 0 to 255, got True"),
    "null": ({"data": changed(3, None)}, b"", "expected whole numbers from 0 to 255, got None"),
    "text": ({"data": changed(3, "7" * 50)}, b"", f"expected whole numbers from 0 to 255, got '{'7' * 40}'"),
    "NaN": ({"data": changed(3, float("nan"))}, b"", "expected whole numbers from 0 to 255, got nan"),
    "base64": ({"data": "AAAA"}, b"", "/body/inputs/0/data: expected a valid list"),
    "neither": ({}, b"", "expected data or parameters.binary_data_size, got neither"),
    "both": ({"data": FLAT, "parameters": {"binary_data_size": 48}}, PIXELS.tobytes(), "got both"),
    "rest": ({"data": FLAT}, b"\0", "expected 0 bytes of tensor data after the JSON object, got 1"),
    "short": ({"parameters": {"binary_data_size": 48}}, b"\0" * 47, "expected 48 bytes of tensor data"),
    "long": ({"parameters": {"binary_data_size": 48}}, b"\0" * 49, "expected 48 bytes of tensor data"),
    "other size": ({"parameters": {"binary_data_size": 47}}, b"\0" * 47, "expected 48 bytes for [2, 3, 2, 4], got 47"),
    "size of text": ({"parameters": {"binary_data_size": "48"}}, b"\0" * 48, "size: expected a valid integer"),
    "negative size": ({"parameters": {"binary_data_size": -1}}, b"", "expected -1 bytes of tensor data"),
    "shared memory": ({"parameters": {"shared_memory_region": "a"}}, b"", "/parameters/shared_memory_region"),
    "another member": ({"data": FLAT, "layout": "NCHW"}, b"", "/body/inputs/0/layout"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_tensor_is_refused_with_what_was_expected(name: str) -> None:
    changes, binary, text = WRONG[name]
    with pytest.raises(Problem) as refused:
        read(TENSOR | changes, binary)
    assert (refused.value.status, refused.value.slug) == (422, "invalid-request")
    assert text in refused.value.detail
    assert len(refused.value.detail) < 500


def test_a_shape_that_fits_is_not_believed() -> None:
    """Tiles may have any size, so only the data tell how large the tensor is."""
    with pytest.raises(Problem) as refused:
        read(TENSOR | {"shape": [1, 3, 2**31, 2**31], "data": [1, 2, 3]}, b"", TILED)
    assert f"expected {3 * 2**62} values" in refused.value.detail


def test_too_many_images_are_refused() -> None:
    with pytest.raises(Problem) as refused:
        read(TENSOR | {"shape": [LIMIT + 1, 3, 2, 4], "data": []})
    assert (refused.value.status, refused.value.slug) == (413, "too-many-images")


@pytest.mark.parametrize("inputs", [[], [TENSOR | {"data": FLAT}] * 2, [TENSOR] * 17])
def test_there_is_one_tensor(inputs: list[Any]) -> None:
    body = InferBody(json.dumps({"inputs": inputs}).encode(), memoryview(b""))
    with pytest.raises(Problem) as refused:
        image_input(parse_request(body).inputs, EXACT, LIMIT)
    assert "/body/inputs" in refused.value.detail


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 60_000, b"1" * 5000, b'{"a": "\\ud800"}', b"\xff", b"[]", b"null", b'"x"', b"{}"],
    ids=lambda body: repr(body[:10]),
)
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(Problem) as refused:
        parse_request(InferBody(body, memoryview(b"")))
    is_json = body in (b"[]", b"null", b'"x"', b"{}")
    expected = (422, "invalid-request") if is_json else (400, "malformed-json")
    assert (refused.value.status, refused.value.slug) == expected
    assert "/body" in refused.value.detail


def test_binary_data_without_its_header_is_explained() -> None:
    with pytest.raises(Problem) as refused:
        parse_request(InferBody(b'{"inputs": []}\0\1\2', memoryview(b"")))
    assert "need the header Inference-Header-Content-Length" in refused.value.detail
