"""Headless Chromium, where there is one, and ways to use the page with it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

VARIABLE = "MINDFORMERS_QWENVL_BROWSER"  # the program, where it is not on PATH
NAMES = ("chromium", "chromium-browser", "google-chrome")

# Hands files to the page as `kind`, "drop" or "paste", would. Takes [kind, [[name, type, base64]], text].
GIVE = """([kind, files, address]) => {
  const transfer = new DataTransfer();
  for (const [name, type, data] of files) {
    const bytes = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type }));
  }
  if (address) transfer.setData("text/uri-list", address);
  const how = { bubbles: true, cancelable: true };
  const event = kind === "paste" ? new ClipboardEvent(kind, { ...how, clipboardData: transfer })
    : new DragEvent(kind, { ...how, dataTransfer: transfer });
  document.getElementById("question").dispatchEvent(event);
}"""


def program() -> str:
    """The browser's program; the test is skipped where there is none."""
    found = os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on PATH, and {VARIABLE} is not set")
    return found


def playwright() -> Any:
    """playwright's module; the test is skipped where it or Chromium is missing."""
    found = pytest.importorskip("playwright.sync_api", reason="the extra [browser] is not installed")
    program()
    return found


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser of playwright; the test is skipped where it or Chromium is missing."""
    with playwright().sync_playwright() as driver:
        # Without a sandbox: root has none, and the browser sees nothing but our own page.
        made = driver.chromium.launch(executable_path=program(), args=["--no-sandbox", "--disable-gpu"])
        try:
            yield made
        finally:
            made.close()
