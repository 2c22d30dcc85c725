"""Tour of the Python client: scores, a heat map, samples, and a training whose model scores images.

    python examples/python_client.py [IMAGES] [--model mnist-snf-glow] [--out FOLDER]

Needs a running service with a worker (`make up`) and takes about a minute. The pictures go into the folder --out.
SNF_URL and SNF_API_KEY are the address and the key of the service, which `Client("http://host:8000", "key")` also
accepts. `AsyncClient` has the same calls for an event loop.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from snf_client import (
    Client,
    ClientError,
    EndEvent,
    LogEvent,
    MetricsEvent,
    StateEvent,
    ValidationEvent,
    heat_map_array,
    heat_map_png,
)
from snf_client.images import ImagesLike, Pixels, images_in, is_image

DIGITS = Path(__file__).parents[1] / "tests" / "data" / "mnist"


def show_scores(client: Client, model: str, heading: str, images: ImagesLike) -> None:
    """Score images of any supported kind, and print each verdict with its strongest reason."""
    print(f"\n{heading}")
    for result in client.score_each(model, images):
        name = result.filename or f"image {result.index}"
        if result.status == "error":  # one bad file does not fail the others
            print(f"  {name}: {result.error.title}: {result.error.detail}")
            continue
        verdict = result.anomaly
        bits = "" if result.bits_per_dim is None else f" {result.bits_per_dim:.3f} bits/dim,"
        print(
            f"  {name}: {result.log_likelihood:.1f} nats,{bits} "
            f"p = {verdict.p_value:.4f} {'ANOMALY' if verdict.is_anomaly else 'normal'} at alpha {verdict.alpha:g}"
        )
        if verdict.reasons:
            print(f"    {verdict.reasons[0].share:.0%} of the evidence: {verdict.reasons[0].text}")


def save_heat_map(client: Client, model: str, image: Pixels, out: Path) -> None:
    """Save the heat map of an image, and print that its values sum to the log-likelihood."""
    [result] = client.score(model, image, explain=True).results
    assert result.status == "ok"
    assert result.heat_map is not None
    target = out / "heat_map.png"
    target.write_bytes(heat_map_png(result.heat_map))
    nats = heat_map_array(result.heat_map)[result.heat_map.channels.index("nats")]
    print(f"\n{target}: the map sums to {nats.sum():.3f} nats, the log-likelihood is {result.log_likelihood:.3f}")


def save_samples(client: Client, model: str, out: Path, side: int = 8) -> None:
    """Draw images and save them as one picture with ``side`` rows of ``side`` images."""
    drawn = client.samples.draw(model, side * side)
    rows = [np.concatenate(list(row), axis=1) for row in np.split(drawn.pixels, side)]
    target = out / "samples.png"
    Image.fromarray(np.concatenate(rows)).save(target)
    print(f"\n{target}: {drawn.pixels.shape} {drawn.pixels.dtype}, reproduced by seed={drawn.seed}")


def train(client: Client, dataset: str, name: str, steps: int) -> str:
    """Train a small model, print the events of the job, and return the new version as ``name:version``."""
    job = client.jobs.train(dataset, name, preset="snf-glow-tiny", parameters={"max_steps": steps}, promote=True)
    print(f"\ntraining {name} on {dataset}, job {job.id}")
    for event in client.jobs.events(job.id):  # continues across restarts of the service
        match event:
            case StateEvent() | EndEvent():
                print(f"  {event.status}")
            case MetricsEvent(bits_per_dim=float(bits)):
                print(f"  step {event.step} of {event.steps}: {bits:.3f} bits/dim, {event.eta_seconds or 0:.0f} s left")
            case ValidationEvent(bits_per_dim=float(bits)):
                print(f"  step {event.step}: {bits:.3f} bits/dim on images that it does not learn from")
            case LogEvent():
                print(f"  {event.message}")
    job = client.jobs.get(job.id)
    if job.status != "succeeded" or job.result is None:
        raise RuntimeError(f"job {job.id} {job.status}: {(job.error or {}).get('detail', 'see its log')}")
    return f"{job.result['model']}:{job.result['version']}"


def main() -> None:
    """Run the tour."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="?", default=DIGITS, metavar="IMAGES", help="folder of images")
    parser.add_argument("--model", default="mnist-snf-glow", help="model that scores the images (%(default)s)")
    parser.add_argument("--out", type=Path, help="folder for the pictures (a new temporary one)")
    parser.add_argument("--dataset", default="mnist-mini", help="dataset to train on (%(default)s)")
    parser.add_argument("--name", default="tour", help="name of the trained model (%(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="steps of the training (%(default)s)")
    options = parser.parse_args()
    options.out = options.out or Path(tempfile.mkdtemp(prefix="snf-tour-"))
    options.out.mkdir(parents=True, exist_ok=True)
    paths = [path for path in images_in(options.images) if is_image(path)]
    if not paths:
        raise ValueError(f"{options.images} has no images")

    with Client() as client:
        print("models:", ", ".join(model.name for model in client.models.list().models))
        show_scores(client, options.model, "files", paths[:5])
        with Image.open(paths[0]) as image:
            digit = image.convert("L")
        turned = [digit.rotate(degrees) for degrees in (0, 30, 60)]
        show_scores(client, options.model, "PIL images: a digit turned by 0, 30 and 60 degrees", turned)
        damaged = np.array(digit)
        height, width = damaged.shape
        damaged[height // 3 : height // 2, : width // 2] = 255
        show_scores(client, options.model, "an array: the digit with a white bar", damaged)
        save_heat_map(client, options.model, damaged, options.out)
        save_samples(client, options.model, options.out)
        trained = train(client, options.dataset, options.name, options.steps)
        show_scores(client, trained, f"files, scored with {trained}", paths[:5])


if __name__ == "__main__":
    try:
        main()
    except (ClientError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"python_client: {error}")
