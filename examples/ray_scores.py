"""Score the images of Parquet files with Ray Data: ``python examples/ray_scores.py IMAGES.parquet MODEL-FOLDER OUT``.

The column ``image`` holds bytes of image files; other columns are kept. An actor a core loads the model once, and keeps
what it compiled in ``~/.cache/snf-density`` of its node: the next one starts in a second. To score images of any kind,
and to go on after an interruption, use ``snf bulk --engine ray``. Install ``snf-density`` and ``ray[data]`` on all
nodes.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reads this when it is imported

import ray

from snf_models.scorer import load_model
from snf_models.scoring import EngineOptions


class Score:
    """Actor that holds the model."""

    def __init__(self, model: str) -> None:
        cache = Path.home() / ".cache" / "snf-density"
        self._scorer = load_model(Path(model), options=EngineOptions(threads=1, cache=cache))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a batch of images without the images, but with their scores."""
        return self._scorer(batch)


if __name__ == "__main__":
    source, model, out = (Path(argument).absolute().as_posix() for argument in sys.argv[1:])
    with ray.init("auto"):  # the cluster of this machine, or that at RAY_ADDRESS
        most = int(ray.cluster_resources()["CPU"])
        images = ray.data.read_parquet(source)
        # From one actor on: reading needs a core, too.
        scores = images.map_batches(Score, fn_constructor_args=[model], concurrency=(1, most), batch_size=256)
        scores.write_parquet(out)
    print("done")
