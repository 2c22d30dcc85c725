"""Tests in a real browser: a package, so that browser and installation end with the last of them.

While Playwright runs, an event loop runs in the thread of the tests, and `asyncio.run` fails in others.
"""
