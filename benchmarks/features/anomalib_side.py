"""Scores of images by PatchCore, in the environment of ``anomalib``: :mod:`benchmarks.features.patchcore` runs it.

Arguments: a file with the features of training and of tested images, a file for the scores, the share of the patches
that the coreset keeps, a seed, and the number of threads. Coreset, distances and image scores are those of the package;
its backbone is not used.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
from anomalib.models.image.patchcore.torch_model import PatchcoreModel

BATCH = 16


@torch.no_grad()
def main() -> None:
    """Reduce the patches to a coreset, score, and print the seconds of both as JSON."""
    given, answer, share, seed, threads = sys.argv[1:]
    torch.manual_seed(int(seed))
    np.random.seed(int(seed))  # the package draws the projection of its coreset from NumPy's global generator
    torch.set_num_threads(int(threads))
    with np.load(given) as arrays:
        train, tested = torch.from_numpy(arrays["train"]), torch.from_numpy(arrays["tested"])
    model = PatchcoreModel(layers=["layer1"], backbone="resnet18", pre_trained=False).eval()
    model.embedding_store.append(model.reshape_embedding(train))
    started = time.monotonic()
    model.subsample_embedding(float(share))
    reduced = time.monotonic()
    scores = []
    for start in range(0, len(tested), BATCH):
        images = tested[start : start + BATCH]
        embedding = model.reshape_embedding(images)
        distances, places = model.nearest_neighbors(embedding, 1)
        shape = len(images), -1
        scores.append(model.compute_anomaly_score(distances.reshape(shape), places.reshape(shape), embedding))
    np.save(answer, torch.cat(scores).double().numpy())
    about = {"patches": len(model.memory_bank), "coreset_seconds": round(reduced - started, 1)}
    print(json.dumps(about | {"score_seconds": round(time.monotonic() - reduced, 1)}))


if __name__ == "__main__":
    main()
