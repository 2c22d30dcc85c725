"""Large images: mosaics of solar cells scored tile by tile, with small defects, over HTTP and within bounded memory.

Work that is interrupted goes on where it was: the model and the evidence of each mosaic are kept in ``--folder``.
``--only`` takes some of the parts: fit, evidence, service. ``--first 1000`` takes mosaics that nothing was chosen on:
the weights of an image's statistics were chosen on the mosaics from number 0 on.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console

from benchmarks.elpv import cells
from benchmarks.features.common import FeatureRun
from benchmarks.features.mosaic_images import DEFECT, DEFECT_SIDE, Mosaics
from benchmarks.installation import resident_bytes
from benchmarks.speed.http_servers import start
from benchmarks.speed.memory import forget_peak, peak_mib
from benchmarks.speed.peers import QUIET, ROOT
from snf_models.anomaly.calibrate import ReferenceEvidence, fit_split
from snf_models.anomaly.exchangeability import false_alarm_interval
from snf_models.artifacts.files import WEIGHTS
from snf_models.datasets.dataset import Dataset
from snf_models.disk import sha256_file, write_atomically
from snf_models.features.backbones import DEFAULT_FOLDER
from snf_models.pipeline.presets import find_preset
from snf_models.pipeline.run import train
from snf_models.registry.registry import Registry
from snf_models.scorer import Scorer
from snf_runtime.anomaly.conformal import p_values
from snf_runtime.anomaly.verdict_reason import VerdictReason
from snf_runtime.images.codec import encode_png
from snf_runtime.images.preprocessing import Preprocessing
from snf_runtime.scoring.evidence import Evidence, FeatureEvidence
from snf_runtime.scoring.feature_density import FeatureDensity
from tests.end_to_end.support.service import environment

NAME = "mosaics"
PARTS_OF_RUN = ("fit", "evidence", "service")
SIDE, SMALL_SIDE, LARGE_SIDE = 4096, 1024, 10_000
FITTED, STATISTICS, CALIBRATION, TESTED, FAULTY = 50, 50, 100, 50, 50
"""Mosaics that the flow is fitted to, that statistics are fitted to, that are ranked among, tested, and faulty."""
FEW = (12, 8, 20, 10, 10)
"""The same where the benchmark is only tried out."""
ALPHAS = (0.01, 0.05)
TARGETS = {"found": 0.9, "seconds": 5.0, "mib_above_idle": 0.8 * 1024, "mib_large": 1.5 * 1024}
MODEL = "mosaics"


def measure(run: FeatureRun) -> None:
    """Measure the parts that are asked for, and write after each."""
    work = MosaicRun(run)
    if "fit" in run.extras["only"]:
        work.artifact()
    if "evidence" in run.extras["only"]:
        work.note("detection", work.detection())
    if "service" in run.extras["only"]:
        work.note("service", work.service())
    print(report(work.document))


class MosaicRun:
    """The parts of the benchmark, which share mosaics, a model and a folder.

    Args:
        run: The settings.
    """

    def __init__(self, run: FeatureRun) -> None:
        self.run = run
        self.side = run.some(SIDE, SMALL_SIDE)
        self.tile = run.extras["tile"]
        self.pool, _ = cells(run.data_dir / "elpv64.npz")
        first = run.extras["first"]
        self.name = f"{NAME}_from_{first}" if first else NAME
        counts = FEW if run.quick else (FITTED, STATISTICS, CALIBRATION, TESTED, FAULTY)
        ends = np.cumsum((first, *counts)).tolist()
        self.fitted, self.statistics, self.calibration, self.tested, self.faulty = (
            Mosaics(self.pool, self.side, range(begin, end)) for begin, end in itertools.pairwise(ends)
        )
        self.faulty = Mosaics(self.pool, self.side, self.faulty.numbers, faulty=True)
        self.folder = run.folder / f"mosaics-{self.side}-{self.tile}-{len(self.fitted)}-{first}"
        self.console = Console(stderr=True)
        about = {"first": first, "side": self.side, "tile": self.tile, "mosaics": dict(zip(PARTS, counts, strict=True))}
        self.document: dict[str, Any] = {**run.known(self.name), **about, "defect": DEFECT}

    def note(self, part: str, found: dict[str, Any]) -> None:
        """Add the results of a part to the document and write it."""
        self.document[part] = found
        self.run.write(self.name, self.document, report(self.document))

    def artifact(self) -> Path:
        """Return the artifact of a model that was fitted to mosaics, by ``snf train`` in all but its images."""
        preset, began = find_preset("snf-features"), time.monotonic()
        config = preset.config({"fit": "tiles", "image_size": self.tile})
        few = min(len(self.statistics), 20)
        # The calibration of the benchmark is made from the evidence of more mosaics.
        parts = self.statistics[:few], self.calibration[:few], self.calibration[:0]
        preprocessing = Preprocessing(channels=1, height=self.tile, width=self.tile, fit="tiles")
        dataset = Dataset("mosaics", self.fitted, *parts, digest=f"mosaics-{self.side}", preprocessing=preprocessing)
        shown = 0.0

        def observe(event: dict[str, Any]) -> None:
            nonlocal shown
            if event["event"] == "scoring" and time.monotonic() > shown + 10:
                shown = time.monotonic()
                done, images = event["done"], event["images"]
                self.console.print(f"{event['part']}: {done:,} of {images:,}, {shown - began:.0f} s")

        known = (self.folder / "artifact").exists()
        path = train(
            dataset,
            preset,
            config,
            self.folder,
            observe=observe,
            should_stop=lambda: False,
            threads=self.run.threads,
            engine=self.run.options,
        )
        if not known:
            self.document["fit_seconds"] = time.monotonic() - began
        return path

    def detection(self) -> dict[str, Any]:
        """Return how many defects are found and where, and how often normal mosaics are flagged."""
        scorer = Scorer.load(self.artifact(), options=self.run.options)
        sets = {
            name: self.evidence(scorer, name, mosaics)
            for name, mosaics in (
                ("statistics", self.statistics),
                ("calibration", self.calibration),
                ("tested", self.tested),
                ("faulty", self.faulty),
            )
        }
        evidence = {name: found for name, (found, _) in sets.items()}
        references = [_reference(evidence[name]) for name in ("statistics", "calibration")]
        calibration = fit_split(references[0], references[1], (), None)
        p = {name: calibration.p_values(evidence[name]) for name in ("tested", "faulty")}
        verdicts = calibration.judge(evidence["faulty"], (), (self.tile, self.tile))
        hits = [
            any(_touches(reason, self.faulty.defect(number)) for reason in verdict.reasons)
            for number, verdict in zip(self.faulty.numbers, verdicts, strict=True)
        ]
        seconds = [value for _, times in sets.values() for value in times]
        found: dict[str, Any] = {
            "found": {f"{alpha:.0%}": float((p["faulty"] <= alpha).mean()) for alpha in ALPHAS},
            "with box on the defect": float(np.mean(hits)),
            "false alarms": {f"{alpha:.0%}": float((p["tested"] <= alpha).mean()) for alpha in ALPHAS},
            "resplits": self.resplits(evidence),
            "tiles": len(_density(scorer).plan(self.tested[0])),
        }
        if seconds:
            found["seconds"] = {"median": statistics.median(seconds), "most": max(seconds), "images": len(seconds)}
        return found

    def evidence(self, scorer: Scorer, name: str, mosaics: Mosaics) -> tuple[Evidence, list[float]]:
        """Return the evidence of mosaics, and the seconds of those whose evidence no earlier run has made."""
        folder = self.folder / "evidence"
        digest = sha256_file(self.folder / "artifact" / WEIGHTS)[:12]
        parts, seconds = [], []
        for place, number in enumerate(mosaics.numbers):
            path = folder / f"{digest}-{name}-{number}.npz"
            if not path.exists():
                image, began = mosaics[place], time.perf_counter()
                [score] = scorer.score([image])
                seconds.append(time.perf_counter() - began)
                assert score.evidence is not None
                assert score.evidence.features is not None
                features = score.evidence.features
                folder.mkdir(parents=True, exist_ok=True)
                _save(path, places=features.places, pooled=features.pooled)
                self.console.print(f"{name} {place + 1} of {len(mosaics)}: {seconds[-1]:.1f} s")
            with np.load(path, allow_pickle=False) as arrays:
                plan = _density(scorer).plan(np.empty((1, self.side, self.side), dtype=np.uint8))
                parts.append(FeatureEvidence(arrays["places"], arrays["pooled"], (plan,)))
        joined, nothing = FeatureEvidence.join(parts), np.zeros((len(parts), 0))
        return Evidence(nothing, nothing, features=joined), seconds

    def resplits(self, evidence: dict[str, Evidence]) -> dict[str, Any]:
        """Return how often the share of false alarms leaves its interval over random resplits of normal mosaics."""
        normal = Evidence.join([evidence["calibration"], evidence["tested"]])
        statistic = fit_split(_reference(evidence["statistics"]), _reference(normal), (), None).folds[0].statistic
        values, ranked = statistic(normal), len(self.calibration)
        random, shares = np.random.default_rng(0), {alpha: list[float]() for alpha in ALPHAS}
        for _ in range(self.run.some(self.run.extras["resplits"], 20)):
            order = random.permutation(len(values))
            p = p_values([np.sort(values[order[:ranked]])], [values[order[ranked:]]])
            for alpha in ALPHAS:
                shares[alpha].append(float((p <= alpha).mean()))
        found = {}
        for alpha in ALPHAS:
            low, high = false_alarm_interval(ranked, len(values) - ranked, alpha)
            outside = [not low <= share <= high for share in shares[alpha]]
            mean = float(np.mean(shares[alpha]))
            found[f"{alpha:.0%}"] = {"interval": [low, high], "mean": mean, "outside": float(np.mean(outside))}
        return {"ranked": ranked, "tested": len(values) - ranked, "runs": len(outside), "alphas": found}

    def service(self) -> dict[str, Any]:
        """Return memory and seconds of a service, idle and while it scores one large image after the other."""
        artifact = self.artifact()
        with tempfile.TemporaryDirectory(prefix="snf-mosaics-") as name:
            home = Path(name)
            Registry(home / "registry").publish(artifact, MODEL, promote=True)
            own = environment(home, shipped=False, backbones=DEFAULT_FOLDER.resolve(), threads=self.run.threads)
            variables = own | QUIET | {"SNF_PORT": "{port}", "PYTHONPATH": str(ROOT)}
            variables |= {"SNF_RUNTIME_DIR": str(home / "run")}
            command = [sys.executable, "-m", "snf_app.server"]
            server = start("service", command, variables, home, f"/v1/models/{MODEL}/score")
            try:
                server.await_ready(encode_png(self.tested[0][:, : self.tile, : self.tile]))
                pid = server.process.pid
                idle = resident_bytes(pid) / 2**20
                found: dict[str, Any] = {"idle_mib": idle}
                with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=900, trust_env=False) as client:
                    for key, side in ((str(self.side), self.side), ("100 megapixels", self.run.some(LARGE_SIDE, 2500))):
                        count = -(-side // 64) * 64
                        image = Mosaics(self.pool, count, self.tested.numbers).make(self.tested.numbers[0])
                        body = encode_png(image[:, :side, :side])
                        forget_peak(pid)
                        began = time.perf_counter()
                        answer = client.post(server.path, content=body, headers={"Content-Type": "image/png"})
                        answer.raise_for_status()
                        found[key] = {
                            "pixels": side * side,
                            "file_mib": len(body) / 2**20,
                            "seconds": time.perf_counter() - began,
                            "peak_mib": peak_mib(pid),
                            "p_value": answer.json()["results"][0]["anomaly"]["p_value"],
                        }
                        self.console.print(key, found[key])
            finally:
                server.stop()
                shutil.rmtree(home / "run", ignore_errors=True)
        return found


PARTS = ("flow", "statistics", "calibration", "tested", "faulty")


def _density(scorer: Scorer) -> FeatureDensity:
    assert isinstance(scorer.density, FeatureDensity)
    return scorer.density


def _reference(evidence: Evidence) -> ReferenceEvidence:
    """Return evidence to fit a calibration to, without log-likelihoods and maps, which verdicts do not need."""
    return ReferenceEvidence(evidence, np.zeros(len(evidence)), None, None)


def _save(path: Path, **arrays: Any) -> None:
    with tempfile.TemporaryFile() as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
        file.seek(0)
        write_atomically(path, file.read())


def _touches(reason: VerdictReason, defect: tuple[int, int]) -> bool:
    if reason.box is None:
        return False
    left, top, right, bottom = reason.box
    return left < defect[1] + DEFECT_SIDE and right > defect[1] and top < defect[0] + DEFECT_SIDE and bottom > defect[0]


def report(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    side, counts = document["side"], document["mosaics"]
    lines = [
        "# Large images, scored tile by tile",
        "",
        f"Mosaics of {side}x{side} pixels from functional solar cells of 64x64, all drawn from one pool: "
        f"{counts['flow']} to fit the flow, {counts['statistics']} for statistics, {counts['calibration']} to rank "
        f"among, {counts['tested']} others, {counts['faulty']} with one defect. The first has "
        f"number {document['first']}. Tiles of {document['tile']} pixels.",
        "",
        f"The defect is {document['defect']}.",
        "",
        "| measured | found | target |",
        "|---|---|---|",
    ]
    detection = document.get("detection")
    if detection:
        for alpha, share in detection["found"].items():
            target = f"at least {TARGETS['found']:.0%}" if alpha == "1%" else ""
            lines.append(f"| mosaics with a defect found at {alpha} | {share:.0%} | {target} |")
        lines.append(f"| reasons with a box on the defect | {detection['with box on the defect']:.0%} | |")
        for alpha, row in detection["resplits"]["alphas"].items():
            low, high = row["interval"]
            lines.append(
                f"| false alarms an image at {alpha}, mean of {detection['resplits']['runs']:,} resplits | "
                f"{row['mean']:.2%}; {row['outside']:.1%} of the runs outside | {low:.1%} - {high:.1%} |"
            )
        if seconds := detection.get("seconds"):
            lines.append(
                f"| seconds an image, in process ({detection['tiles']} tiles) | median {seconds['median']:.2f}, most "
                f"{seconds['most']:.2f} | at most {TARGETS['seconds']:g} |"
            )
    service = document.get("service")
    if service:
        idle = service["idle_mib"]
        for key, target in ((str(side), TARGETS["mib_above_idle"]), ("100 megapixels", TARGETS["mib_large"])):
            row = service[key]
            limit = f"at most {target:.0f} MiB {'above idle' if key == str(side) else 'in all'}"
            lines.append(
                f"| {row['pixels'] / 1e6:.1f} megapixels over HTTP ({row['file_mib']:.0f} MiB as PNG) | "
                f"{row['seconds']:.1f} s, {row['peak_mib'] - idle:.0f} MiB above the idle service, "
                f"{row['peak_mib']:.0f} MiB in all | {limit} |"
            )
    return "\n".join(lines) + "\n"
