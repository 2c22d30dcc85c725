"""EfficientNet-Lite0: the converted weights are those of the original network, whatever the strides of its kernels."""

from pathlib import Path

import numpy as np
import pytest
import torch

from snf_models.errors import BackboneUnfit
from snf_models.features.backbones import BLOCKS, LITE0, Arrays, BackboneStore, fold_normalisations, weight_shapes
from snf_models.features.extractor import (
    LOGITS,
    SIDE,
    Lite0Network,
    TorchExtractor,
    check_image,
    check_weights,
    normalised,
    on_one_grid,
)
from snf_worker.sandbox.uploads import package_file


@pytest.fixture(scope="module")
def weights(backbones: Path) -> Arrays:
    return BackboneStore(backbones).arrays(LITE0)


@pytest.fixture(scope="module")
def original() -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(package_file(), weights_only=True)
    return state


def in_storage(tensor: torch.Tensor) -> torch.Tensor:
    """The values of a tensor in the order in which they lie in its storage, whatever its strides."""
    return torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())[: tensor.numel()]


def test_the_stored_weights_give_the_pinned_logits(weights: Arrays) -> None:
    assert len(LOGITS) >= 5
    check_weights(weights)
    for name, array in weights.items():
        assert array.dtype == np.float32, name
        assert array.flags.c_contiguous, name


def test_float32_gives_the_same_classes(weights: Arrays) -> None:
    with torch.inference_mode():
        x = normalised(check_image(), LITE0, (SIDE, SIDE), torch.float32)
        logits = Lite0Network(weights).logits(x)[0]
    for number, logit in LOGITS.items():
        assert float(logits[number]) == pytest.approx(logit, abs=1e-3)


def test_kernels_read_from_raw_storage_are_found_out(original: dict[str, torch.Tensor]) -> None:
    read = {name: in_storage(tensor).reshape(tensor.shape).numpy() for name, tensor in original.items()}
    moved = [name for name, tensor in original.items() if not tensor.is_contiguous()]
    assert "_conv_stem.weight" in moved
    assert any((read[name] != original[name].numpy()).any() for name in moved)
    with pytest.raises(BackboneUnfit, match="as logit"):
        check_weights(fold_normalisations(read))


def test_strides_of_kernels_do_not_matter(original: dict[str, torch.Tensor]) -> None:
    once = fold_normalisations({name: tensor.contiguous().numpy() for name, tensor in original.items()})
    turned = {name: tensor.numpy().T.copy().T for name, tensor in original.items()}
    assert not turned["_conv_stem.weight"].flags.c_contiguous
    again = fold_normalisations(turned)
    assert once.keys() == again.keys()
    for name in once:
        np.testing.assert_array_equal(once[name], again[name])
        assert again[name].flags.c_contiguous


def test_other_weights_are_refused(weights: Arrays) -> None:
    without = {name: array for name, array in weights.items() if name != "head.bias"}
    with pytest.raises(BackboneUnfit, match=r"expected shape \(1280,\) of the weights head.bias, got None"):
        check_weights(without)
    with pytest.raises(BackboneUnfit, match=r"expected shape None of the weights more, got \(2,\)"):
        check_weights({**weights, "more": np.zeros(2, np.float32)})
    with pytest.raises(BackboneUnfit, match="as logit"):
        check_weights({**weights, "stem.bias": weights["stem.bias"] + 0.01})
    with pytest.raises(BackboneUnfit, match="got nan"):
        check_weights({**weights, "stem.bias": weights["stem.bias"] * np.nan})
    with pytest.raises(KeyError, match="_conv_stem"):
        fold_normalisations({})


def test_the_shapes_of_the_outputs(weights: Arrays) -> None:
    assert sum(block.stride == 2 for block in BLOCKS) == 4
    assert sum(int(np.prod(shape)) for shape in weight_shapes().values()) == pytest.approx(4.65e6, rel=0.01)
    size = (64, 96)
    x = normalised(np.zeros((2, 1, *size), np.uint8), LITE0, size, torch.float32)
    with torch.inference_mode():
        maps, deepest = Lite0Network(weights)(x)
    for output, values in zip((*LITE0.maps, LITE0.pooled), (*maps, deepest), strict=True):
        assert values.shape == (2, output.channels, size[0] // output.stride, size[1] // output.stride)
    assert tuple(on_one_grid(maps, LITE0).shape[1:]) == LITE0.feature_shape(size)


def test_features_in_float32_and_float64_agree(weights: Arrays) -> None:
    images = check_image()[:, :, :96, :64]
    narrow = TorchExtractor(LITE0, weights, (96, 64))(images)
    wide = TorchExtractor(LITE0, weights, (96, 64), torch.float64)(images)
    for one, other in zip(narrow, wide, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-3 * float(np.std(other)))
