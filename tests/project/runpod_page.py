"""Writes the table of settings in docs/runpod.md from `Settings`: python -m tests.project.runpod_page docs/runpod.md"""

import sys
from pathlib import Path

from sdstream.commands.flags import default_text, variable_name
from sdstream.settings import Settings
from sdstream.turn_settings import TurnSettings

BEGIN = "<!-- written by python -m tests.project.runpod_page docs/runpod.md -->\n"
END = "<!-- end -->\n"
NAMES = ("host", "port", "health_port", "public_url", "data_dir", "api_keys", "webrtc_ice_servers", "video_bitrate")


def table() -> str:
    """The rows, between the two marks."""
    rows = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name in (*NAMES, *TurnSettings.model_fields):
        field = Settings.model_fields[name]
        default = default_text(field)
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{variable_name(name)}` | {f'`{default}`' if default else ''} | {meaning} |")
    return "\n".join(rows) + "\n"


def written(page: str) -> str:
    """`page` with the table of today."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, "the page has lost its marks"
    assert end, "the page has lost its marks"
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(written(file.read_text("utf-8")), "utf-8")
