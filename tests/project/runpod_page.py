"""Writes the tables of settings in docs/runpod.md and docs/serverless.md: python -m tests.project.runpod_page"""

from collections.abc import Iterable
from pathlib import Path

from sdstream.commands.flags import default_text, variable_name
from sdstream.job_settings import JobSettings
from sdstream.settings import Settings
from sdstream.turn_settings import TurnSettings

BEGIN = "<!-- written by python -m tests.project.runpod_page -->\n"
END = "<!-- end -->\n"
NAMES = ("host", "port", "health_port", "public_url", "data_dir", "api_keys", "webrtc_ice_servers", "video_bitrate")
PAGES: dict[str, tuple[str, ...]] = {
    "docs/runpod.md": (*NAMES, *TurnSettings.model_fields),
    "docs/serverless.md": tuple(JobSettings.model_fields),
}
"""Each page and the settings in its table."""


def table(names: Iterable[str]) -> str:
    """The rows, between the two marks."""
    rows = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name in names:
        field = Settings.model_fields[name]
        default = default_text(field)
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{variable_name(name)}` | {f'`{default}`' if default else ''} | {meaning} |")
    return "\n".join(rows) + "\n"


def written(name: str, page: str) -> str:
    """`page` with the table of today."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, "the page has lost its marks"
    assert end, "the page has lost its marks"
    return f"{before}{BEGIN}\n{table(PAGES[name])}\n{END}{after}"


if __name__ == "__main__":
    for name in PAGES:
        file = Path(name)
        file.write_text(written(name, file.read_text("utf-8")), "utf-8")
