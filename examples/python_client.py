"""A tour of the Python client: scores, a heat map, samples, a training followed live, and its model used.

    python examples/python_client.py [IMAGES] [--model mnist-snf-glow] [--out tour]

Needs a running service (`make up`) with a worker; takes about a minute. Pictures go into the folder --out. SNF_URL and
SNF_API_KEY name the service, or `Client("http://host:8000", "key")`. `AsyncClient` has the same calls to be awaited.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from snf_client import Client, ClientError, heat_map_array, heat_map_png
from snf_client.image_files import images_in
from snf_client.images import Pictures, Pixels
from snf_client.job_events import End, Log, Metrics, State, Validation

DIGITS = Path(__file__).parents[1] / "tests" / "data" / "mnist"


def show_scores(client: Client, model: str, what: str, images: Pictures) -> None:
    """Scores images, whatever they come as, and prints each verdict with its strongest reason."""
    print(f"\n{what}")
    for result in client.score_each(model, images):
        name = result.filename or f"image {result.index}"
        if result.status == "error":  # one bad file does not fail the others
            print(f"  {name}: {result.error.title}: {result.error.detail}")
            continue
        verdict = result.anomaly
        print(
            f"  {name}: {result.log_likelihood:.1f} nats, {result.bits_per_dim:.3f} bits/dim, "
            f"p = {verdict.p_value:.4f} {'ANOMALY' if verdict.is_anomaly else 'normal'} at alpha {verdict.alpha:g}"
        )
        if verdict.reasons:
            print(f"    {verdict.reasons[0].share:.0%} of the evidence: {verdict.reasons[0].text}")


def save_heat_map(client: Client, model: str, image: Pixels, out: Path) -> None:
    """Saves a picture of where an image is unusual, and shows that the exact map sums to the log-likelihood."""
    [result] = client.score(model, image, explain=True).results
    assert result.status == "ok"
    assert result.heat_map is not None
    target = out / "heat_map.png"
    target.write_bytes(heat_map_png(result.heat_map))
    nats = heat_map_array(result.heat_map)[result.heat_map.channels.index("nats")]
    print(f"\n{target}: the map sums to {nats.sum():.3f} nats, the log-likelihood is {result.log_likelihood:.3f}")


def save_samples(client: Client, model: str, out: Path, side: int = 8) -> None:
    """Draws images as an array and saves them as one picture, `side` rows of `side`."""
    drawn = client.samples.draw(model, side * side)
    rows = [np.concatenate(list(row), axis=1) for row in np.split(drawn.pixels, side)]
    target = out / "samples.png"
    Image.fromarray(np.concatenate(rows)).save(target)
    print(f"\n{target}: {drawn.pixels.shape} {drawn.pixels.dtype}, the same again with seed={drawn.seed}")


def train(client: Client, dataset: str, name: str, steps: int) -> str:
    """Trains a small model, prints what happens as it happens, and answers the new version's reference."""
    job = client.jobs.train(dataset, name, preset="snf-glow-tiny", parameters={"max_steps": steps}, promote=True)
    print(f"\ntraining {name} on {dataset}, job {job.id}")
    for event in client.jobs.events(job.id):  # each once, also across a restart of the service
        match event:
            case State() | End():
                print(f"  {event.status}")
            case Metrics(bits_per_dim=float(bits)):
                print(f"  step {event.step} of {event.steps}: {bits:.3f} bits/dim, {event.eta_seconds or 0:.0f} s left")
            case Validation(bits_per_dim=float(bits)):
                print(f"  step {event.step}: {bits:.3f} bits/dim of images that it does not learn")
            case Log():
                print(f"  {event.message}")
    job = client.jobs.get(job.id)
    if job.status != "succeeded" or job.result is None:
        raise RuntimeError(f"job {job.id} {job.status}: {(job.error or {}).get('detail', 'see its log')}")
    return f"{job.result['model']}:{job.result['version']}"


def main() -> None:
    """Runs the tour."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="?", default=DIGITS, metavar="IMAGES", help="folder of images")
    parser.add_argument("--model", default="mnist-snf-glow", help="scores the images (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("tour"), help="folder of pictures (%(default)s)")
    parser.add_argument("--dataset", default="mnist-mini", help="what a model is trained on (%(default)s)")
    parser.add_argument("--name", default="tour", help="what the trained model is called (%(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="steps of the training (%(default)s)")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    paths = images_in(asked.images)
    if not paths:
        raise ValueError(f"{asked.images} has no images")

    with Client() as client:
        print("models:", ", ".join(model.name for model in client.models.list().models))
        show_scores(client, asked.model, "files", paths[:5])
        with Image.open(paths[0]) as image:
            digit = image.convert("L")
        turned = [digit.rotate(degrees) for degrees in (0, 30, 60)]
        show_scores(client, asked.model, "PIL images: one turned by 0, 30 and 60 degrees", turned)
        damaged = np.array(digit)
        height, width = damaged.shape
        damaged[height // 3 : height // 2, : width // 2] = 255
        show_scores(client, asked.model, "an array: the same with a bar across it", damaged)
        save_heat_map(client, asked.model, damaged, asked.out)
        save_samples(client, asked.model, asked.out)
        trained = train(client, asked.dataset, asked.name, asked.steps)
        show_scores(client, trained, f"files, scored with {trained}", paths[:5])


if __name__ == "__main__":
    try:
        main()
    except (ClientError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"python_client: {error}")
