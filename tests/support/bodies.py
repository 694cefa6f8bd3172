"""Parameters that several tests send."""

import base64
import io

from PIL import Image

SDXL = {"model_id": "stabilityai/sdxl-turbo", "skip_diffusion": True}
CANNY = {
    "model_id": "xinsir/controlnet-canny-sdxl-1.0",
    "conditioning_scale": 0.4,
    "preprocessor": "canny",
    "enabled": True,
}
DEPTH = {
    "model_id": "xinsir/controlnet-depth-sdxl-1.0",
    "conditioning_scale": 0.2,
    "preprocessor": "depth_tensorrt",
    "enabled": True,
}
TILE = {
    "model_id": "xinsir/controlnet-tile-sdxl-1.0",
    "conditioning_scale": 0.1,
    "preprocessor": "feedback",
    "enabled": True,
}


def data_uri(colour: str = "red", length: int | None = None) -> str:
    """A picture as data URI; `length` leaves only its first bytes."""
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(picture, "PNG")
    return f"data:image/png;base64,{base64.b64encode(picture.getvalue()[:length]).decode()}"
