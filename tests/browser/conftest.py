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


class Watched:
    """Pages, with what they complained of and asked for."""

    def __init__(self, browser):
        self._browser, self._contexts = browser, []
        self.complaints, self.requests = [], []

    def page(self, width, scheme, **settings):
        context = self._browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **settings
        )
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        page.on("request", lambda request: self.requests.append(request.url))
        return page

    def close(self):
        for context in self._contexts:
            context.close()


@pytest.fixture
def watched(browser):
    pages = Watched(browser)
    yield pages
    pages.close()
