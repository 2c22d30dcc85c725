"""Feature models, measured: ``SNF_DATA_DIR=... python -m benchmarks.features WHAT``.

WHAT is

- false-alarms: false alarms, and what is found, by the number of good images;
- limits: the smallest injected defects that pixels, features and both find.

Results go to ``benchmarks/results/features_<what>.json`` and ``.md``. Features and evidence are kept in ``--folder``.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import torch

from benchmarks.common import cores, parser_of
from benchmarks.features.common import FeatureRun
from benchmarks.needs import data_dir, end
from snf_models.errors import BackboneMissing

CELLS = "elpv64.npz"
WHAT = {
    "false-alarms": (CELLS, "fashion-mnist"),
    "limits": (CELLS, "mnist", "fashion-mnist"),
}
"""What is measured, and the files and built-in datasets that it needs."""


def main() -> None:
    parser = parser_of("features", __doc__)
    parser.add_argument("what", choices=tuple(WHAT))
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--engine", choices=["auto", "openvino", "torch"], default="auto")
    parser.add_argument("--folder", type=Path, default=Path("var/features"), help="features and evidence")
    parser.add_argument("--quick", action="store_true", help="try the benchmark out with few images; no result")
    parser.add_argument("--pixel-minutes", type=float, default=2.0, help="limits: training of the pixels of cells")
    parser.add_argument("--train", type=int, default=10_000, help="limits: images that features are fitted to")
    parser.add_argument("--repetitions", type=int, default=20, help="false-alarms: runs of each number of images")
    extras = vars(parser.parse_args())
    what = extras.pop("what")
    own = {name: extras.pop(name) for name in ("folder", "threads", "engine", "quick")}
    folder = data_dir(*WHAT[what])
    # For this process, in which torch is loaded already, and for those that it starts.
    torch.set_num_threads(own["threads"])
    os.environ["OMP_NUM_THREADS"] = str(own["threads"])
    module = importlib.import_module(f"benchmarks.features.{what.replace('-', '_')}")
    try:
        module.measure(FeatureRun(data_dir=folder, extras=extras, **own))
    except BackboneMissing as error:
        end(str(error))


if __name__ == "__main__":
    main()
