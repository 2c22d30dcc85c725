"""Store of backbones, each a folder with a description and weights. Free of torch."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from snf_models.atomic_files import locked, new_folder, remove_leftovers
from snf_models.errors import BackboneMissing, BackboneUnfit
from snf_models.features.backbone import Backbone
from snf_models.features.lite0 import weight_shapes
from snf_models.naming import is_name
from snf_models.texts.suggestions import closest

DESCRIPTION = "backbone.json"
WEIGHTS = {"efficientnet-lite0": "weights.safetensors", "onnx": "model.onnx"}
"""Name of the file with the weights, by format."""
DEFAULT_FOLDER = Path(os.environ.get("SNF_BACKBONES") or Path(os.environ.get("SNF_HOME") or "var") / "backbones")
"""Folder of the backbones unless another one is given."""

log = logging.getLogger(__name__)


class BackboneStore:
    """Store of the backbones on this machine, the frozen networks that compute image features.

    Backbones are found by name or by digest.

    Args:
        folder: The folder that holds a folder for each backbone.
    """

    def __init__(self, folder: Path = DEFAULT_FOLDER) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Return the sorted names of all stored backbones.

        Backbones with damaged files are among them.
        """
        paths = self.folder.glob(f"*/{DESCRIPTION}") if self.folder.is_dir() else ()
        return sorted(path.parent.name for path in paths if is_name(path.parent.name))

    def find(self, name: str) -> Backbone:
        """Return the description of the stored backbone network called ``name``.

        Raises:
            BackboneMissing: There is none of this name; the message says how to add it.
            BackboneUnfit: Its description is damaged.
        """
        if name not in self.names():
            meant = closest(name, self.names())
            advice = f"did you mean {meant}? Else add it" if meant else "add it"
            raise BackboneMissing(f"there is no backbone {name!r} here: {advice} by `snf backbones add {name}`")
        return _read(self.folder / name / DESCRIPTION)

    def by_digest(self, name: str, digest: str) -> Backbone:
        """Return the description of the stored backbone network with a given digest (SHA-256 hash).

        The backbone may have any name.

        Args:
            name: The name in the model, for the error message.
            digest: Its :attr:`Backbone.digest`.

        Raises:
            BackboneMissing: No backbone here has this digest.
        """
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
        """Return the bytes of a backbone's weight file after checking their SHA-256.

        Raises ``BackboneUnfit`` if the file cannot be read or has another SHA-256.
        """
        try:
            content = self.path(backbone).read_bytes()
        except OSError as error:
            raise BackboneUnfit(f"the weights of {backbone.name} cannot be read: {error.strerror}") from error
        _compare(backbone, content)
        return content

    def arrays(self, backbone: Backbone) -> dict[str, NDArray[np.float32]]:
        """Return the stored weights of an EfficientNet-Lite0 backbone as a dict of arrays by name.

        Raises ``BackboneUnfit`` if the file cannot be read, has another SHA-256, or has arrays of other names,
        shapes or types of numbers.
        """
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
        """Store the description and the weights of a backbone, either both or neither.

        A stored backbone of the same name and digest is replaced.

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
