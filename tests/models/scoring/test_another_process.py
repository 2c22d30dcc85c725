"""Another process, in another folder, gives the scores and verdicts of this one, without compiler and compressor."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from snf_models.registry.registry import ZOO
from snf_models.scorer import Scorer, load_model
from tests.models.helpers import half_with_noise
from tests.support.paths import IMPORT_PATH

ELSEWHERE = 1e-4
"""Nats between the same image here and in another process."""
STATISTICS = 1e-9
"""Relative, between the same statistic here and in another process."""

PROGRAM = """
import json, pathlib, pickle, sys, zlib
from snf_models.scorer import Scorer, load_model
from snf_models.scoring import EngineOptions
from snf_models.threads import thread_count
answer = {"loaded before": "torch" in sys.modules, "counted": thread_count(None)}
artifact, shipped = map(pathlib.Path, sys.argv[1:])
loaded = load_model(artifact)
load_model(shipped, options=EngineOptions("torch"))
answer["compiler"] = [name for name in ("torch._dynamo", "sympy") if name in sys.modules]
import numpy, torch
answer["threads"] = torch.get_num_threads()
images = numpy.load("images.npy")
scorer = pickle.loads(pathlib.Path("scorer").read_bytes())
answer["pickled"] = [value.hex() for value in scorer({"image": images})["log_likelihood"].tolist()]
answer["scores"] = [one.log_likelihood for one in loaded.score(images)]

import PIL.Image, PIL.PngImagePlugin

def refuse(*_arguments, **_options):
    raise AssertionError("a compressor was asked")

for name in ("compress", "compressobj", "decompress", "decompressobj", "crc32"):
    setattr(zlib, name, refuse)
PIL.Image.Image.save = PIL.Image.open = PIL.Image.fromarray = refuse
answer["verdicts"] = [
    [one.p_value, one.statistic, [reason.text for reason in one.reasons]]
    for one in loaded.verdicts(loaded.score(images))
]
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """Digits, half of them with something that is not of a digit."""
    return half_with_noise(10)


@pytest.fixture(scope="module")
def pickled(artifact: Path) -> bytes:
    """A scorer that was loaded from a relative path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(artifact.parent)
        return pickle.dumps(load_model(Path(artifact.name)))


@pytest.fixture(scope="module")
def answer(
    artifact: Path, images: NDArray[np.uint8], pickled: bytes, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the other process says."""
    folder = tmp_path_factory.mktemp("elsewhere")
    np.save(folder / "images.npy", images)
    (folder / "scorer").write_bytes(pickled)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(artifact), str(ZOO / "mnist-snf-glow" / "1")],
        cwd=folder,
        env={"PYTHONPATH": IMPORT_PATH, "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_threads_are_counted_without_torch_as_torch_counts_them(answer: dict[str, Any]) -> None:
    assert not answer["loaded before"]
    assert answer["counted"] == answer["threads"]


def test_loading_a_model_does_not_import_the_compiler(answer: dict[str, Any]) -> None:
    assert answer["compiler"] == []


def test_scores_are_the_same(answer: dict[str, Any], scorer: Scorer, images: NDArray[np.uint8]) -> None:
    here = [one.log_likelihood for one in scorer.score(images)]
    np.testing.assert_allclose(answer["scores"], here, rtol=0, atol=ELSEWHERE)


def test_a_pickled_scorer_gives_the_same_bits(
    answer: dict[str, Any], pickled: bytes, scorer: Scorer, images: NDArray[np.uint8]
) -> None:
    assert len(pickled) < 2000, "the place of the files, without them"
    here = scorer({"image": images})["log_likelihood"].tolist()
    assert answer["pickled"] == [value.hex() for value in here]


def test_verdicts_are_the_same_without_any_compressor(
    answer: dict[str, Any], scorer: Scorer, images: NDArray[np.uint8]
) -> None:
    here = scorer.verdicts(scorer.score(images))
    assert len({one.p_value for one in here}) > 1
    for (p_value, statistic, texts), one in zip(answer["verdicts"], here, strict=True):
        assert p_value == one.p_value
        assert statistic == pytest.approx(one.statistic, rel=STATISTICS)
        assert texts == [reason.text for reason in one.reasons]
