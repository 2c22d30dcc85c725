"""Tests in a real browser: a package, so that browser and installation end with the last of them."""
