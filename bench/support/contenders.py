"""Who is measured: each makes S pictures of S streams a call, with the same networks, pictures and steps."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Protocol

import torch

from bench.support import upstream
from bench.support.random_models import TOKENS, Networks
from sdstream.diffusion.convolving.preparation import settle_frames
from sdstream.diffusion.convolving.switch import Wanted, convolutions
from sdstream.diffusion.convolving.tuning import are_convolutions_tuned, bring_into_force
from sdstream.diffusion.frame import Frame, Result
from sdstream.diffusion.fused.attention_trials import settle_attention, shapes_of_frame
from sdstream.diffusion.libraries import diffusers
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.networks import Networks as FrameNetworks
from sdstream.diffusion.planes import packed_from_rgb
from sdstream.diffusion.question import Question, Subject
from sdstream.diffusion.runners import Runner, make_runner
from sdstream.diffusion.schedule import Schedule
from sdstream.diffusion.state import Conditioning, Memory, make_knobs, make_memory, stack

NOISE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SEED = 2


class Contender(Protocol):
    """Somebody to be measured."""

    name: str

    def run(self, images: torch.Tensor) -> torch.Tensor:
        """A picture of each stream, [S, 3, H, W] of 0 to 1 on the device; gives S finished pictures."""
        ...


class Work:
    """What all of them are asked for."""

    def __init__(
        self,
        networks: Networks,
        size: int,
        steps: Sequence[int],
        streams: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.networks = networks
        self.size = size
        self.steps = list(steps)
        self.streams = streams
        self.device = device
        self.dtype = dtype
        generator = torch.Generator().manual_seed(SEED)

        def noise(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        self.tokens = noise(TOKENS, networks.text_width).to(device, dtype)
        self.pooled = noise(1280 if networks.is_xl else 0).to(device, dtype)
        self.images = torch.rand(8, streams, 3, size, size, generator=generator).to(device)
        self._planes = {images.data_ptr(): packed_from_rgb(images) for images in self.images}

    @property
    def latent_size(self) -> int:
        return self.size // 8

    def planes_of(self, images: torch.Tensor) -> torch.Tensor:
        """One of `images` as cameras send it: packed I420, uint8 [S, 3H/2, W]."""
        return self._planes[images.data_ptr()]


class Ours:
    """This project's frame, in a table of S streams as the worker runs it; with `prepared` False what its knobs alone
    lead to is computed in every frame. Convolutions are torch's unless they are wanted `tuned`. `served`, as on a GPU
    by default, bytes of planes go in and come out, which is more than the others are asked for."""

    def __init__(
        self,
        work: Work,
        name: str,
        networks: FrameNetworks,
        *,
        prepared: bool = True,
        tuned: Wanted | None = None,
        served: bool | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self._wanted = tuned or Wanted()
        self.unet: torch.nn.Module = getattr(networks, "unet", work.networks.unet)
        self._work = work
        self._served = work.device.type == "cuda" if served is None else served
        frame = Frame(networks, slots=len(work.steps), guidance="self", whole=self._served)
        self._frame = frame
        self.runner: Runner = make_runner(frame, work.device, **options)
        schedule = Schedule.from_config(NOISE)
        side = work.latent_size
        text = Conditioning(work.tokens, work.pooled)
        sizes = [work.size, work.size, 0, 0, work.size, work.size]
        noise = torch.randn(len(work.steps), 4, side, side, generator=torch.Generator().manual_seed(SEED))
        knobs = make_knobs(
            schedule.tables(work.steps),
            noise.to(work.device),
            text,
            text,
            guidance=1.0,
            time_ids=torch.tensor(sizes).float() if work.networks.is_xl else None,
        )
        if work.device.type == "cuda":
            shapes = shapes_of_frame(frame, self.given(work.images[0])[:1], knobs)
            settle_attention(shapes, work.images.device, [work.streams])
        with convolutions(self._wanted):
            if work.device.type == "cuda" and are_convolutions_tuned():
                settle_frames(frame, self.given(work.images[0])[:1], knobs, [work.streams])
                bring_into_force()
        self._knobs = stack([knobs] * work.streams)
        if prepared:
            self._knobs = self.runner.complete(self._knobs)
        self.memory = make_memory(self._knobs)
        self._rows = list(range(work.streams))

    def run(self, images: torch.Tensor) -> torch.Tensor:
        with convolutions(self._wanted):
            return self.runner.run_rows(self.given(images), self._knobs, self.memory, self._rows).image

    def step(self, given: torch.Tensor, memory: Memory) -> Result:
        """One frame as it is, of all streams, for who captures it by himself."""
        return self._frame(given, self._knobs, memory)

    def given(self, images: torch.Tensor) -> torch.Tensor:
        """What the frame is given of `images`."""
        return self._work.planes_of(images) if self._served else images


class BareModules:
    """The networks with nothing between them: what any frame must take at least when it runs them as they are."""

    name = "bare modules"

    def __init__(self, work: Work) -> None:
        self._networks = EagerNetworks(work.networks.unet, work.networks.vae)
        rows = work.streams * len(work.steps)
        side = work.latent_size
        sizes = torch.tensor([work.size, work.size, 0, 0, work.size, work.size])
        subject = Subject(
            torch.full((rows,), 399, device=work.device),
            work.tokens.expand(rows, -1, -1),
            work.pooled.expand(rows, -1) if work.networks.is_xl else None,
            sizes.to(work.device, work.dtype).expand(rows, -1) if work.networks.is_xl else None,
        )
        self._question = Question(torch.randn(rows, 4, side, side).to(work.device, work.dtype), subject)
        self._streams = work.streams

    def run(self, images: torch.Tensor) -> torch.Tensor:
        networks = self._networks
        networks.encode(images.to(networks.vae_dtype))
        answer = networks.predict(self._question)
        return networks.decode(answer[: self._streams])


class InstantNetworks(FrameNetworks):
    """Answers at once with tensors that lie ready: what a frame takes with them is its own doing."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        side, rows = work.latent_size, work.streams * len(work.steps)
        self.dtype = self.vae_dtype = work.dtype
        self.scaling_factor = 0.18215
        self.is_xl = work.networks.is_xl
        self._latent = torch.randn(work.streams, 4, side, side).to(work.device, work.dtype)
        self._answer = torch.randn(rows, 4, side, side).to(work.device, work.dtype)
        self._image = work.images[0].to(work.dtype) * 2 - 1

    def predict(self, question: Question) -> torch.Tensor:
        subject, rows = question.subject, len(question.latents)
        assert rows == len(subject.texts) == len(subject.timesteps) <= len(self._answer)
        return self._answer[:rows]

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return self._latent[: len(image)]

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        return self._image[: len(latent)]


class Upstream:
    """PyPI's StreamDiffusion, one pipeline for each stream, as it has no other way."""

    name = "StreamDiffusion 0.1.1"

    def __init__(self, work: Work, made: Callable[..., Any]) -> None:
        if work.networks.is_xl:
            raise upstream.Absent("StreamDiffusion 0.1.1 knows no SDXL")

        def encode_prompt(**asked: Any) -> tuple[torch.Tensor, torch.Tensor]:
            return work.tokens[None], work.tokens[None]

        pipe = SimpleNamespace(
            device=work.device,
            vae_scale_factor=8,
            scheduler=diffusers.LCMScheduler(**NOISE),
            text_encoder=None,
            unet=work.networks.unet,
            vae=work.networks.vae,
            encode_prompt=encode_prompt,
        )
        self._streams = [
            made(pipe, work.steps, torch_dtype=work.dtype, width=work.size, height=work.size, cfg_type="self")
            for _ in range(work.streams)
        ]
        for stream in self._streams:
            stream.prepare("", guidance_scale=1.0, generator=torch.Generator(), seed=SEED)

    def run(self, images: torch.Tensor) -> torch.Tensor:
        pairs = zip(self._streams, images.split(1), strict=True)
        return torch.cat([stream(image) for stream, image in pairs])


class ImageToImage:
    """diffusers' own pipeline from picture to picture: S pictures in a batch, the steps of each one after another."""

    name = "diffusers"

    def __init__(self, work: Work) -> None:
        unet, vae = work.networks.unet, work.networks.vae
        scheduler = diffusers.EulerDiscreteScheduler(**NOISE, timestep_spacing="trailing")
        parts: dict[str, Any] = {"unet": unet, "vae": vae, "scheduler": scheduler}
        parts |= {"text_encoder": None, "tokenizer": None, "feature_extractor": None}
        if work.networks.is_xl:
            xl = {"text_encoder_2": None, "tokenizer_2": None, "add_watermarker": False}
            self._pipe: Any = diffusers.StableDiffusionXLImg2ImgPipeline(**parts, **xl)
        else:
            self._pipe = diffusers.StableDiffusionImg2ImgPipeline(
                **parts, safety_checker=None, requires_safety_checker=False
            )
        self._pipe.set_progress_bar_config(disable=True)
        self._asked: dict[str, Any] = {
            "prompt_embeds": work.tokens.expand(work.streams, -1, -1),
            "num_inference_steps": 2 * len(work.steps),
            "strength": 0.5,  # so half of the steps are taken
            "guidance_scale": 1.0,
            "output_type": "pt",
        }
        if work.networks.is_xl:
            self._asked["pooled_prompt_embeds"] = work.pooled.expand(work.streams, -1)
        self._dtype = work.dtype

    def run(self, images: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self._pipe(image=images.to(self._dtype), **self._asked).images
        return made


__all__ = ["BareModules", "Contender", "ImageToImage", "InstantNetworks", "Ours", "Upstream", "Work"]
