"""The networks of the zoo: how each is built small, wide and narrow, and what it is given. Nothing of skd in here."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.zoo import networks

Example = torch.Tensor | tuple[Any, ...] | dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One network.

    Attributes
    ----------
    name : str
        Of the entry, its expected pairing and its row in the table.
    make : callable
        Given widths a network with random weights, always of the same class.
    full : sequence or mapping of int
        The teacher's widths.
    inputs : callable
        One batch of random data.
    package : str
        The library it is of; empty for a plain one.
    needs : str
        A further package that this network of the library wants.
    output : str
        The tap of what it is for, where it returns more than one tensor.
    unused : str
        A layer that it runs for nothing, as no output needs it; frozen, since it gets no gradient.
    ratio : float
        How many times smaller than the teacher's the compressed student's file has to be.
    refused : str
        What `compress` says where it can't, a regular expression; a student of half the width stands in.
    """

    name: str
    make: Callable[[Any], nn.Module]
    full: Sequence[int] | Mapping[str, int]
    inputs: Callable[[], Example]
    package: str = ""
    needs: str = ""
    output: str = ""
    unused: str = ""
    ratio: float = 4.0
    refused: str = ""

    def widths(self, k: int) -> Any:
        """Given 2 the teacher's, given 1 half of them."""
        if isinstance(self.full, Mapping):
            return {name: width * k // 2 for name, width in self.full.items()}
        return tuple(width * k // 2 for width in self.full)

    def build(self, k: int) -> nn.Module:
        """Given 2 the teacher, given 1 a student of half its width."""
        return self.make(self.widths(k))

    @property
    def missing(self) -> str:
        """The first package that isn't installed; empty where all are."""
        wanted = [name for name in (self.package, self.needs) if name]
        return next((name for name in wanted if importlib.util.find_spec(name) is None), "")


def _class(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _monai(name: str, **config: Any) -> nn.Module:
    made: nn.Module = _class("monai.networks.nets", name)(**config)
    return made


def _diffusers(name: str, **config: Any) -> nn.Module:
    made: nn.Module = _class("diffusers", name)(**config)
    return made


def _transformers(name: str, config: str, **options: Any) -> nn.Module:
    made: nn.Module = _class("transformers", name)(_class("transformers", config)(**options))
    return made


def _vision(widths: Mapping[str, int]) -> nn.Module:
    """Pictures to text: 16 patches and a class token, and a decoder of another width and depth."""
    encoder = _class("transformers", "ViTConfig")(
        image_size=16,
        patch_size=4,
        hidden_size=widths["hidden_size"],
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=widths["intermediate_size"],
    )
    decoder = _class("transformers", "GPT2Config")(
        vocab_size=29,
        n_positions=16,
        n_embd=widths["n_embd"],
        n_layer=2,
        n_head=2,
        is_decoder=True,
        add_cross_attention=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    config = _class("transformers", "VisionEncoderDecoderConfig").from_encoder_decoder_configs(encoder, decoder)
    made: nn.Module = _class("transformers", "VisionEncoderDecoderModel")(config=config)
    return made


def _maps(*shape: int) -> Callable[[], Example]:
    return lambda: torch.randn(2, *shape)


def _tokens(vocabulary: int) -> Callable[[], Example]:
    """Sentences of unequal length, as keyword arguments, one of them padded."""

    def make() -> Example:
        mask = torch.ones(2, 12, dtype=torch.long)
        mask[1, 9:] = 0
        given, wanted = (torch.randint(2, vocabulary, (2, length)) for length in (12, 7))
        return {"input_ids": given, "attention_mask": mask, "decoder_input_ids": wanted, "use_cache": False}

    return make


def _noisy() -> Example:
    """Eight pictures: a layer of the time's embedding is given one position each."""
    return {"sample": torch.randn(8, 3, 16, 16), "timestep": torch.randint(1000, (8,))}


def _pictures_and_text() -> Example:
    return {"pixel_values": torch.randn(2, 3, 16, 16), "decoder_input_ids": torch.randint(2, 29, (2, 7))}


_BLOCKS = {"layers_per_block": 1, "norm_num_groups": 2}


ENTRIES = (
    Entry(
        "monai-unet",
        lambda w: _monai(
            name="UNet",
            spatial_dims=2,
            in_channels=1,
            out_channels=2,
            channels=w,
            strides=(2, 2, 2),
            num_res_units=2,
        ),
        (8, 16, 32, 64),
        _maps(1, 32, 48),
        "monai",
    ),
    Entry(
        "monai-attentionunet",
        lambda w: _monai(
            name="AttentionUnet",
            spatial_dims=2,
            in_channels=1,
            out_channels=2,
            channels=w,
            strides=(2, 2),
        ),
        (8, 16, 32),
        _maps(1, 32, 48),
        "monai",
    ),
    Entry(
        "monai-segresnet",
        lambda w: _monai(
            name="SegResNet",
            spatial_dims=3,
            init_filters=w[0],
            in_channels=1,
            out_channels=2,
            blocks_down=(1, 2, 2),
            blocks_up=(1, 1),
        ),
        (16,),  # in steps of 8, its norms' groups: a half of it is 3.97 times smaller
        _maps(1, 12, 16, 8),
        "monai",
        ratio=3.9,
    ),
    Entry(
        "monai-autoencoderkl",
        lambda w: _monai(
            name="AutoencoderKL",
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            latent_channels=3,
            channels=(w[0], w[1], w[1]),  # another number at the end would add a layer, so the two are one width
            num_res_blocks=1,
            attention_levels=(False, False, True),
            norm_num_groups=2,
        ),
        (8, 16),
        _maps(1, 32, 48),
        "monai",
        needs="einops",
        output="[0]",
    ),
    Entry(
        "diffusers-autoencoderkl",
        lambda w: _diffusers(
            name="AutoencoderKL",
            block_out_channels=w,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            **_BLOCKS,
        ),
        (8, 16, 32),
        _maps(3, 16, 32),
        "diffusers",
    ),
    Entry(
        "diffusers-vqmodel",
        lambda w: _diffusers(
            name="VQModel",
            block_out_channels=w,
            latent_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            num_vq_embeddings=16,
            **_BLOCKS,
        ),
        (8, 16),
        _maps(3, 16, 32),
        "diffusers",
        output="['sample']",
    ),
    Entry(
        "diffusers-unet2dmodel",
        lambda w: _diffusers(
            name="UNet2DModel",
            sample_size=16,
            block_out_channels=(8, *w),  # the first is that of the time's code, too: computed, by no layer
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            attention_head_dim=4,
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            **_BLOCKS,
        ),
        (16, 32),
        _noisy,
        "diffusers",
    ),
    Entry(
        "transformers-t5",
        lambda w: _transformers(
            name="T5ForConditionalGeneration",
            config="T5Config",
            **w,
            vocab_size=31,
            d_kv=8,
            num_layers=3,
            num_decoder_layers=3,
            num_heads=2,
        ),
        {"d_model": 32, "d_ff": 64},
        _tokens(31),
        "transformers",
        output="['logits']",
    ),
    Entry(
        "transformers-bart",
        lambda w: _transformers(
            name="BartForConditionalGeneration",
            config="BartConfig",
            **w,
            vocab_size=31,
            encoder_layers=4,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            max_position_embeddings=16,
        ),
        {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
        _tokens(31),
        "transformers",
        output="['logits']",
    ),
    Entry(
        "transformers-marian",
        lambda w: _transformers(
            name="MarianMTModel",
            config="MarianConfig",
            **w,
            vocab_size=31,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            max_position_embeddings=16,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
            forced_eos_token_id=1,
        ),
        {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
        _tokens(31),
        "transformers",
        output="['logits']",
    ),
    Entry(
        "transformers-vit-gpt2",
        _vision,
        {"hidden_size": 32, "intermediate_size": 64, "n_embd": 24},
        _pictures_and_text,
        "transformers",
        output="['logits']",
        unused="encoder.pooler",
    ),
    Entry(
        "autoencoder",
        lambda w: networks.Autoencoder(*w),
        (8,),
        _maps(3, 32, 48),
    ),
    Entry("vae", lambda w: networks.VAE(*w), (8,), _maps(1, 32, 32), output="[0]"),
    Entry("srresnet", lambda w: networks.SRResNet(*w), (16,), _maps(3, 12, 16)),
    Entry("speech-unet", lambda w: networks.SpeechUNet(*w), (8,), _maps(1, 512), ratio=1.6),  # its LSTM stays whole
    Entry("unet3d", lambda w: networks.UNet3d(*w), (8,), _maps(1, 9, 14, 12)),
)
