"""What a stream that diffuses runs on, loaded before its pipeline is made."""

from dataclasses import dataclass, field

from sdstream.diffusion.frame import Guidance
from sdstream.diffusion.loading.models import Model
from sdstream.params import StreamParams
from sdstream.worker.annotators.shelf import AnnotatorShelf
from sdstream.worker.conditions import Conditions
from sdstream.worker.loading.shelf import ModelUse, WantedModel


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a pipeline runs on, loaded before it is made."""

    model: Model
    shelf: AnnotatorShelf
    conditions: Conditions = field(default_factory=Conditions)
    source: str = ""
    wanted: WantedModel | None = None
    """What the shelf was asked for; None for a model that did not come from there."""
    use: ModelUse = field(default_factory=ModelUse)


def choose_guidance(params: StreamParams) -> Guidance:
    """Where the unconditional prediction comes from; the wire does not say.

    A negative prompt needs the network's own answer to it, once for each picture; that is one row more than N. Without
    one the residual does for nothing. All kinds keep the same memory, so this may change between two pictures.
    """
    return "initialize" if params.guidance_scale > 1 and params.negative_prompt.strip() else "self"


__all__ = ["Loaded", "choose_guidance"]
