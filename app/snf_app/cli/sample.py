# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from snf_app.cli.common import (
    DEFAULT_MODEL,
    Json,
    Key,
    Model,
    Url,
    error_messages,
    print_json,
    read_settings,
    registry,
)
from snf_app.cli.out_file import Force, check_new, write_out
from snf_app.cli.progress import images_bar, spinner
from snf_app.cli.remote import service

if TYPE_CHECKING:
    from snf_client.resources import SampleOptions

FORMATS: dict[str, Literal["png", "npy", "zip"]] = {".png": "png", ".npy": "npy", ".zip": "zip"}
CHUNK = 16
"""Images between two updates of the progress bar; the chunks do not change the images."""


def sample(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File: a grid (.png), an array (.npy) or single PNG files (.zip).")
    ] = Path("samples.png"),
    model: Model = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("-n", min=1, max=256, help="Number of images.")] = 16,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="Spread of the latents.")] = 1.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same images. Default: random.")] = None,
    learned: Annotated[bool, typer.Option("--learned", help="Use the learned inverses.")] = False,
    force: Force = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Draw random images from a model into a file: a PNG grid, a NumPy array or a zip of single PNG files."""
    check_new(out, tuple(FORMATS), force=force)
    options: SampleOptions = {
        "temperature": temperature,
        "seed": seed,
        "inverse": "learned" if learned else "exact",
    }
    if url:
        with service(url, key) as client, spinner(f"drawing {n} images"):
            file = client.samples.file(model, n, format=FORMATS[out.suffix], **options)
        content, seed = file.content, file.seed
    else:
        content, seed = _draw(model, n, FORMATS[out.suffix], **options)
    write_out(out, content)
    if as_json:
        print_json({"file": str(out), "model": model, "n": n, "temperature": temperature, "seed": seed})
    else:
        typer.echo(f"{n} samples of {model} with seed {seed} in {out}")


def _draw(
    model: str,
    n: int,
    form: Literal["png", "npy", "zip"],
    *,
    temperature: float,
    seed: int | None,
    inverse: Literal["exact", "learned"],
) -> tuple[bytes, int]:
    """Draw images in this process; return the bytes of the output file and the random seed."""
    import numpy as np

    from snf_app.samples.endpoints import draw_seed, encode
    from snf_models.errors import NoLearnedInverse
    from snf_models.scorer import load_model

    with error_messages():
        settings = read_settings()
        version = registry().resolve(model)
        scorer = load_model(version.path, version.calibration_path, settings.engine_options)
        scorer.require_pixels()
        if inverse == "learned" and not scorer.has_learned_inverse:
            raise NoLearnedInverse(f"{version.name} was trained without learned inverses")
        seed = draw_seed() if seed is None else seed
        chunks = []
        with images_bar("drawing", n) as advance:
            for first in range(0, n, CHUNK):
                count = min(CHUNK, n - first)
                chunks.append(scorer.sample(count, temperature, seed, inverse, first))
                advance(count)
    return encode(form, np.concatenate(chunks))[0], seed
