"""Chromium, as the tests of pages start it."""

import os
import shutil

import pytest

REQUIRED = "BROWSER_REQUIRED" in os.environ  # `make test-browser` does not pass by skipping
FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


def find_browser():
    named = os.environ.get("BROWSER_PATH")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return named or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module")
def browser():
    if not REQUIRED:
        pytest.importorskip("playwright", reason="playwright is not installed: make test-browser")
    from playwright.sync_api import sync_playwright

    executable = find_browser()
    if executable is None:
        (pytest.fail if REQUIRED else pytest.skip)("there is no Chromium: make test-browser")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=FAKE_CAMERA)
        yield started
        started.close()
