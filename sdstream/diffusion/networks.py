"""The networks as a frame calls them: one class for each back end, and the plain twin over diffusers' own modules."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sdstream.diffusion.eight_bit.copies import eight_bit_layers, follow, note_of
from sdstream.diffusion.fused.joining import join
from sdstream.diffusion.libraries import diffusers
from sdstream.diffusion.prepared import Context, Shifts, answer, context_of, lay_out, shifts_of
from sdstream.diffusion.question import Prepared, Question, Subject


class Networks(nn.Module):
    """The UNet and the VAE of a model behind three calls, which only take and give tensors.

    A back end subclasses this, sets the attributes and answers the three calls: it neither looks at a value nor
    keeps anything from one call to the next, so that a frame made of it can be captured. All tensors are on one
    device. Weights that change in place (a LoRA) must show in the next call.
    """

    dtype: torch.dtype
    """What the UNet takes and gives."""
    vae_dtype: torch.dtype
    """What the VAE takes and gives."""
    scaling_factor: float
    """By which latents of the VAE are multiplied before noise is mixed in."""
    is_xl: bool
    """Whether a subject is to have `pooled` and `time_ids`, as SDXL's."""
    back_end: str = "torch"
    """What answers, as status names it, in lower case, such as `tensorrt`."""
    notes: tuple[str, ...] = ()
    """Why something faster that was asked for is not in force."""
    capturable: bool = True
    """Whether the calls may be recorded into a CUDA graph: all they do is launched on the current stream."""

    @property
    def bare(self) -> bool:
        """Whether `encode_bare` and `decode_bare` answer now."""
        return False

    @abstractmethod
    def predict(self, question: Question) -> torch.Tensor:
        """The UNet's answer, [B, 4, h, w] of `dtype`: noise or velocity, as the model has it.

        Raises `NotImplementedError` for what the back end was not made with.
        """
        raise NotImplementedError

    def prepare(self, subject: Subject) -> Prepared | None:
        """What `predict` makes of `subject` alone and can be given besides; None when this back end has no use for it.

        It is of the weights as they are: weights that change in place do not show in it.
        """
        return None

    def recall(self, question: Question, bank: torch.Tensor, fresh: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `predict`, with the self attentions looking at earlier pictures too.

        `bank` [B, pictures, length] holds their keys and values; rows that are `fresh`, bool [B], have none yet. Gives
        the keys and values of this call as well, [B, length].
        """
        raise NotImplementedError(f"the networks of {self.back_end} were made without attention to earlier pictures")

    @abstractmethod
    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """The latent of a picture, unscaled [S, 4, h, w], from [S, 3, H, W] of -1 to 1, both of `vae_dtype`."""
        raise NotImplementedError

    @abstractmethod
    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """The picture, [S, 3, H, W] of about -1 to 1, of an unscaled latent [S, 4, h, w], both of `vae_dtype`."""
        raise NotImplementedError

    def encode_bare(self, image: torch.Tensor) -> torch.Tensor:
        """As `encode`, from [S, 3, H, W] of 0 to 1: without what a VAE does with the values of a picture first."""
        raise NotImplementedError(f"the networks of {self.back_end} are not bare")

    def decode_bare(self, latent: torch.Tensor) -> torch.Tensor:
        """As `decode`, [S, 3, H, W] of about 0 to 1, of a latent held within 3 by three times the hyperbolic tangent of
        a third: without what a VAE does with values first and last."""
        raise NotImplementedError(f"the networks of {self.back_end} are not bare")


class EagerNetworks(Networks):
    """diffusers' own `UNet2DConditionModel` and `AutoencoderTiny` or `AutoencoderKL`, called as they are."""

    def __init__(self, unet: nn.Module, vae: nn.Module) -> None:
        super().__init__()
        join(unet)  # which may be a copy of one whose weights were joined
        follow(unet)
        if eight_bit_layers(unet):
            self.back_end = "torch+eight_bit"
        self.notes = (note,) if (note := note_of(unet)) else ()
        self.unet = unet
        self.vae = vae
        self.dtype = next(unet.parameters()).dtype
        self.vae_dtype = next(vae.parameters()).dtype
        vae_config: Any = vae.config
        unet_config: Any = unet.config
        self.scaling_factor = float(vae_config.scaling_factor)
        self.is_xl = unet_config.addition_embed_type == "text_time"
        self._is_small = isinstance(vae, diffusers.AutoencoderTiny)
        self._layout = lay_out(unet)
        self._image_layers: Sequence[tuple[nn.Module, nn.Module]] = ()

    @property
    def bare(self) -> bool:
        """See `Networks.bare`: of the small VAE whole pictures."""
        vae: Any = self.vae
        return self._is_small and not vae.use_slicing and not vae.use_tiling

    def predict(self, question: Question) -> torch.Tensor:
        """See `Networks.predict`. Image tokens need attention that knows of them, which diffusers' own does not."""
        latents, subject, control, strengths, prepared = question
        if subject.image_tokens is None:
            strengths = None
        elif not self._image_layers:
            raise NotImplementedError("these networks were made without an IP-Adapter")
        if prepared is not None and self._layout is not None:
            columns = self._layout.columns
            context = Context(prepared.context, columns, prepared.tokens, prepared.image_tokens, strengths)
            return answer(self.unet, latents, context, Shifts(prepared.shifts), control)
        extra = subject.added(self.is_xl)
        if control is not None:
            control = control.scaled()
            extra["down_block_additional_residuals"] = tuple(control.down)
            extra["mid_block_additional_residual"] = control.mid
        predicted: torch.Tensor = self.unet(latents, subject.timesteps, subject.texts, return_dict=False, **extra)[0]
        return predicted

    def prepare(self, subject: Subject) -> Prepared | None:
        """See `Networks.prepare`. Only blocks that were placed (`sdstream.diffusion.placing`) can be given it."""
        if self._layout is None:
            return None
        return Prepared(
            context_of(self._layout, subject, self._image_layers),
            shifts_of(self.unet, self._layout, subject, self.dtype),
            subject.texts.shape[1],
            0 if subject.image_tokens is None else subject.image_tokens.shape[1],
        )

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """See `Networks.encode`. Of the full VAE it is the mean: upstream draws anew each time, which flickers."""
        vae: Any = self.vae
        encoded = vae.encode(image, return_dict=False)[0]
        latent: torch.Tensor = encoded if isinstance(encoded, torch.Tensor) else encoded.mode()
        return latent

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        vae: Any = self.vae
        image: torch.Tensor = vae.decode(latent, return_dict=False)[0]
        return image

    def encode_bare(self, image: torch.Tensor) -> torch.Tensor:
        """See `Networks.encode_bare`."""
        vae: Any = self.vae
        latent: torch.Tensor = vae.encoder.layers(image)
        return latent

    def decode_bare(self, latent: torch.Tensor) -> torch.Tensor:
        """See `Networks.decode_bare`."""
        vae: Any = self.vae
        # One of this project's may go from end to end in a way of its own.
        image: torch.Tensor = getattr(vae.decoder, "between", vae.decoder.layers)(latent)
        return image


__all__ = ["EagerNetworks", "Networks"]
