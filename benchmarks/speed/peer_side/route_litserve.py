"""LitServe with its own batching."""

import behind
import litserve
from fastapi import Request
from PIL import Image


class GlowAPI(litserve.LitAPI):
    """Batches of images to log-likelihoods."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.score = behind.load()

    def decode_request(self, request: Request) -> Image.Image:
        """Return the image of a form."""
        return behind.opened(request["image"].file.read())

    def batch(self, inputs: list[Image.Image]) -> list[Image.Image]:
        """Return the images as they are: they are stacked where they are scored."""
        return list(inputs)

    def predict(self, x: list[Image.Image]) -> list[float]:
        """Score a batch."""
        return self.score(x)

    def unbatch(self, output: list[float]) -> list[float]:
        """Return the scores one by one."""
        return output

    def encode_response(self, output: float) -> dict[str, float]:
        """Return the answer."""
        return {"log_likelihood": output}


if __name__ == "__main__":
    api = GlowAPI(max_batch_size=behind.BATCH, batch_timeout=behind.WAIT_S, api_path="/score")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=120)
    server.run(host="127.0.0.1", port=behind.PORT, log_level="warning", generate_client_file=False, access_log=False)
