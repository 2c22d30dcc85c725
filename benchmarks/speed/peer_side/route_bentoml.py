"""BentoML with its adaptive batching: ``python -m bentoml serve route_bentoml:Glow``."""

import behind
import bentoml
from PIL import Image


@bentoml.service(workers=1, traffic={"timeout": 120})
class Glow:
    """Batches of images to log-likelihoods."""

    def __init__(self) -> None:
        self.compute = behind.load()

    @bentoml.api(batchable=True, max_batch_size=behind.BATCH, max_latency_ms=60_000)
    def score(self, images: list[Image.Image]) -> list[dict[str, float]]:
        """Score a batch; requests of one image each are joined."""
        return [{"log_likelihood": value} for value in self.compute(images)]
