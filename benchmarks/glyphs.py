"""A dataset that nobody tuned anything on: letters of the fonts of this machine, told from what is no letter.

    python -m benchmarks.glyphs [--minutes 8] [--folder var/glyphs]

Letters of every font found under /usr/share/fonts, each drawn with small random turns, shifts and sizes in 28x28, train
a model with the defaults of the product. Then it is evaluated against digits and punctuation of the same fonts, against
the MNIST digits that come with the product, and against graded faults. Goes on from its checkpoints.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

from benchmarks.anomaly import compact, table
from benchmarks.needs import end
from snf_models.datasets import load_dataset
from snf_models.datasets.store import DatasetStore
from snf_models.datasets.uploads import Source
from snf_models.disk import write_atomically
from snf_models.evaluation.assemble import Subject
from snf_models.evaluation.evaluate import evaluate
from snf_models.evaluation.schema import EvaluationParameters
from snf_models.pipeline.run import train
from snf_models.scorer import Scorer
from snf_models.training.config import TrainingConfig

FONTS = Path("/usr/share/fonts")
RESULTS = Path(__file__).parent / "results"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
OTHERS = {"glyph-digits": "0123456789", "glyph-signs": "!?&%$#@+=/*§"}
SIDE = 28
COPIES = {"letters": 4, "held-out": 1, "others": 4}


def main() -> int:
    """Draw, train, evaluate, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.glyphs")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--folder", type=Path, default=Path("var/glyphs"))
    arguments = parser.parse_args()
    fonts = usable_fonts()
    if not fonts:
        end(f"needs fonts of letters below {FONTS}, such as those of the package fonts-dejavu")
    store = DatasetStore(arguments.folder / "datasets")
    sets = {"letters": (LETTERS, COPIES["letters"], 0), "letters-held-out": (LETTERS, COPIES["held-out"], 1)}
    sets |= {name: (signs, COPIES["others"], 2) for name, signs in OTHERS.items()}
    for name, (signs, copies, seed) in sets.items():
        if name not in store.names():
            add(store, name, draw(fonts, signs, copies, seed), arguments.folder)
    config = TrainingConfig(max_minutes=arguments.minutes, max_steps=20_000)
    console = Console(stderr=True)
    dataset = load_dataset("letters", None, store, config)
    artifact = train(
        dataset,
        "snf-glow-small",
        config,
        arguments.folder / "run",
        observe=lambda event: console.print(event) if event["event"] in ("validation", "evaluation") else None,
        should_stop=lambda: False,
    )
    parameters = EvaluationParameters(against=[*OTHERS, "mnist-mini"], corruptions=True)
    subject = Subject(Scorer.load(artifact), "letters", "letters-held-out", parameters, None, store)
    rows = compact(evaluate(subject)) | {"fonts": len(fonts), "training_images": len(dataset.train)}
    write_atomically(RESULTS / "glyphs.json", json.dumps(rows, indent=1).encode())
    text = f"# Letters of {len(fonts)} fonts, a dataset that nothing was tuned on\n\n{table(rows)}"
    write_atomically(RESULTS / "glyphs.md", text.encode())
    print(text)
    return 0


def usable_fonts() -> list[Path]:
    """Return the fonts that draw all signs differently, in order."""
    found = sorted(path for path in FONTS.rglob("*") if path.suffix.lower() in (".ttf", ".otf"))
    usable = []
    for path in found:
        try:
            font = ImageFont.truetype(path, 20)
            pictures = {glyph(font, sign, 0, 0, 0).tobytes() for sign in LETTERS + "0123456789"}
        except (OSError, ValueError):
            continue
        if len(pictures) > 55:  # fonts of pictures or of other scripts draw boxes
            usable.append(path)
    return usable


def draw(fonts: list[Path], signs: str, copies: int, seed: int) -> NDArray[np.uint8]:
    """Return each sign of each font, so many times, with small random turns, shifts and sizes, ``(N, H, W)``."""
    random = np.random.default_rng(seed)
    images = []
    for path in fonts:
        sizes = {size: ImageFont.truetype(path, size) for size in range(18, 23)}
        for sign in signs:
            for _ in range(copies):
                font = sizes[int(random.integers(18, 23))]
                turn, right, down = random.normal(0, 3), random.integers(-1, 2), random.integers(-1, 2)
                images.append(glyph(font, sign, float(turn), int(right), int(down)))
    return np.stack(images)


def glyph(font: ImageFont.FreeTypeFont, sign: str, turn: float, right: int, down: int) -> NDArray[np.uint8]:
    """Return one sign in white on black in the middle of the picture, ``(H, W)``."""
    picture = Image.new("L", (SIDE, SIDE))
    middle = (SIDE / 2 + right, SIDE / 2 + down)
    ImageDraw.Draw(picture).text(middle, sign, fill=255, font=font, anchor="mm")
    return np.asarray(picture.rotate(turn, Image.Resampling.BILINEAR))


def add(store: DatasetStore, name: str, images: NDArray[np.uint8], folder: Path) -> None:
    """Keep images as a dataset."""
    buffer = io.BytesIO()
    np.save(buffer, images)
    path = folder / f"{name}.npy"
    write_atomically(path, buffer.getvalue())
    store.create(name, [Source(path, path.name)])


if __name__ == "__main__":
    sys.exit(main())
