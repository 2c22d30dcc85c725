"""`snf sample`: draws images from a model into a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def sample(
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png grid or an .npy array.")] = Path(
        "samples.png"
    ),
    model: Model = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("-n", min=1, max=256, help="Number of images.")] = 16,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="Factor on the base distribution.")
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same images. Default: drawn.")] = None,
    learned: Annotated[bool, typer.Option("--learned", help="Use the learned inverses.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Draw images from a model."""
    if out.suffix not in FORMATS:
        raise fail(f"--out must end in {' or '.join(FORMATS)}, got {out}", USAGE)
    with errors_for_people():
        if url:
            content, seed = _remote(url, key, model, out.suffix[1:], n, temperature, seed, learned)
        else:
            content, seed = _local(model, out.suffix[1:], n, temperature, seed, learned)
    out.write_bytes(content)
    if as_json:
        print_json({"file": str(out), "model": model, "n": n, "temperature": temperature, "seed": seed})
    else:
        typer.echo(f"{n} samples of {model} with seed {seed} in {out}")


def _remote(  # noqa: PLR0913 - the command's options
    url: str,
    key: str | None,
    model: str,
    form: str,
    n: int,
    temperature: float,
    seed: int | None,
    learned: bool,
) -> tuple[bytes, int]:
    from app.commands.remote import Remote

    query = {
        "n": n,
        "temperature": temperature,
        "format": form,
        "inverse": "learned" if learned else "exact",
        **({} if seed is None else {"seed": seed}),
    }
    answer = Remote(url, key).call("GET", f"/v1/models/{model}/samples", params=query)
    return answer.content, int(answer.headers["X-Seed"])


def _local(  # noqa: PLR0913 - the command's options
    model: str, form: str, n: int, temperature: float, seed: int | None, learned: bool
) -> tuple[bytes, int]:
    from models.registry import Registry
    from models.scoring.scorer import Scorer

    from app.sampling import draw_seed, encode
    from models.problems import NoLearnedInverse

    version = Registry(settings().registry_dir).resolve(model)
    scorer = Scorer.load(version.path)
    if learned and not scorer.has_learned_inverse:
        raise NoLearnedInverse(f"{version.name} was trained without learned inverses")
    seed = draw_seed() if seed is None else seed
    pixels = scorer.sample(n, temperature, seed, "learned" if learned else "exact")
    return encode(form, pixels)[0], seed
