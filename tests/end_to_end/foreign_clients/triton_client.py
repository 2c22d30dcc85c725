"""Infer with Triton's own client: ``triton_client.py ADDRESS KEY MODEL=IMAGES.npy...`` prints what it read as JSON."""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

OUTPUTS = ("log_likelihood", "bits_per_dim", "p_value")


def tensor(pixels: Any, binary: bool) -> InferInput:
    image = InferInput("image", list(pixels.shape), "UINT8")
    image.set_data_from_numpy(pixels, binary_data=binary)
    return image


def read(result: Any) -> dict[str, list[str]]:
    arrays = {name: result.as_numpy(name) for name in OUTPUTS}
    return {name: [value.hex() for value in array.tolist()] for name, array in arrays.items() if array is not None}


def answers(
    client: InferenceServerClient, model: str, pixels: Any, keyed: Callable[[], dict[str, str]]
) -> Iterator[tuple[str, Any]]:
    binary, in_json = [tensor(pixels, True)], [tensor(pixels, False)]
    yield "binary", read(client.infer(model, binary, headers=keyed()))
    asked = [InferRequestedOutput(name, binary_data=False) for name in OUTPUTS]
    yield "json", read(client.infer(model, in_json, outputs=asked, headers=keyed()))
    yield "json in, binary out", read(client.infer(model, in_json, headers=keyed()))
    mixed = [InferRequestedOutput(name, binary_data=name == "p_value") for name in OUTPUTS]
    yield "mixed", read(client.infer(model, binary, outputs=mixed, headers=keyed()))
    yield "version", read(client.infer(model, binary, model_version="1", headers=keyed()))
    yield "asynchronous", read(client.async_infer(model, binary, headers=keyed()).get_result())


def refusal(call: Callable[[], Any]) -> list[str]:
    try:
        call()
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return ["none", ""]


def main(address: str, key: str, *given: str) -> dict[str, Any]:
    images = {model: np.load(path) for model, path in (one.split("=") for one in given)}

    def keyed() -> dict[str, str]:
        return {"x-api-key": key}  # a new one for each call: the client adds headers to it

    with InferenceServerClient(address) as client:
        model, pixels = next(iter(images.items()))
        one = [tensor(pixels[:1], True)]
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "server": client.get_server_metadata(headers=keyed()),
            "models": {name: client.get_model_metadata(name, headers=keyed()) for name in images},
            "model ready": [client.is_model_ready(name, headers=keyed()) for name in [*images, "nobody"]],
            "id": client.infer(model, one, request_id="lot-7", headers=keyed()).get_response()["id"],
            "answers": {name: dict(answers(client, name, of_model, keyed)) for name, of_model in images.items()},
            "refused": {
                "no key": refusal(lambda: client.infer(model, one)),
                "no model": refusal(lambda: client.infer("nobody", one, headers=keyed())),
                "wrong size": refusal(lambda: client.infer(model, [tensor(pixels[:1, :, 1:], True)], headers=keyed())),
                "deadline": refusal(lambda: client.infer(model, one, timeout=1, headers=keyed())),
                "compressed": refusal(
                    lambda: client.infer(model, one, request_compression_algorithm="gzip", headers=keyed())
                ),
            },
        }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
