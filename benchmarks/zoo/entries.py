"""The networks of the zoo: how each is built small, wide and narrow, and what it is given. Nothing of skd in here."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
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
    build : callable
        Given 2 the teacher, given 1 a student of half its width, of the same class, with random weights.
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
    """

    name: str
    build: Callable[[int], nn.Module]
    inputs: Callable[[], Example]
    package: str = ""
    needs: str = ""
    output: str = ""
    unused: str = ""

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


def _vision(k: int) -> nn.Module:
    """Pictures to text: 16 patches and a class token, and a decoder of another width and depth."""
    encoder = _class("transformers", "ViTConfig")(
        image_size=16,
        patch_size=4,
        hidden_size=16 * k,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32 * k,
    )
    decoder = _class("transformers", "GPT2Config")(
        vocab_size=29,
        n_positions=16,
        n_embd=12 * k,
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
    return {"sample": torch.randn(2, 3, 16, 16), "timestep": torch.tensor([3, 40])}


def _pictures_and_text() -> Example:
    return {"pixel_values": torch.randn(2, 3, 16, 16), "decoder_input_ids": torch.randint(2, 29, (2, 7))}


_BLOCKS = {"layers_per_block": 1, "norm_num_groups": 4}


ENTRIES = (
    Entry(
        "monai-unet",
        lambda k: _monai(
            name="UNet",
            spatial_dims=2,
            in_channels=1,
            out_channels=2,
            channels=(4 * k, 8 * k, 16 * k, 32 * k),
            strides=(2, 2, 2),
            num_res_units=2,
        ),
        _maps(1, 32, 48),
        "monai",
    ),
    Entry(
        "monai-attentionunet",
        lambda k: _monai(
            name="AttentionUnet",
            spatial_dims=2,
            in_channels=1,
            out_channels=2,
            channels=(4 * k, 8 * k, 16 * k),
            strides=(2, 2),
        ),
        _maps(1, 32, 48),
        "monai",
    ),
    Entry(
        "monai-segresnet",
        lambda k: _monai(
            name="SegResNet",
            spatial_dims=3,
            init_filters=8 * k,
            in_channels=1,
            out_channels=2,
            blocks_down=(1, 2, 2),
            blocks_up=(1, 1),
        ),
        _maps(1, 12, 16, 8),
        "monai",
    ),
    Entry(
        "monai-autoencoderkl",
        lambda k: _monai(
            name="AutoencoderKL",
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            latent_channels=3,
            channels=(4 * k, 8 * k, 8 * k),
            num_res_blocks=1,
            attention_levels=(False, False, True),
            norm_num_groups=4,
        ),
        _maps(1, 32, 48),
        "monai",
        needs="einops",
        output="[0]",
    ),
    Entry(
        "diffusers-autoencoderkl",
        lambda k: _diffusers(
            name="AutoencoderKL",
            block_out_channels=(4 * k, 8 * k, 16 * k),
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            **_BLOCKS,
        ),
        _maps(3, 16, 32),
        "diffusers",
    ),
    Entry(
        "diffusers-vqmodel",
        lambda k: _diffusers(
            name="VQModel",
            block_out_channels=(4 * k, 8 * k),
            latent_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            num_vq_embeddings=16,
            **_BLOCKS,
        ),
        _maps(3, 16, 32),
        "diffusers",
        output="['sample']",
    ),
    Entry(
        "diffusers-unet2dmodel",
        lambda k: _diffusers(
            name="UNet2DModel",
            sample_size=16,
            block_out_channels=(4 * k, 8 * k, 16 * k),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            attention_head_dim=4,
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            **_BLOCKS,
        ),
        _noisy,
        "diffusers",
    ),
    Entry(
        "transformers-t5",
        lambda k: _transformers(
            name="T5ForConditionalGeneration",
            config="T5Config",
            vocab_size=31,
            d_model=16 * k,
            d_kv=8,
            d_ff=32 * k,
            num_layers=3,
            num_decoder_layers=3,
            num_heads=2,
        ),
        _tokens(31),
        "transformers",
        output="['logits']",
    ),
    Entry(
        "transformers-bart",
        lambda k: _transformers(
            name="BartForConditionalGeneration",
            config="BartConfig",
            vocab_size=31,
            d_model=16 * k,
            encoder_layers=4,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32 * k,
            decoder_ffn_dim=32 * k,
            max_position_embeddings=16,
        ),
        _tokens(31),
        "transformers",
        output="['logits']",
    ),
    Entry(
        "transformers-marian",
        lambda k: _transformers(
            name="MarianMTModel",
            config="MarianConfig",
            vocab_size=31,
            d_model=16 * k,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32 * k,
            decoder_ffn_dim=32 * k,
            max_position_embeddings=16,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
            forced_eos_token_id=1,
        ),
        _tokens(31),
        "transformers",
        output="['logits']",
    ),
    Entry(
        "transformers-vit-gpt2",
        _vision,
        _pictures_and_text,
        "transformers",
        output="['logits']",
        unused="encoder.pooler",
    ),
    Entry("autoencoder", lambda k: networks.Autoencoder(4 * k), _maps(3, 32, 48)),
    Entry("vae", lambda k: networks.VAE(4 * k), _maps(1, 32, 32), output="[0]"),
    Entry("srresnet", lambda k: networks.SRResNet(8 * k), _maps(3, 12, 16)),
    Entry("speech-unet", lambda k: networks.SpeechUNet(4 * k), _maps(1, 512)),
    Entry("unet3d", lambda k: networks.UNet3d(4 * k), _maps(1, 9, 14, 12)),
)
