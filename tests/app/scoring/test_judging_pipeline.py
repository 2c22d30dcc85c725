"""What is scored for several requests together is told apart again: each image has its own alpha."""

from typing import Any, cast

import numpy as np

from snf_app.scoring.judging_pipeline import JudgeImages, RequestedImage
from snf_models.scorer import Scorer
from snf_runtime.images.preprocessing import Preprocessing


class Noting:
    """A scorer that notes its calls."""

    preprocessing = Preprocessing(channels=1, height=2, width=2)

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def judge_each(self, pixels: Any, alphas: list[float | None], draws: int) -> list[Any]:
        self.calls.append((pixels.shape, alphas, draws))
        return [int(image.flat[0]) for image in pixels]


def image(number: int) -> Any:
    return np.full((1, 2, 2), number, np.uint8)


def test_one_call_judges_the_images_of_all_requests() -> None:
    scorer = Noting()
    asked = [(1, None), (2, 0.05), (3, None)]
    found = JudgeImages(cast(Scorer, scorer), 4)([RequestedImage(image(number), alpha) for number, alpha in asked])
    assert scorer.calls == [((3, 1, 2, 2), [None, 0.05, None], 4)]
    assert found == [1, 2, 3]


def test_equal_are_those_of_one_loaded_model_and_number_of_draws() -> None:
    one, other = cast(Scorer, Noting()), cast(Scorer, Noting())
    assert JudgeImages(one, 1) == JudgeImages(one, 1)
    assert JudgeImages(one, 1) != JudgeImages(one, 2)
    assert JudgeImages(one, 1) != JudgeImages(other, 1)
