"""A real browser for the tests of pages: Chromium through Playwright, without a window and without a network.

`python tests/browser.py` finds Chromium or installs it from the system's packages where it may (`make test` does so);
without one the tests that need it skip, unless KINESIM_BROWSER=required.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


def find_chromium() -> str | None:
    """The program that KINESIM_CHROMIUM names, or the first on the path that is one."""
    given = os.environ.get("KINESIM_CHROMIUM")
    return shutil.which(given) if given else next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Visit:
    """An open page and what went wrong on it.

    Attributes
    ----------
    page : Playwright's. errors : messages of the console at level error or warning, and exceptions that nobody caught.
    foreign : addresses outside of `allow` that the page asked for; they were refused.
    """

    page: Any
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


Visitor = Callable[..., Visit]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Playwright's browser, one a session; each `visit` has a profile of its own."""
    program = find_chromium()
    if program is None:
        _without(f"none of {', '.join(NAMES)} is installed")
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        except Error as error:  # such as a stub that asks for another way of installing it
            _without(f"{program} does not start: {error.message.splitlines()[0]}")
        yield started
        started.close()


def _without(why: str) -> NoReturn:
    message = f"no browser to test with: {why}"
    if os.environ.get("KINESIM_BROWSER") == "required":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def visit(browser: Any) -> Iterator[Visitor]:
    """`visit(address, ...)` is `open_visit(browser, address, ...)`, closed at the end of the test."""
    opened: list[Visit] = []

    def call(address: str, **options: Any) -> Visit:
        opened.append(open_visit(browser, address, **options))
        return opened[-1]

    yield call
    for one in opened:
        one.page.context.close()


def open_visit(browser: Any, address: str, *, allow: tuple[str, ...] = ("file:",), **options: Any) -> Visit:
    """Open a page in a fresh profile; options are those of `browser.new_context`, such as `color_scheme="dark"` or
    `viewport={"width": 400, "height": 800}`.

    `allow` are the beginnings of the addresses that the page may ask for; `blob:` and `data:` are in the page itself.
    """
    context = browser.new_context(**options)
    page = context.new_page()
    found = Visit(page)

    def judge(route: Any) -> None:
        if route.request.url.startswith(allow):
            route.continue_()
        else:
            found.foreign.append(route.request.url)
            route.abort()

    def judge_socket(route: Any) -> None:
        if route.url.startswith(allow):
            route.connect_to_server()
        else:
            found.foreign.append(route.url)
            route.close()

    context.route("**/*", judge)
    context.route_web_socket("**/*", judge_socket)
    page.on("console", lambda m: found.errors.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    page.goto(address)
    return found


def install() -> str | None:
    """Chromium by apt-get, as root or where sudo asks for no password; None if that is not to be had."""
    tool, sudo = shutil.which("apt-get"), shutil.which("sudo")
    if tool is None:
        return None
    words = [tool]
    if os.geteuid() != 0:
        if sudo is None or subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode != 0:
            return None
        words = [sudo, "-n", "env", "DEBIAN_FRONTEND=noninteractive", tool]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # A list that cannot be brought up to date may still do; fonts, since a page without letters has other widths.
    for step in (["update"], ["install", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core"]):
        done = subprocess.run([*words, "-qq", *step], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"Chromium was not installed: {(done.stderr or done.stdout).strip()[-300:]}")
        return None
    return find_chromium()


if __name__ == "__main__":
    program = find_chromium() or install()
    print(f"browser tests: {program or 'none; they will be skipped'}")
    sys.exit(0)
