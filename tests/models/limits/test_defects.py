import numpy as np
import pytest

from snf_client.schemas.limits import SHAPES, Shape
from snf_models.limits.defects import GRADED, Defect, add_defect, defect_kinds, defect_rng, defect_sizes

SIDE = 40
AREAS = {"scratch": 12 * 1.5, "spot": np.pi * 36, "hole": np.pi * 36, "missing-part": 144.0}


def grey_image(channels: int = 3) -> np.ndarray:
    """An image of middle grey levels, all different enough that no defect leaves a pixel by chance."""
    levels = np.random.default_rng(7).integers(90, 160, (channels, SIDE, SIDE))
    return levels.astype(np.uint8)


def injected(image: np.ndarray, defect: Defect, index: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return add_defect(image, defect, defect_rng(0, defect, index))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", defect_sizes(SIDE, SIDE))
def test_a_defect_changes_its_mask_and_nothing_else(shape: Shape, size: int) -> None:
    image = grey_image()
    before = image.copy()
    damaged, mask = injected(image, Defect(shape, size, 64 if shape in GRADED else None))

    assert np.array_equal(image, before)
    assert damaged.dtype == np.uint8
    assert np.array_equal(damaged[:, ~mask], image[:, ~mask])
    # A pixel that is hardly covered may keep its level after rounding.
    assert (damaged[:, mask] != image[:, mask]).any(0).mean() > 0.8
    rows, columns = np.nonzero(mask)
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    assert extent <= (2 * size - 1 if shape == "stain" else size)


@pytest.mark.parametrize("shape", ["spot", "scratch"])
@pytest.mark.parametrize("contrast", [32, 128])
def test_the_change_is_the_contrast_times_the_covered_area(shape: Shape, contrast: int) -> None:
    flat = np.full((1, SIDE, SIDE), 128, np.uint8)
    damaged, _ = injected(flat, Defect(shape, 12, contrast))
    change = damaged.astype(int) - 128

    assert abs(change).max() in {contrast, contrast - 1}
    assert len(np.unique(np.sign(change[change != 0]))) == 1
    assert abs(change).sum() / contrast == pytest.approx(AREAS[shape], rel=0.08)


def test_a_stain_has_half_of_its_contrast_at_its_radius() -> None:
    flat = np.full((1, SIDE, SIDE), 128, np.uint8)
    damaged, mask = injected(flat, Defect("stain", 12, 100))
    change = np.abs(damaged[0].astype(int) - 128)
    row, column = np.unravel_index(change.argmax(), change.shape)

    assert change.max() == 100
    assert change[row, column + 6] == pytest.approx(50, abs=5)
    assert change[mask].min() < 5


def test_a_hole_is_black_and_a_missing_part_has_the_mean_around_it() -> None:
    image = grey_image()
    holed, hole = injected(image, Defect("hole", 12))
    taken = (image.astype(int) - holed).sum() / image[:, hole].mean() / len(image)
    assert taken == pytest.approx(AREAS["hole"], rel=0.08)
    assert (holed[:, hole] == 0).mean() > 0.6
    patched, square = injected(image, Defect("missing-part", 12))
    rows, columns = np.nonzero(square)
    top, left = rows.min(), columns.min()
    assert square.sum() == AREAS["missing-part"]
    ring = np.zeros_like(square)
    ring[max(top - 2, 0) : top + 14, max(left - 2, 0) : left + 14] = True
    expected = image[:, ring & ~square].mean(1)
    assert np.abs(patched[:, square] - expected[:, None]).max() <= 0.5


@pytest.mark.parametrize(("level", "sign"), [(0, 1), (40, 1), (215, -1), (255, -1)])
def test_the_sign_is_turned_where_clipping_would_hide_the_defect(level: int, sign: int) -> None:
    flat = np.full((1, SIDE, SIDE), level, np.uint8)
    for index in range(10):
        damaged, _ = injected(flat, Defect("spot", 8, 128), index)
        change = damaged.astype(int) - level
        assert np.abs(change).max() == 128
        assert np.sign(change[change != 0]).tolist() == [sign] * int((change != 0).sum())


def test_defects_lie_on_the_bright_part() -> None:
    image = np.zeros((1, SIDE, SIDE), np.uint8)
    image[:, 10:30, 10:30] = 120
    for index in range(10):
        _, mask = injected(image, Defect("spot", 6, 64), index)
        assert mask[10:30, 10:30].sum() / mask.sum() > 0.2


def test_a_seed_gives_the_same_defect_in_any_order() -> None:
    image = grey_image()
    spot, scratch = Defect("spot", 6, 64), Defect("scratch", 6, 64)
    first = [injected(image, defect, index)[0] for defect in (spot, scratch) for index in (0, 1)]
    again = [injected(image, defect, index)[0] for defect in (scratch, spot) for index in (1, 0)]
    assert all(np.array_equal(a, b) for a, b in zip(first, reversed(again), strict=True))
    assert not np.array_equal(first[0], first[1])


def test_sizes_and_kinds() -> None:
    assert defect_sizes(28, 28) == (2, 3, 4, 6, 8, 12)
    assert defect_sizes(64, 300) == (2, 3, 4, 6, 8, 12, 16, 24, 32)
    assert defect_kinds(("hole", "spot"), (64, 32)) == [("hole", None), ("spot", 32), ("spot", 64)]
    with pytest.raises(ValueError, match="expected a contrast for a spot"):
        injected(grey_image(), Defect("spot", 4))
