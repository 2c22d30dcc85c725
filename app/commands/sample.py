# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""`snf sample`: draws images from a model into a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from app.commands.common import (
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

FORMATS = (".png", ".npy")


@dataclass(frozen=True)
class Asked:
    """What shall be drawn."""

    model: str
    form: str
    n: int
    temperature: float
    seed: int | None
    inverse: Literal["exact", "learned"]


def sample(
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png grid or an .npy array.")] = Path("samples.png"),
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
        raise fail(f"--out must end in {' or '.join(FORMATS)}, got {out}", USAGE)
    asked = Asked(model, out.suffix[1:], n, temperature, seed, "learned" if learned else "exact")
    with errors_for_people():
        content, seed = _remote(asked, url, key) if url else _local(asked)
    out.write_bytes(content)
    if as_json:
        print_json({"file": str(out), "model": model, "n": n, "temperature": temperature, "seed": seed})
    else:
        typer.echo(f"{n} samples of {model} with seed {seed} in {out}")


def _remote(asked: Asked, url: str, key: str | None) -> tuple[bytes, int]:
    from app.commands.remote import Remote

    query = {
        "n": asked.n,
        "temperature": asked.temperature,
        "format": asked.form,
        "inverse": asked.inverse,
        **({} if asked.seed is None else {"seed": asked.seed}),
    }
    answer = Remote(url, key).call("GET", f"/v1/models/{asked.model}/samples", params=query)
    return answer.content, int(answer.headers["X-Seed"])


def _local(asked: Asked) -> tuple[bytes, int]:
    from app.sampling import draw_seed, encode
    from models.problems import NoLearnedInverse
    from models.registry import Registry
    from models.scoring.scorer import Scorer

    found = settings()
    version = Registry(found.registry_dir).resolve(asked.model)
    scorer = Scorer.load(version.path, version.calibration_path, found.engine_options)
    if asked.inverse == "learned" and not scorer.has_learned_inverse:
        raise NoLearnedInverse(f"{version.name} was trained without learned inverses")
    seed = draw_seed() if asked.seed is None else asked.seed
    pixels = scorer.sample(asked.n, asked.temperature, seed, asked.inverse)
    return encode(asked.form, pixels)[0], seed
