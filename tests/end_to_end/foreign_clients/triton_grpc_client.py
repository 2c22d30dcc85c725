"""Infer with Triton's own gRPC client: ``triton_grpc_client.py ADDRESS KEY MODEL=IMAGES.npy...`` prints it as JSON."""

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

OUTPUTS = ("log_likelihood", "bits_per_dim", "p_value")


def tensor(pixels: Any) -> InferInput:
    image = InferInput("image", list(pixels.shape), "UINT8")
    image.set_data_from_numpy(pixels)
    return image


def read(result: Any) -> dict[str, list[str]]:
    arrays = {name: result.as_numpy(name) for name in OUTPUTS}
    return {name: [value.hex() for value in array.tolist()] for name, array in arrays.items() if array is not None}


def refusal(call: Callable[[], Any]) -> list[str]:
    try:
        call()
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return ["none", ""]


def main(address: str, key: str, *given: str) -> dict[str, Any]:
    images = {model: np.load(path) for model, path in (one.split("=") for one in given)}
    keyed = {"x-api-key": key}
    with InferenceServerClient(address) as client:
        model, pixels = next(iter(images.items()))
        one = [tensor(pixels[:1])]
        asked = [InferRequestedOutput(name) for name in OUTPUTS]
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "server": client.get_server_metadata(headers=keyed, as_json=True),
            "models": {name: client.get_model_metadata(name, headers=keyed, as_json=True) for name in images},
            "model ready": [client.is_model_ready(name, headers=keyed) for name in images],
            "id": client.infer(model, one, request_id="lot-7", headers=keyed).get_response().id,
            "answers": {
                name: {
                    "all outputs": read(client.infer(name, [tensor(of_model)], headers=keyed)),
                    "outputs asked for": read(client.infer(name, [tensor(of_model)], outputs=asked, headers=keyed)),
                    "version": read(client.infer(name, [tensor(of_model)], model_version="1", headers=keyed)),
                }
                for name, of_model in images.items()
            },
            "refused": {
                "no key": refusal(lambda: client.infer(model, one)),
                "no model": refusal(lambda: client.infer("nobody", one, headers=keyed)),
                "not ready": refusal(lambda: client.is_model_ready("nobody", headers=keyed)),
                "wrong size": refusal(lambda: client.infer(model, [tensor(pixels[:1, :, 1:])], headers=keyed)),
                "deadline": refusal(lambda: client.infer(model, one, timeout=1, headers=keyed)),
                "priority": refusal(lambda: client.infer(model, one, priority=1, headers=keyed)),
            },
        }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
