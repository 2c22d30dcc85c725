"""Ways to spoil an artifact: each changes the files of a folder, and most of them sign what they have changed."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from snf_models.artifacts.files import CALIBRATION, CARD, PINNED, SAMPLES, WEIGHTS, image_digest
from snf_models.disk import sha256_file
from tests.models.helpers import edit_manifest


def signed(folder: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        for name in (WEIGHTS, CALIBRATION, PINNED, CARD, SAMPLES):
            document["files"][name] = sha256_file(folder / name)
        for part in ("log_dets", "calibration"):
            document[part]["weights_sha256"] = document["files"][WEIGHTS]

    edit_manifest(folder, change)


def change_weights(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file(
        {name: change(one) if one.is_floating_point() else one for name, one in weights.items()}, folder / WEIGHTS
    )


def other_weights(folder: Path) -> None:
    change_weights(folder, lambda one: one * 1.01)


def other_weights_signed(folder: Path) -> None:
    other_weights(folder)
    signed(folder)


def weights_that_are_no_numbers(folder: Path) -> None:
    change_weights(folder, lambda one: one * float("nan"))
    signed(folder)


class Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("/tmp/snf-exploited"),)


def weights_that_run(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps(Exploit()))
    signed(folder)


def weights_with_a_huge_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((2**62).to_bytes(8, "little") + b"{}")
    signed(folder)


def an_enormous_architecture(folder: Path) -> None:
    pinned = torch.zeros(1, 1, 1024, 1024, dtype=torch.uint8)
    save_file({"images": pinned}, folder / PINNED)
    signed(folder)

    def change(document: dict[str, Any]) -> None:
        document["pinned"]["image_sha256"] = image_digest(pinned[0].numpy())
        for part in ("architecture", "preprocessing"):
            document[part] |= {"height": 1024, "width": 1024}
        document["architecture"] |= {"levels": 8, "steps": 64, "hidden": 1024}

    edit_manifest(folder, change)


def no_picture(folder: Path) -> None:
    (folder / SAMPLES).write_text("<svg onload=alert(1)>")
    signed(folder)


def a_card_in_another_encoding(folder: Path) -> None:
    (folder / CARD).write_bytes(b"\xff\xfe")
    signed(folder)


def a_file_outside(folder: Path) -> None:
    edit_manifest(folder, lambda document: document["files"].update({"../../../../etc/passwd": "0" * 64}))
