# ruff: noqa: PLC0415 - imported where it runs
"""Ray Serve with its own batching."""

import os
import signal
import tempfile
import threading

import behind
import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Glow:
    """Batches of images to log-likelihoods."""

    def __init__(self) -> None:
        import behind

        self.opened, self.compute = behind.opened, behind.load()

    @serve.batch(max_batch_size=behind.BATCH, batch_wait_timeout_s=behind.WAIT_S)
    async def score(self, bodies: list[bytes]) -> list[float]:
        """Score a batch."""
        return self.compute([self.opened(body) for body in bodies])

    async def __call__(self, request: Request) -> dict[str, float]:
        """Score the image in the body."""
        return {"log_likelihood": await self.score(await request.body())}


if __name__ == "__main__":
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    ray.init(
        num_cpus=max(2, int(os.environ["SPEED_THREADS"])),
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=tempfile.mkdtemp(prefix="r-"),
    )
    serve.start(http_options={"host": "127.0.0.1", "port": behind.PORT})
    serve.run(Glow.bind(), name="glow", route_prefix="/score")
    stop.wait()
    serve.shutdown()
    ray.shutdown()
