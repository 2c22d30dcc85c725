"""Which preprocessing a training run gets: what its configuration asks for, or what suits the images."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from models.errors import DatasetUnfit
from models.images.preprocessing import Colour, Preprocessing
from models.training.config import TrainingConfig

MAX_MODEL_SIDE = 1024
CHOSEN_SIDE = 64
"""Largest side that is chosen for a user: what a CPU trains in an hour."""


class ImageFacts(BaseModel):
    """What the choice depends on, known without decoding anything again."""

    model_config = ConfigDict(frozen=True)

    smallest: tuple[int, int] = Field(description="Smallest width and smallest height, pixels.")
    largest: tuple[int, int] = Field(description="Largest width and largest height, pixels.")
    median_shorter_side: int
    coloured: bool = Field(description="Whether any image has colour.")
    channels: int | None = Field(description="Channels that every image has as it is; None where they differ.")


def choose_preprocessing(config: TrainingConfig, facts: ImageFacts, name: str) -> Preprocessing:
    """Return what ``config`` asks for, completed to suit the images. Raises ``DatasetUnfit`` where that is impossible.

    Size: as asked; else that of the images where all have the same and a model can have it; else the largest square
    whose side is a multiple of 4, at most the median shorter side and at most 64. Fit: as asked; else exact where every
    image has that size, else crop. Colour: as asked; else exact where the images are taken as they are (fit not chosen
    here, channels all the same), else rgb if any image has colour, else grey.

    >>> facts = ImageFacts(smallest=(40, 50), largest=(640, 480), median_shorter_side=51, coloured=True, channels=3)
    >>> choose_preprocessing(TrainingConfig(), facts, "photos")
    Preprocessing(channels=3, height=48, width=48, fit='crop', colour='rgb')
    """
    width, height = _size(config, facts)
    as_they_are = facts.smallest == facts.largest == (width, height)
    fit = config.fit or ("exact" if as_they_are else "crop")
    if fit == "exact" and not as_they_are:
        found = " to ".join(dict.fromkeys("{}x{}".format(*size) for size in (facts.smallest, facts.largest)))
        raise DatasetUnfit(
            f"the images of {name} are {found} (width x height), fit exact takes {width}x{height} alone; "
            "set fit to crop, stretch or pad"
        )
    kept = facts.channels is not None and (as_they_are or config.fit is not None)
    colour: Colour = config.colour or ("exact" if kept else "rgb" if facts.coloured else "grey")
    if colour != "exact":
        return Preprocessing(channels=3 if colour == "rgb" else 1, height=height, width=width, fit=fit, colour=colour)
    if facts.channels is None:
        raise DatasetUnfit(f"some images of {name} are grey and some have colour; set colour to rgb or grey")
    return Preprocessing(channels=facts.channels, height=height, width=width, fit=fit)


def _size(config: TrainingConfig, facts: ImageFacts) -> tuple[int, int]:
    """Return width, height."""
    if config.image_size is not None:
        return config.image_size[1], config.image_size[0]
    if facts.smallest == facts.largest and max(facts.largest) <= MAX_MODEL_SIDE:
        return facts.largest
    side = min(CHOSEN_SIDE, max(4, facts.median_shorter_side // 4 * 4))
    return side, side
