"""Feature models, measured: ``SNF_DATA_DIR=... python -m benchmarks.features WHAT``.

WHAT is

- elpv: defective solar cells, over random splits, beside other scores of the same features;
- ood: CIFAR-10 against SVHN, Fashion-MNIST against MNIST;
- false-alarms: resplits of held-out images, and what is found by the number of good images;
- exactness: T against float64, and the same image in other company;
- limits: the smallest injected defects that pixels, features and both find;
- fit, speed: timed, so run them on a quiet machine;
- localisation: metrics of maps with masks against those of anomalib, and the filter of maps of pixels.

Results go to ``benchmarks/results/features_<what>.json`` and ``.md``. Features and evidence are kept in ``--folder``.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from benchmarks.features.common import run_of
from benchmarks.needs import data_dir, end
from benchmarks.speed.machine import cores
from benchmarks.speed.peers import PeerUnavailable
from snf_models.errors import BackboneMissing

CELLS = "elpv64.npz"
WHAT = {
    "elpv": (CELLS,),
    "ood": ("mnist", "fashion-mnist", "cifar10", "svhn_test10k.npz"),
    "false-alarms": (CELLS, "mnist", "fashion-mnist", "cifar10", "svhn_test10k.npz"),
    "exactness": (CELLS,),
    "limits": (CELLS, "mnist", "fashion-mnist"),
    "fit": (CELLS,),
    "speed": (CELLS,),
    "localisation": (CELLS, "fashion-mnist", "cifar10"),
}
"""What is measured, and the files and built-in datasets that it needs."""


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.features", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=tuple(WHAT))
    parser.add_argument("--seeds", type=int, default=20, help="elpv: random splits")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--engine", choices=["auto", "openvino", "torch"], default="auto")
    parser.add_argument("--folder", type=Path, default=Path("var/features"), help="features and evidence")
    parser.add_argument("--quick", action="store_true", help="try the benchmark out with few images; no result")
    parser.add_argument("--again", action="store_true", help="elpv, limits: measure anew what has a result")
    parser.add_argument(
        "--only",
        nargs="+",
        help="elpv: parts, as baselines; false-alarms: cells, zoo or counts; limits: datasets",
    )
    parser.add_argument("--pixel-minutes", type=float, default=2.0, help="training of the pixels of cells, each split")
    parser.add_argument("--coreset", type=float, default=0.01, help="elpv: share of the patches that PatchCore keeps")
    parser.add_argument("--models", nargs="+", help="ood: models of the zoo")
    parser.add_argument("--train", type=int, default=10_000, help="ood, limits: images that features are fitted to")
    parser.add_argument("--images", type=int, default=10_000, help="ood: most images of each part")
    parser.add_argument("--baseline-images", type=int, default=2_000, help="ood: the same for other scores")
    parser.add_argument("--skip-baselines", action="store_true", help="ood: hybrid, features and pixels alone")
    parser.add_argument("--resplits", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=20, help="false-alarms: runs of each number of images")
    parser.add_argument("--rounds", type=int, default=5, help="fit, speed: repetitions")
    arguments = vars(parser.parse_args())
    what = arguments.pop("what")
    folder = data_dir(*WHAT[what])
    module = importlib.import_module(f"benchmarks.features.{what.replace('-', '_')}")
    arguments["only"] = arguments["only"] or getattr(module, "PARTS_OF_RUN", ())
    run = run_of({**arguments, "data_dir": folder})
    try:
        module.measure(run)
    except (BackboneMissing, PeerUnavailable) as error:
        end(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
