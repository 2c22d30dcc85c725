"""Infer with KServe's own gRPC client: ``kserve_grpc_client.py ADDRESS KEY MODEL=IMAGES.npy...`` prints it as JSON."""

import asyncio
import json
import sys
from collections.abc import Awaitable
from typing import Any

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest


def request(model: str, pixels: Any, raw: bool) -> InferRequest:
    image = InferInput("image", list(pixels.shape), "UINT8")
    image.set_data_from_numpy(pixels, binary_data=raw)
    return InferRequest(model, [image], request_id="lot-7")


def read(answer: Any) -> dict[str, list[str]]:
    assert answer.id == "lot-7", answer.id
    return {output.name: [value.hex() for value in output.as_numpy().tolist()] for output in answer.outputs}


async def refusal(call: Awaitable[Any]) -> list[str]:
    try:
        await call
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return ["none", ""]


async def main(address: str, key: str, *given: str) -> dict[str, Any]:
    images = {model: np.load(path) for model, path in (one.split("=") for one in given)}
    keyed = (("authorization", f"Bearer {key}"),)
    async with InferenceGRPCClient(address) as client:

        async def infer(model: str, pixels: Any, raw: bool) -> dict[str, list[str]]:
            return read(await client.infer(request(model, pixels, raw), headers=keyed))

        model, pixels = next(iter(images.items()))
        too_large = np.zeros((len(pixels) * 2**9, *pixels.shape[1:]), np.uint8)
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": [await client.is_model_ready(name, headers=keyed) for name in images],
            "answers": {
                name: {"raw": await infer(name, of_model, True), "contents": await infer(name, of_model, False)}
                for name, of_model in images.items()
            },
            "refused": {
                "wrong key": await refusal(
                    client.infer(request(model, pixels, True), headers=(("x-api-key", "another"),))
                ),
                "no model": await refusal(client.infer(request("nobody", pixels, True), headers=keyed)),
                "too large": await refusal(client.infer(request(model, too_large, True), headers=keyed)),
            },
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
