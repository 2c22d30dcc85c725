"""Infer with KServe's own client: ``kserve_client.py ADDRESS KEY MODEL=IMAGES.npy...`` prints what it read as JSON."""

import asyncio
import json
import sys
from collections.abc import Awaitable
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig


def request(model: str, pixels: Any, binary: bool, **parameters: Any) -> InferRequest:
    image = InferInput("image", list(pixels.shape), "UINT8")
    image.set_data_from_numpy(pixels, binary_data=binary)
    return InferRequest(model, [image], request_id="lot-7", parameters=parameters)


def read(answer: Any) -> dict[str, list[str]]:
    assert answer.id == "lot-7", answer.id
    return {output.name: [value.hex() for value in output.as_numpy().tolist()] for output in answer.outputs}


async def refusal(call: Awaitable[Any]) -> list[str]:
    try:
        await call
    except httpx.HTTPStatusError as error:
        return [str(error.response.status_code), str(error)]
    return ["none", ""]


async def main(address: str, key: str, *given: str) -> dict[str, Any]:
    images = {model: np.load(path) for model, path in (one.split("=") for one in given)}
    url = f"http://{address}"

    def keyed() -> dict[str, str]:
        return {"x-api-key": key}  # a new one for each call: the client adds headers to it

    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:

        async def infer(model: str, pixels: Any, binary: bool, **parameters: Any) -> dict[str, list[str]]:
            asked = request(model, pixels, binary, **parameters)
            return read(await client.infer(url, asked, model_name=model, headers=keyed()))

        model, pixels = next(iter(images.items()))
        unknown, wrong = request("nobody", pixels[:1], True), request(model, pixels[:1, :, 1:], True)
        return {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model ready": [await client.is_model_ready(url, name, headers=keyed()) for name in [*images, "nobody"]],
            "answers": {
                name: {
                    "binary": await infer(name, of_model, True, binary_data_output=True),
                    "json": await infer(name, of_model, False),
                    "binary in, json out": await infer(name, of_model, True),
                }
                for name, of_model in images.items()
            },
            "refused": {
                "no key": await refusal(client.infer(url, request(model, pixels, True), model_name=model)),
                "no model": await refusal(client.infer(url, unknown, model_name="nobody", headers=keyed())),
                "wrong size": await refusal(client.infer(url, wrong, model_name=model, headers=keyed())),
            },
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
