"""Tests in a real browser: a package, so that its tests share one browser and tests of other folders have none."""
