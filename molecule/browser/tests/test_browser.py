"""pgAdmin as somebody at a browser meets it: no login, no master password, no password prompt."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright
from stack import BESIDE, EPHEMERAL, NAME, PORTS, Stack, eventually

URL = f"http://localhost:{PORTS['pgadmin']}"
CONTAINER = f"{NAME}_chromium"
# Kept after the run, for the next one: it takes half a minute and 200 MB to make.
IMAGE = "dev-stack/chromium:test"
LIMIT = 240_000  # ms; pgAdmin's page alone is 10 MB of scripts

# Notes each dialog and password field that is shown, even if only for a moment. The page has some
# that are hidden, in forms nobody opened.
WATCH = """
window.asked = [];
new MutationObserver(() => {
  for (const one of document.querySelectorAll("[role=dialog], input[type=password]"))
    if (!one.noted && one.checkVisibility()) {
      one.noted = true;
      window.asked.push(one.innerText || one.outerHTML);
    }
}).observe(document, {childList: true, subtree: true, attributes: true});
"""


def build(client: Any, tag: str, **source: Any) -> None:
    """Build an image on this machine's engine."""
    proxies = {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy") and v}
    arguments = proxies | source.pop("buildargs", {})
    steps = list(client.build(tag=tag, rm=True, decode=True, buildargs=arguments, **source))
    assert "error" not in steps[-1], "".join(str(step.get("stream", step)) for step in steps)


@pytest.fixture(scope="module")
def chromium(stack: Stack) -> Iterator[Browser]:
    """One person's browser, through all that happens to the stack; it keeps its cookies."""
    client = stack.client
    # Chromium comes from Debian's packages, on the images' own base where that was built.
    bases = [one for one in client.images(name="dev-stack/debian") if one["RepoTags"]]
    base = max(bases, key=lambda one: one["Created"])["RepoTags"][0] if bases else None
    folder = Path(__file__).parent.parent / "chromium"
    build(client, IMAGE, path=str(folder), buildargs={"BASE_IMAGE": base} if base else {})
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    # The sandbox would need rights of its own; it is the container here. It shares the machine's
    # network, and so reaches the published port under the name that people type.
    container = client.create_container(
        IMAGE,
        [
            "chromium-headless-shell",
            "--no-sandbox",
            "--disable-gpu",
            f"--remote-debugging-port={port}",
            "--user-data-dir=/tmp/profile",
            "--window-size=1400,900",
        ],
        name=CONTAINER,
        labels=BESIDE,
        host_config=client.create_host_config(
            network_mode="host",
            shm_size="512m",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
        ),
    )
    client.start(container)
    try:
        address = f"http://127.0.0.1:{port}"
        eventually(lambda: httpx.get(f"{address}/json/version").status_code == 200)
        with sync_playwright() as playwright:
            yield playwright.chromium.connect_over_cdp(address)
    finally:
        client.remove_container(container, force=True)


# After half a minute pgAdmin saves what a window shows, and opens the next one so: after a restart
# with a server that is open and empty, after an upgrade with a query tool for a database of another
# number. That is pgAdmin's own, and here each visit begins as a first one.
FORGET = """
import sqlite3
with sqlite3.connect("/var/lib/pgadmin/pgadmin4.db", timeout=60) as database:
    database.execute("DELETE FROM application_state")
    database.execute("DELETE FROM setting WHERE setting IN ('browser_tree_state', 'Browser/Layout')")
"""


@contextmanager
def visit(stack: Stack, browser: Browser, name: str) -> Iterator[Page]:
    """A new window with pgAdmin. Whatever fails, a screenshot of it is left."""
    stack.exec("pgadmin", "/venv/bin/python3", "-c", FORGET)
    page = browser.contexts[0].new_page()
    page.set_default_timeout(LIMIT)
    page.add_init_script(WATCH)
    try:
        page.goto(URL)
        yield page
    except BaseException as error:
        path = EPHEMERAL / f"browser-{name}.png"
        page.screenshot(path=path)
        error.add_note(f"What the browser showed: {path}")
        raise
    finally:
        page.close()


def node(page: Page, name: str) -> Locator:
    """A line of the object explorer."""
    name_alone = page.locator(".file-name").get_by_text(name, exact=True)
    return page.locator(".file-entry").filter(has=name_alone)


def show(page: Page, *names: str) -> None:
    """Open the object explorer from the first of these lines down to the last."""
    tries = 0

    def is_shown() -> bool:
        nonlocal tries
        if node(page, names[-1]).is_visible() or asked(page):
            return True
        tries += 1
        if tries % 20 == 0:
            # A line opened while pgAdmin was opening it by itself may stay empty; see
            # docs/troubleshooting.md.
            page.reload()
        for name, child in pairwise(names):
            if not node(page, child).is_visible():
                closed = node(page, name).locator(".directory-toggle:not(.open)")
                if closed.count():
                    closed.click(timeout=1000)
                break
        page.wait_for_timeout(1000)
        return False

    eventually(is_shown, LIMIT / 1000)


def asked(page: Page) -> list[str]:
    """What the page has asked for."""
    return [text for frame in page.frames for text in frame.evaluate("window.asked || []")]


def query(page: Page) -> None:
    """Open the query tool on the database, run something, and see the rows."""
    show(page, "Servers", NAME, "Databases", "hyvve")
    node(page, "hyvve").locator(".file-name").click()
    tool = page.get_by_role("tab", name=f"hyvve/postgres@{NAME}")

    def is_open() -> bool:
        if not tool.count():
            # By key: the button has another label while the mouse is over it.
            page.keyboard.press("Alt+Shift+Q")
            page.wait_for_timeout(3000)
        return tool.count() > 0

    eventually(is_open, LIMIT / 1000)
    number = secrets.randbelow(10**6)
    # The tool is a page within the page.
    inside = page.frame_locator("iframe:visible")
    inside.locator(".cm-content[contenteditable=true]").first.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(f"SELECT n, n * {number} AS product FROM generate_series(1, 3) AS n")
    cells = [inside.get_by_role("gridcell", name=str(n * number), exact=True) for n in (1, 2, 3)]

    def has_run() -> bool:
        # pgAdmin forgets the key while it connects, and while the query runs.
        page.keyboard.press("F5")
        page.wait_for_timeout(3000)
        return all(cell.is_visible() for cell in cells)

    eventually(has_run, LIMIT / 1000)
    assert asked(page) == []
    assert page.url == f"{URL}/browser/"


def test_the_first_time(stack: Stack, chromium: Browser) -> None:
    with visit(stack, chromium, "first") as page:
        query(page)


def test_after_rotate(stack: Stack, chromium: Browser) -> None:
    before = stack.secrets()["postgres_password"]
    rotated = stack.play("rotate")
    assert rotated.returncode == 0, rotated.stdout + rotated.stderr
    assert stack.secrets()["postgres_password"] != before
    with visit(stack, chromium, "rotate") as page:
        query(page)


def test_after_down_and_up(stack: Stack, chromium: Browser) -> None:
    down = stack.play("down")
    assert down.returncode == 0, down.stderr
    stack.converge()
    with visit(stack, chromium, "up") as page:
        query(page)


def test_after_an_upgrade(stack: Stack, chromium: Browser) -> None:
    upgraded = stack.play("upgrade", "-e", "upgrade_to=18")
    assert upgraded.returncode == 0, upgraded.stdout + upgraded.stderr
    with visit(stack, chromium, "upgrade") as page:
        query(page)
    assert stack.sql("SHOW server_version").startswith("18")
