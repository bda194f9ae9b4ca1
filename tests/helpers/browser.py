"""The browser that tests look at pages with: the chromium of the system, offline and watched."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Page, Request, Route, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (Debian: apt-get install chromium)")


@contextmanager
def browser() -> Iterator[Browser]:
    """Yield a headless browser; root can run it only without its sandbox."""
    arguments = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        yield (started := playwright.chromium.launch(executable_path=CHROMIUM, args=arguments))
        started.close()


@dataclass
class Watched:
    """A page of the browser, and all that went on in it.

    ``requests``: every file or address asked for, also in vain; ``outside``: what would have left this machine.
    """

    page: Page
    messages: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def open(self, file: Path) -> None:
        """Open a file."""
        self.page.goto(file.resolve().as_uri())


def watch(browser: Browser, *, width: int = 1280, dark: bool = False, scripts: bool = True) -> Watched:
    """Return a new page; nothing that it asks for outside this machine's files is let through."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        java_script_enabled=scripts,
        reduced_motion="reduce",
    )
    found = Watched(context.new_page())

    def dismiss(dialog: Dialog) -> None:
        found.dialogs.append(dialog.message)
        dialog.dismiss()

    def through(route: Route) -> None:
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            found.outside.append(route.request.url)
            route.abort()

    def note(request: Request) -> None:
        found.requests.append(request.url)

    found.page.on("console", lambda message: found.messages.append(f"{message.type}: {message.text}"))
    found.page.on("pageerror", lambda error: found.messages.append(f"error: {error}"))
    found.page.on("dialog", dismiss)
    found.page.on("request", note)
    found.page.route("**/*", through)
    return found
