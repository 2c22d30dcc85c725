# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""`snf sample`: draws images from a model into a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from app.cli.common import (
    DEFAULT_MODEL,
    USAGE,
    Json,
    Key,
    Model,
    Url,
    errors_for_people,
    fail,
    print_json,
    settings,
)
from app.cli.progress import images_bar, waiting
from app.cli.remote import service

FORMATS: dict[str, Literal["png", "npy", "zip"]] = {".png": "png", ".npy": "npy", ".zip": "zip"}
SLICE = 16
"""Images drawn between two looks at the progress bar; they are the same however they are sliced."""


@dataclass(frozen=True)
class Asked:
    """What shall be drawn."""

    model: str
    form: Literal["png", "npy", "zip"]
    n: int
    temperature: float
    seed: int | None
    inverse: Literal["exact", "learned"]


def sample(
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png grid, an .npy array or a .zip of PNGs.")] = Path(
        "samples.png"
    ),
    model: Model = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("-n", min=1, max=256, help="Number of images.")] = 16,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="Spread of the latents.")] = 1.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same images. Default: drawn.")] = None,
    learned: Annotated[bool, typer.Option("--learned", help="Use the learned inverses.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Draw images from a model."""
    if out.suffix not in FORMATS:
        raise fail(f"--out must end in {', '.join(FORMATS)}, got {out}", USAGE)
    if not out.absolute().parent.is_dir():
        raise fail(f"the folder of {out} does not exist", USAGE)
    asked = Asked(model, FORMATS[out.suffix], n, temperature, seed, "learned" if learned else "exact")
    content, seed = _remote(asked, url, key) if url else _local(asked)
    out.write_bytes(content)
    if as_json:
        print_json({"file": str(out), "model": model, "n": n, "temperature": temperature, "seed": seed})
    else:
        typer.echo(f"{n} samples of {model} with seed {seed} in {out}")


def _remote(asked: Asked, url: str, key: str | None) -> tuple[bytes, int]:
    with service(url, key) as client, waiting(f"drawing {asked.n} images"):
        found = client.samples.file(
            asked.model,
            asked.n,
            temperature=asked.temperature,
            seed=asked.seed,
            inverse=asked.inverse,
            format=asked.form,
        )
    return found.content, found.seed


def _local(asked: Asked) -> tuple[bytes, int]:
    import numpy as np

    from app.samples.encoding import draw_seed, encode
    from models.errors import NoLearnedInverse
    from models.registry.registry import Registry
    from models.scorer import Scorer

    with errors_for_people():
        found = settings()
        version = Registry(found.registry_dir).resolve(asked.model)
        scorer = Scorer.load(version.path, version.calibration_path, found.engine_options)
        if asked.inverse == "learned" and not scorer.has_learned_inverse:
            raise NoLearnedInverse(f"{version.name} was trained without learned inverses")
        seed = draw_seed() if asked.seed is None else asked.seed
        parts = []
        with images_bar("drawing", asked.n) as advance:
            for first in range(0, asked.n, SLICE):
                count = min(SLICE, asked.n - first)
                parts.append(scorer.sample(count, asked.temperature, seed, asked.inverse, first))
                advance(count)
    return encode(asked.form, np.concatenate(parts))[0], seed
