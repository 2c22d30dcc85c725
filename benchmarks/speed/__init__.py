"""Our scorer and its peers side by side, paired in one run: ``python -m benchmarks.speed``."""
