"""Places in this checkout that tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
DIGITS = sorted((DATA / "mnist").glob("*.png"))
