"""The Chromium of this machine, with a fake camera and without its own connections."""

import shutil

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)
NO_CHROMIUM = "Chromium is not installed"
"""Why tests of a page are skipped where `chromium` is None."""


def chromium() -> str | None:
    """Where Chromium is, under any of its names; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)
