"""pair() against the layers a person would name, on networks of many kinds; editing, declaring, files."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skd.errors import ArgumentError, FileError, LayerNotFoundError, PairingError
from skd.pairing import Pairing, SymmetricPair, pair
from skd.taps import Tap, Taps

Rows = list[tuple[str, str, str, int, int]]


def rows(pairing: Pairing) -> Rows:
    return [(p.name, str(p.encoder), str(p.decoder), p.width, p.decoder_width) for p in pairing]


def conv(i: int, o: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(i, o, kernel, stride, kernel // 2)


class Block(nn.Module):
    def __init__(self, i: int, o: int, *, dim: int = 2, stride: int = 1) -> None:
        super().__init__()
        self.conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dim](i, o, 3, stride, 1)
        self.norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dim](o)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(width, width), nn.ReLU(), conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class UNet(nn.Module):
    """Blocks in lists; pooling, upsampling and concatenation are functions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.enc = nn.ModuleList([Block(2, 8, dim=dim), Block(8, 16, dim=dim)])
        self.mid = Block(16, 32, dim=dim)
        self.dec = nn.ModuleList([Block(48, 16, dim=dim), Block(24, 8, dim=dim)])
        self.head = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dim](8, 2, 1)
        self.pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[dim]

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.enc:
            x = block(x)
            skips.append(x)
            x = self.pool(x, 2)
        x = self.mid(x)
        for block, skip in zip(self.dec, reversed(skips), strict=True):
            x = block(torch.cat([F.interpolate(x, size=skip.shape[2:]), skip], 1))
        return self.head(x)


class PooledAndSkip(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.conv, self.pool = Block(i, o), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(x)
        return self.pool(x), x


class Up(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.up, self.conv = nn.ConvTranspose2d(i, o, 2, 2), Block(2 * o, o)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([self.up(x), skip], 1))


class TupleUNet(nn.Module):
    """Encoder blocks that return (pooled, skip)."""

    def __init__(self) -> None:
        super().__init__()
        self.d1, self.d2, self.mid = PooledAndSkip(3, 8), PooledAndSkip(8, 16), Block(16, 32)
        self.u2, self.u1, self.head = Up(32, 16), Up(16, 8), conv(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, one = self.d1(x)
        x, two = self.d2(x)
        return self.head(self.u1(self.u2(self.mid(x), two), one))


class StyleEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.full = nn.Sequential(conv(3, 5, 9), nn.ReLU())
        self.middle = nn.Sequential(conv(5, 10, stride=2), nn.ReLU())
        self.quarter = nn.Sequential(conv(10, 20, stride=2), nn.ReLU())
        self.res = nn.ModuleList([Residual(20), Residual(20)])

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for layer in (self.full, self.middle, self.quarter, *self.res):
            x = layer(x)
            features.append(x)
        return features


class StyleDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.res = nn.ModuleList([Residual(20), Residual(20)])
        self.middle = nn.Sequential(nn.Upsample(scale_factor=2), conv(20, 10), nn.ReLU())
        self.full = nn.Sequential(nn.Upsample(scale_factor=2), conv(10, 5), nn.ReLU())
        self.paint = conv(5, 3, 9)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        for layer in self.res:
            content = layer(content) + style.mean((2, 3), keepdim=True)
        return self.paint(self.full(self.middle(content)))


class StyleTransfer(nn.Module):
    """A content and a style encoder, and one decoder."""

    def __init__(self, *, style_first: bool = False, shared: bool = False) -> None:
        super().__init__()
        self.content = StyleEncoder()
        self.style = self.content if shared else StyleEncoder()
        self.decoder, self.style_first = StyleDecoder(), style_first

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        if self.style_first:
            second = self.style(style)
            first = self.content(content)
        else:
            first = self.content(content)
            second = self.style(style)
        return self.decoder(first[-1], second[-1])


PICTURES = (torch.zeros(1, 3, 32, 48), torch.zeros(1, 3, 40, 24))
STYLE_ROWS: Rows = [
    ("1", "content.full", "decoder.full", 5, 5),
    ("1/2", "content.middle", "decoder.middle", 10, 10),
    ("1/4", "content.res.1", "decoder.res.1", 20, 20),
]


def conv_autoencoder(*, inplace: bool = False) -> nn.Sequential:
    return nn.Sequential(
        conv(3, 8, stride=2),
        nn.ReLU(inplace),
        conv(8, 16, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace),
        conv(16, 32, stride=2),
        nn.ConvTranspose2d(32, 16, 2, 2),
        nn.ReLU(inplace),
        nn.ConvTranspose2d(16, 8, 2, 2),
        nn.ReLU(inplace),
        nn.ConvTranspose2d(8, 3, 2, 2),
    )


class TestByScale:
    def test_plain_autoencoder_is_read_before_its_nonlinearities(self) -> None:
        pairing = pair(conv_autoencoder(), torch.zeros(1, 3, 32, 48))
        assert rows(pairing) == [("1/2", "0", "8", 8, 8), ("1/4", "3", "6", 16, 16)]
        assert pairing.bottleneck == Tap("5")
        assert [p.scale for p in pairing] == [(0.5, 0.5), (0.25, 0.25)]
        assert pairing.notes == ()

    def test_features_changed_in_place_are_cloned(self) -> None:
        model, x = conv_autoencoder(inplace=True), torch.randn(2, 3, 16, 24)
        pairing = pair(model, x)
        assert all(tap.clone for tap in (pairing["1/2"].encoder, pairing["1/4"].encoder, pairing["1/4"].decoder))
        assert not pairing.bottleneck.clone
        assert "'0', '8', '3', '6': read as a copy, since the next layer works in place" in str(pairing)
        _, features = Taps(model, pairing.taps)(x)
        assert float(features[pairing["1/2"].encoder].detach().min()) < 0  # what the convolution returned, not the ReLU

    @pytest.mark.parametrize(("dim", "shape"), [(1, (66,)), (2, (33, 47)), (3, (8, 12, 16))])
    def test_unet_of_any_dimension_and_odd_sizes(self, dim: int, shape: tuple[int, ...]) -> None:
        pairing = pair(UNet(dim), torch.zeros(1, 2, *shape))
        assert rows(pairing) == [("1", "enc.0", "dec.1", 8, 8), ("1/2", "enc.1", "dec.0", 16, 16)]
        assert pairing.bottleneck.layer == "mid"
        expected = {1: "BCL", 2: None, 3: "BCDHW"}[dim]  # all but plain maps are stated
        assert {tap.layout for tap in pairing.taps} == {expected}

    def test_scales_are_what_the_trace_measured(self) -> None:
        half = pair(UNet(2), torch.zeros(1, 2, 33, 47))["1/2"]
        assert half.scale == (16 / 33, 23 / 47)

    def test_anisotropic_strides_have_a_scale_per_axis(self) -> None:
        model = nn.Sequential(
            nn.Conv3d(1, 4, 3, 1, 1),
            nn.Conv3d(4, 8, 3, (1, 2, 2), 1),
            nn.ConvTranspose3d(8, 4, (1, 2, 2), (1, 2, 2)),
            nn.Conv3d(4, 1, 1),
        )
        outer = nn.Sequential(
            nn.Conv3d(1, 1, 3, (1, 2, 2), 1), *model[:3], nn.ConvTranspose3d(4, 1, (1, 2, 2), (1, 2, 2))
        )
        pairing = pair(outer, torch.zeros(1, 1, 4, 16, 24))
        assert rows(pairing) == [("1×1/2×1/2", "1", "3", 4, 4)]
        assert pairing[0].scale == (1.0, 0.5, 0.5)
        assert "  1×0.5×0.5  " in str(pairing)

    def test_skip_is_taken_from_blocks_that_return_pooled_and_skip(self) -> None:
        pairing = pair(TupleUNet(), torch.zeros(1, 3, 32, 48))
        assert rows(pairing) == [("1", "d1[1]", "u1", 8, 8), ("1/2", "d2[1]", "u2", 16, 16)]
        assert pairing.bottleneck.layer == "mid"

    def test_blocks_that_end_in_pooling_or_upsampling_are_read_before_it(self) -> None:
        def down(i: int, o: int) -> nn.Sequential:
            return nn.Sequential(conv(i, o), nn.ReLU(), nn.MaxPool2d(2))

        def up(i: int, o: int) -> nn.Sequential:
            return nn.Sequential(conv(i, o), nn.ReLU(), nn.Upsample(scale_factor=2))

        model = nn.Sequential(down(3, 8), down(8, 16), conv(16, 32), up(32, 16), up(16, 8), conv(8, 8), conv(8, 3))
        pairing = pair(model, torch.zeros(1, 3, 16, 24))
        assert rows(pairing) == [
            ("1", "0.0", "5", 8, 8),
            ("1/2", "1.0", "3", 16, 16),
        ]  # "3": nothing else at ½ is 16 wide

    def test_single_block_encoder_is_opened(self) -> None:
        model = nn.Sequential()
        model.add_module("encoder", nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 32, stride=2)))
        model.add_module("decoder", nn.Sequential(nn.ConvTranspose2d(32, 16, 2, 2), nn.ReLU(), conv(16, 3)))
        pairing = pair(model, torch.zeros(1, 3, 16, 24))
        assert rows(pairing) == [("1", "encoder.0", "decoder.0", 16, 16)]
        assert pairing.bottleneck.layer == "encoder.2"

    def test_squeeze_and_excitation_is_no_bottleneck(self) -> None:
        class Excited(nn.Module):
            def __init__(self, i: int, o: int, stride: int = 1) -> None:
                super().__init__()
                self.block = Block(i, o, stride=stride)
                self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(o, o, 1), nn.Sigmoid())

            def forward(self, x: Tensor) -> Tensor:
                x = self.block(x)
                return x * self.gate(x)

        up = nn.Upsample(scale_factor=2)
        model = nn.Sequential(Excited(3, 8), Excited(8, 16, 2), Excited(16, 32, 2), up, Excited(32, 16), conv(16, 3))
        pairing = pair(model, torch.zeros(1, 3, 16, 24))
        assert rows(pairing) == [("1/2", "1", "4", 16, 16)]
        assert pairing.bottleneck.layer == "2"
        assert "1 is left out: '0' has no counterpart in the decoder" in pairing.notes

    def test_vector_code_is_the_bottleneck(self) -> None:
        class Variational(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.encoder = nn.Sequential(conv(1, 8, stride=2), nn.ReLU(), conv(8, 16, stride=2), nn.Flatten())
                self.mean, self.spread, self.expand = nn.Linear(256, 5), nn.Linear(256, 5), nn.Linear(5, 256)
                up = [nn.ConvTranspose2d(16, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 1, 2, 2)]
                self.decoder = nn.Sequential(nn.Unflatten(1, (16, 4, 4)), *up)

            def forward(self, x: Tensor) -> Tensor:
                x = self.encoder(x)
                return self.decoder(self.expand(self.mean(x) + 0 * self.spread(x)))

        pairing = pair(Variational(), torch.zeros(1, 1, 16, 16))
        assert rows(pairing) == [("1/2", "encoder.0", "decoder.1", 8, 8), ("1/4", "encoder.2", "decoder.0", 16, 16)]
        assert pairing.bottleneck.layer == "mean"

    def test_super_resolution_with_pixel_shuffle(self) -> None:
        class Upscale(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.e1, self.e2, self.e3 = Block(3, 8), Block(8, 16, stride=2), Block(16, 32, stride=2)
                self.d2 = nn.Sequential(conv(32, 64, 1), nn.PixelShuffle(2), nn.PReLU())
                self.d1 = nn.Sequential(conv(16, 32, 1), nn.PixelShuffle(2), nn.PReLU())
                self.beyond, self.out = nn.Sequential(conv(8, 32, 1), nn.PixelShuffle(2)), conv(8, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.out(self.beyond(self.d1(self.d2(self.e3(self.e2(self.e1(x)))))))

        pairing = pair(Upscale(), torch.zeros(1, 3, 16, 24))
        assert rows(pairing) == [("1", "e1", "d1", 8, 8), ("1/2", "e2", "d2", 16, 16)]
        assert "2 is left out: only the decoder has it ('beyond')" in pairing.notes

    def test_unpadded_convolutions_are_counted_from_the_bottleneck(self) -> None:
        layers = [nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3)]
        layers += [nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(8, 8, 3), nn.ConvTranspose2d(8, 4, 2, 2)]
        layers += [nn.Conv2d(4, 4, 3), nn.Conv2d(4, 1, 1)]
        pairing = pair(nn.Sequential(*layers), torch.zeros(1, 1, 46, 62))
        assert [(p.encoder.layer, p.decoder.layer) for p in pairing] == [("0", "8"), ("2", "6")]
        assert "the sizes of the two sides don't line up, so levels are counted from the bottleneck" in pairing.notes
        assert any("'0' 44×60, '8' 26×42" in note for note in pairing.notes)

    def test_a_level_without_counterpart_does_not_shift_the_others(self) -> None:
        class Viewed(nn.Module):
            """The decoder's code becomes a map by a view, which no layer returns."""

            def __init__(self) -> None:
                super().__init__()
                self.encoder = nn.Sequential(conv(1, 4, stride=2), conv(4, 8, stride=2), nn.Flatten())
                self.code, self.expand = nn.Linear(8 * 16, 5), nn.Linear(5, 8 * 16)
                self.decoder = nn.Sequential(nn.ConvTranspose2d(8, 4, 2, 2), nn.ConvTranspose2d(4, 1, 2, 2))

            def forward(self, x: Tensor) -> Tensor:
                return self.decoder(self.expand(self.code(self.encoder(x))).view(-1, 8, 4, 4))

        pairing = pair(Viewed(), torch.zeros(1, 1, 16, 16))
        assert rows(pairing) == [("1/2", "encoder.0", "decoder.0", 4, 4)]
        assert pairing.bottleneck.layer == "code"
        assert pairing.notes == ("1/4 is left out: 'encoder.1' has no counterpart in the decoder",)

    def test_unequal_widths_are_noted(self) -> None:
        model = nn.Sequential(
            conv(3, 8), conv(8, 16, stride=2), nn.ConvTranspose2d(16, 12, 2, 2), nn.ReLU(), conv(12, 3)
        )
        pairing = pair(model, torch.zeros(1, 3, 8, 12))
        assert rows(pairing) == [("1", "0", "2", 8, 12)]
        assert "note: 1 has unequal widths: '0' 8, '2' 12" in str(pairing)

    def test_alternatives_are_noted(self) -> None:
        up = nn.ConvTranspose2d(8, 4, 2, 2)
        model = nn.Sequential(conv(3, 4), conv(4, 4), conv(4, 8, stride=2), up, conv(4, 4), conv(4, 3))
        pairing = pair(model, torch.zeros(1, 3, 8, 12))
        assert rows(pairing) == [("1", "1", "4", 4, 4)]
        assert "1: of the encoder's like layers '1' is the last; '0' before" in pairing.notes


class TestMonai:
    def test_unet(self) -> None:
        from monai.networks.nets import UNet as Monai

        model = Monai(
            spatial_dims=2, in_channels=1, out_channels=2, channels=(4, 8, 16, 16), strides=(2, 2, 2), num_res_units=1
        )
        pairing = pair(model, torch.zeros(1, 1, 32, 48))
        # not "model.1", the skip connection, which only appends the encoder's feature to the decoder's
        assert rows(pairing) == [
            ("1/2", "model.0", "model.1.submodule.2", 4, 4),
            ("1/4", "model.1.submodule.0", "model.1.submodule.1.submodule.2", 8, 8),
        ]
        assert pairing.bottleneck.layer == "model.1.submodule.1.submodule.1.submodule"

    def test_basic_unet(self) -> None:
        from monai.networks.nets import BasicUNet

        for dim, shape in ((2, (32, 48)), (3, (16, 16, 32))):
            pairing = pair(BasicUNet(dim, 1, 2, (4, 4, 8, 16, 32, 4)), torch.zeros(1, 1, *shape))
            assert rows(pairing) == [
                ("1", "conv_0", "upcat_1", 4, 4),
                ("1/2", "down_1", "upcat_2", 4, 4),
                ("1/4", "down_2", "upcat_3", 8, 8),
                ("1/8", "down_3", "upcat_4", 16, 16),
            ]
            assert pairing.bottleneck.layer == "down_4"

    def test_nested_unet(self) -> None:
        from monai.networks.nets import BasicUNetPlusPlus

        pairing = pair(BasicUNetPlusPlus(2, 1, 2, (4, 4, 8, 16, 32, 4)), torch.zeros(1, 1, 32, 48))
        assert [(p.encoder.layer, p.decoder.layer) for p in pairing] == [
            ("conv_0_0", "upcat_0_4"),
            ("conv_1_0", "upcat_1_3"),
            ("conv_2_0", "upcat_2_2"),
            ("conv_3_0", "upcat_3_1"),
        ]
        assert pairing.bottleneck.layer == "conv_4_0"
        assert "6 layers from 'upcat_0_1' to 'upcat_0_3' are in no pair" in str(pairing)

    def test_segresnet(self) -> None:
        from monai.networks.nets import SegResNet

        pairing = pair(SegResNet(2, init_filters=8), torch.zeros(1, 1, 32, 48))
        assert rows(pairing) == [
            ("1", "down_layers.0", "up_layers.2", 8, 8),
            ("1/2", "down_layers.1", "up_layers.1", 16, 16),
            ("1/4", "down_layers.2", "up_layers.0", 32, 32),
        ]
        assert pairing.bottleneck.layer == "down_layers.3"


class TestCompanions:
    COMPANIONS: ClassVar = {
        "content.full": ["style.full"],
        "content.middle": ["style.middle"],
        "content.res.1": ["style.res.1"],
    }

    def test_undeclared_second_encoder_is_noted(self) -> None:
        pairing = pair(StyleTransfer(), PICTURES)
        assert rows(pairing) == STYLE_ROWS
        assert pairing.bottleneck.layer == "content.res.1"
        assert "layers from 'style.full' to 'style.middle' are in no pair; if they are a second encoder" in str(pairing)

    @pytest.mark.parametrize("style_first", [False, True])
    def test_declared(self, style_first: bool) -> None:
        pairing = pair(StyleTransfer(style_first=style_first), PICTURES, companions=self.COMPANIONS)
        assert rows(pairing) == STYLE_ROWS
        assert [[str(tap) for tap in p.companions] for p in pairing] == [
            ["style.full"],
            ["style.middle"],
            ["style.res.1"],
        ]
        assert pairing.bottleneck.layer == "content.res.1"
        assert pairing.notes == ()

    def test_second_call_of_a_shared_encoder(self) -> None:
        companions = {"content.full": ["content.full#1"], "1/4": ["content.res.1#1"]}
        pairing = pair(StyleTransfer(shared=True), PICTURES, companions=companions)
        assert rows(pairing) == STYLE_ROWS
        assert [[str(tap) for tap in p.companions] for p in pairing] == [["content.full#1"], [], ["content.res.1#1"]]

    def test_a_key_at_a_pairs_scale_becomes_its_encoder(self) -> None:
        pairing = pair(StyleTransfer(), PICTURES, companions={"content.res.0": ["style.res.0"]})
        assert pairing["1/4"].encoder.layer == "content.res.0"
        assert (
            "1/4: 'content.res.0' is the encoder's side and not 'content.res.1', as it has companions" in pairing.notes
        )

    def test_mistakes(self) -> None:
        with pytest.raises(PairingError, match=r"companion 'style\.middle' can't share .* '1', .*; got 10; expected 5"):
            pair(StyleTransfer(), PICTURES, companions={"content.full": ["style.middle"]})
        with pytest.raises(PairingError, match=r"'decoder\.middle\.0' has companions but is in no pair"):
            pair(StyleTransfer(), PICTURES, companions={"decoder.middle.0": ["style.res.0"]})
        with pytest.raises(LayerNotFoundError, match=r"no layer 'style\.ful'.*did you mean 'style\.full'"):
            pair(StyleTransfer(), PICTURES, companions={"content.full": ["style.ful"]})


class TestCodesAndSamplers:
    """Autoencoders with a code in the middle, and blocks that end in a learned sampler."""

    def coded(self, *, flat: bool = False, code: int = 3) -> nn.Module:
        """Stage, sampler, stage, code, stage, sampler, stage; the samplers keep the width."""

        class Coded(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                down = [nn.Sequential(Block(3, 8), conv(8, 8, stride=2)), Block(8, 16), Block(16, 16)]
                up = [nn.Sequential(Block(16, 16), nn.ConvTranspose2d(16, 16, 2, 2)), Block(16, 8), conv(8, 3)]
                self.encoder, self.to_code = nn.Sequential(*down), conv(16, code, 1)
                self.from_code, self.decoder = conv(code, 16, 1), nn.Sequential(*up)

            def forward(self, x: Tensor) -> Tensor:
                return self.decoder(self.from_code(self.to_code(self.encoder(x))))

        model = Coded()
        if not flat:
            return model
        return nn.Sequential(*model.encoder, model.to_code, model.from_code, *model.decoder)

    def test_a_narrow_code_parts_encoder_and_decoder(self) -> None:
        pairing = pair(self.coded(), torch.zeros(1, 3, 16, 24))
        assert rows(pairing) == [
            ("1", "encoder.0.0", "decoder.1", 8, 8),  # before the sampler
            ("1/2", "encoder.2", "decoder.0.0", 16, 16),
        ]
        assert pairing.bottleneck == Tap("to_code")

    def test_in_one_container(self) -> None:
        pairing = pair(self.coded(flat=True), torch.zeros(1, 3, 16, 24))
        assert rows(pairing) == [("1", "0.0", "6", 8, 8), ("1/2", "2", "5.0", 16, 16)]
        assert pairing.bottleneck == Tap("3")

    def test_a_code_as_wide_as_its_scale_is_no_waist(self) -> None:
        pairing = pair(self.coded(code=16), torch.zeros(1, 3, 16, 24))
        assert [p.name for p in pairing] == ["1", "1/2"]
        assert pairing.bottleneck != Tap("to_code")

    def test_a_block_that_ends_in_another_width_stays_one(self) -> None:
        """Its last layer makes features; it doesn't only move them."""
        down = nn.Sequential(Block(3, 8), conv(8, 16, stride=2))
        up = nn.Sequential(Block(32, 16), nn.ConvTranspose2d(16, 8, 2, 2))
        model = nn.Sequential(down, Block(16, 32, stride=2), nn.ConvTranspose2d(32, 32, 2, 2), up, conv(8, 3))
        pairing = pair(model, torch.zeros(1, 3, 16, 24))
        assert ("1/2", "0", "2", 16, 32) in rows(pairing)

    def test_a_middle_between_two_lists_is_the_bottleneck(self) -> None:
        class Listed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.down = nn.ModuleList([Block(3, 8), Block(8, 16, stride=2)])
                self.middle = Block(16, 16)
                self.up = nn.ModuleList([Block(32, 16), Block(16, 8)])
                self.head = conv(8, 3)

            def forward(self, x: Tensor) -> Tensor:
                one = self.down[0](x)
                two = self.down[1](one)
                x = F.interpolate(self.up[0](torch.cat([self.middle(two), two], 1)), scale_factor=2)
                return self.head(self.up[1](x))

        pairing = pair(Listed(), torch.zeros(1, 3, 16, 24))
        assert rows(pairing) == [("1", "down.0", "up.1", 8, 8), ("1/2", "down.1", "up.0", 16, 16)]
        assert pairing.bottleneck == Tap("middle")


class Attention(nn.Module):
    """Tokens, and the attention map beside them; over words of another length, if they are given."""

    def __init__(self, width: int, words: int | None = None) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(words or width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, words: Tensor | None = None) -> tuple[Tensor, Tensor]:
        keys = self.k(x if words is None else words)
        weights = (self.q(x) @ keys.transpose(1, 2)).softmax(-1)
        return self.v(weights @ keys), weights[:, None]


class TokenLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention, self.norm, self.cross = Attention(width), nn.LayerNorm(width), Attention(width)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        made, weights = self.attention(self.norm(x))
        return x + made + (0 if memory is None else self.cross(x, memory)[0]), weights


class Seq2Seq(nn.Module):
    """Encoder and decoder of their own depth and width; returns tokens and all attention maps."""

    def __init__(self, width: int = 8, decoder_width: int = 8, depths: tuple[int, int] = (3, 3)) -> None:
        super().__init__()
        self.embed, self.embed_out = nn.Embedding(11, width), nn.Embedding(11, decoder_width)
        self.encoder = nn.ModuleList(TokenLayer(width) for _ in range(depths[0]))
        self.between = nn.Linear(width, decoder_width)
        self.decoder = nn.ModuleList(TokenLayer(decoder_width) for _ in range(depths[1]))

    def forward(self, source: Tensor, target: Tensor) -> dict[str, Any]:
        x, y, maps = self.embed(source), self.embed_out(target), []
        for layer in self.encoder:
            x, weights = layer(x)
            maps.append(weights)
        x = self.between(x)
        for layer in self.decoder:
            y, weights = layer(y, x)
            maps.append(weights)
        return {"tokens": y, "maps": tuple(maps)}


class TestTokens:
    @pytest.mark.parametrize("samples", [1, 2])
    @pytest.mark.parametrize(("source", "target"), [(8, 8), (12, 5), (4, 16), (8, 14), (2, 2)])
    def test_lengths_do_not_matter(self, samples: int, source: int, target: int) -> None:
        example = {"source": torch.zeros(samples, source).long(), "target": torch.zeros(samples, target).long()}
        assert rows(pair(Seq2Seq(), example)) == [
            (f"depth {k + 1}", f"encoder.{k}[0]", f"decoder.{2 - k}[0]", 8, 8) for k in range(3)
        ]

    def test_unequal_depth_and_width(self) -> None:
        example = (torch.zeros(2, 7).long(), torch.zeros(2, 9).long())
        pairing = pair(Seq2Seq(8, 6, (4, 2)), example)
        assert rows(pairing) == [
            ("depth 1", "encoder.0[0]", "decoder.1[0]", 8, 6),
            ("depth 2", "encoder.3[0]", "decoder.0[0]", 8, 6),
        ]
        assert "note: 4 encoder and 2 decoder layers: 2 of each, evenly spread, are paired" in str(pairing)

    def test_a_class_token_and_patches_left_out(self) -> None:
        class Masked(nn.Module):
            """Half of the patches and a class token to the encoder, all of them to the decoder."""

            def __init__(self) -> None:
                super().__init__()
                self.patches, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.zeros(1, 1, 8))
                self.encoder = nn.ModuleList(TokenLayer(8) for _ in range(3))
                self.between, self.head = nn.Linear(8, 6), nn.Linear(6, 48)
                self.decoder = nn.ModuleList(TokenLayer(6) for _ in range(2))

            def forward(self, x: Tensor) -> Tensor:
                x = self.patches(x).flatten(2).transpose(1, 2)
                count = x.shape[1]
                x = torch.cat([self.token.expand(len(x), 1, 8), x[:, : count // 2]], 1)
                for layer in self.encoder:
                    x, _ = layer(x)
                x = F.pad(self.between(x), (0, 0, 0, count - count // 2))
                for layer in self.decoder:
                    x, _ = layer(x)
                return self.head(x)

        pairing = pair(Masked(), torch.zeros(2, 3, 16, 16))
        assert rows(pairing) == [
            ("depth 1", "encoder.0[0]", "decoder.1[0]", 8, 6),
            ("depth 2", "encoder.2[0]", "decoder.0[0]", 8, 6),
        ]

    def test_words_that_a_map_attends_to_do_not_cut_its_block(self) -> None:
        class Attending(nn.Module):
            def __init__(self, i: int, o: int, stride: int = 1) -> None:
                super().__init__()
                self.block, self.attention = Block(i, o, stride=stride), Attention(o, words=5)

            def forward(self, x: Tensor, words: Tensor) -> Tensor:
                x = self.block(x)
                return x + self.attention(x.flatten(2).transpose(1, 2), words)[0].transpose(1, 2).view_as(x)

        class Guided(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.d1, self.d2, self.mid = Attending(3, 8), Attending(8, 16, 2), Attending(16, 32, 2)
                self.u2, self.u1, self.head = Attending(32, 16), Attending(16, 8), conv(8, 3)

            def forward(self, x: Tensor, words: Tensor) -> Tensor:
                x = self.mid(self.d2(self.d1(x, words), words), words)
                x = self.u2(F.interpolate(x, scale_factor=2), words)
                return self.head(self.u1(F.interpolate(x, scale_factor=2), words))

        pairing = pair(Guided(), {"x": torch.zeros(2, 3, 16, 24), "words": torch.zeros(2, 7, 5)})
        assert rows(pairing) == [("1", "d1", "u1", 8, 8), ("1/2", "d2", "u2", 16, 16)]
        assert pairing.bottleneck == Tap("mid")


class LastUNet(nn.Module):
    """(B, H, W, C) between all layers."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()

        def stage(wide: int) -> nn.Sequential:
            return nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, wide), nn.GELU())

        self.stem, self.one, self.merge = nn.Linear(3, width), stage(width), nn.Linear(4 * width, 2 * width)
        self.mid, self.split, self.two = stage(2 * width), nn.Linear(2 * width, 4 * width), stage(width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.one(self.stem(x.permute(0, 2, 3, 1)))
        b, h, w, c = skip.shape
        x = skip.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)
        x = self.split(self.mid(self.merge(x))).view(b, h // 2, w // 2, 2, 2, c)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return self.head(self.two(x + skip)).permute(0, 3, 1, 2)


class TestSkipsFirst:
    """A decoder that is given the encoder's features before what it goes up from."""

    def test_a_decoder_of_two_levels_is_opened(self) -> None:
        class Up(nn.Module):
            def __init__(self, inputs: int, outputs: int) -> None:
                super().__init__()
                self.up, self.conv = nn.Upsample(scale_factor=2), conv(inputs + outputs, outputs)

            def forward(self, skip: Tensor, x: Tensor) -> Tensor:
                return self.conv(torch.cat([skip, self.up(x)], 1))

        class Decoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.blocks = nn.ModuleList([Up(32, 16), Up(16, 8)])

            def forward(self, skips: list[Tensor], x: Tensor) -> Tensor:
                for block, skip in zip(self.blocks, reversed(skips), strict=True):
                    x = block(skip, x)
                return x

        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.one, self.two, self.mid = conv(3, 8), conv(8, 16), conv(16, 32)
                self.pool, self.decoder, self.head = nn.MaxPool2d(2), Decoder(), nn.Conv2d(8, 1, 1)

            def forward(self, x: Tensor) -> Tensor:
                one = self.one(x)
                two = self.two(self.pool(one))
                return self.head(self.decoder([one, two], self.mid(self.pool(two))))

        assert rows(pair(Network(), torch.zeros(1, 3, 16, 24))) == [
            ("1", "one", "decoder.blocks.1", 8, 8),
            ("1/2", "two", "decoder.blocks.0", 16, 16),
        ]


class TestChannelsLast:
    @pytest.mark.parametrize("shape", [(16, 24), (8, 8)])  # as many positions as channels, too
    def test_maps_are_paired_and_read_channels_first(self, shape: tuple[int, int]) -> None:
        model, x = LastUNet(), torch.randn(2, 3, *shape)
        pairing = pair(model, x)
        assert rows(pairing) == [("1", "one", "two", 8, 8)]
        assert pairing["1"].scale == (1.0, 1.0)
        assert all(tap.channels_last for tap in pairing.taps)
        _, features = Taps(model, [*pairing.taps, "one"])(x)
        torch.testing.assert_close(features[pairing["1"].encoder], features[Tap("one")].permute(0, 3, 1, 2))
        declared = Pairing.declare([("one", "two")], model, x)
        assert declared.pairs == pairing.pairs
        assert Pairing.from_json(json.loads(json.dumps(pairing.to_json()))) == pairing

    def test_blocks_that_turn_their_maps_round_inside(self) -> None:
        class Turning(nn.Module):
            def __init__(self, width: int) -> None:
                super().__init__()
                self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.LayerNorm(width)
                self.linear = nn.Linear(width, width)

            def forward(self, x: Tensor) -> Tensor:
                return x + self.linear(self.norm(self.conv(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)

        up = nn.ConvTranspose2d(16, 8, 2, 2)
        model = nn.Sequential(conv(3, 8), Turning(8), conv(8, 16, stride=2), Turning(16), up, Turning(8), conv(8, 3))
        pairing = pair(model, torch.zeros(1, 3, 8, 8))
        assert rows(pairing) == [("1", "1", "5", 8, 8)]
        assert not any(tap.channels_last for tap in pairing.taps)


class TestByDepth:
    def test_transformer(self) -> None:
        model = nn.Transformer(8, 2, 3, 3, 16, batch_first=True)
        pairing = pair(model, (torch.zeros(1, 7, 8), torch.zeros(1, 5, 8)))
        assert rows(pairing) == [
            ("depth 1", "encoder.layers.0", "decoder.layers.2", 8, 8),
            ("depth 2", "encoder.layers.1", "decoder.layers.1", 8, 8),
            ("depth 3", "encoder.layers.2", "decoder.layers.0", 8, 8),
        ]
        assert {tap.layout for tap in pairing.taps} == {"BNC"}
        assert {p.scale for p in pairing} == {None}
        assert pairing.bottleneck.layer == "encoder"  # its last norm included
        assert "mirrored by depth" in pairing.notes[0]

    def test_unequal_depth_and_one_layer(self) -> None:
        example = (torch.zeros(1, 7, 8), torch.zeros(1, 5, 8))
        pairing = pair(nn.Transformer(8, 2, 4, 2, 16, batch_first=True), example)
        assert [(p.encoder.layer[-1], p.decoder.layer[-1]) for p in pairing] == [("0", "1"), ("3", "0")]
        assert "4 encoder and 2 decoder layers: 2 of each, evenly spread, are paired" in pairing.notes
        single = pair(nn.Transformer(8, 2, 1, 1, 16, batch_first=True), example)
        assert rows(single) == [("depth 1", "encoder.layers.0", "decoder.layers.0", 8, 8)]

    @pytest.mark.filterwarnings("ignore:enable_nested_tensor")  # torch's own, on batch_first=False
    def test_positions_before_samples_are_noted(self) -> None:
        pairing = pair(nn.Transformer(8, 2, 2, 2, 16), (torch.zeros(7, 1, 8), torch.zeros(5, 1, 8)))
        assert [p.width for p in pairing] == [8, 8]
        assert "build the network with batch_first=True" in str(pairing)

    def test_flat_super_resolution_is_folded(self) -> None:
        class Flat(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.head, self.body = conv(3, 8), nn.Sequential(*(Residual(8) for _ in range(5)))
                self.tail = nn.Sequential(conv(8, 32), nn.PixelShuffle(2), conv(8, 3))

            def forward(self, x: Tensor) -> Tensor:
                x = self.head(x)
                return self.tail(x + self.body(x))

        pairing = pair(Flat(), torch.zeros(1, 3, 6, 9))
        assert rows(pairing) == [("depth 1", "body.0", "body.4", 8, 8), ("depth 2", "body.1", "body.3", 8, 8)]
        assert pairing.bottleneck.layer == "body.2"
        assert "the 5 layers of 'body' are folded in their middle" in str(pairing)
        assert 'Pairing.declare([("body.0", "body.4"), …], model, example)' in str(pairing)


class TestByWidth:
    def test_mlp_autoencoder(self) -> None:
        widths = [40, 20, 10, 4, 10, 20, 40]
        layers = [m for i, o in itertools.pairwise(widths) for m in (nn.Linear(i, o), nn.ReLU())]
        pairing = pair(nn.Sequential(*layers[:-1]), torch.zeros(1, 40))
        assert rows(pairing) == [("width 20", "0", "8", 20, 20), ("width 10", "2", "6", 10, 10)]
        assert pairing.bottleneck.layer == "4"
        assert pairing["width 20"].scale is None

    def test_blocks_in_containers(self) -> None:
        def block(i: int, o: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(i, o), nn.LayerNorm(o), nn.ReLU())

        model = nn.Sequential()
        model.add_module("encoder", nn.Sequential(block(12, 6), nn.Linear(6, 2)))
        model.add_module("decoder", nn.Sequential(block(2, 6), nn.Linear(6, 12)))
        pairing = pair(model, torch.zeros(1, 12))
        assert rows(pairing) == [("width 6", "encoder.0", "decoder.0", 6, 6)]


class TestNoMirror:
    def test_classifier(self) -> None:
        model = nn.Sequential(
            conv(3, 8, stride=2), conv(8, 8, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 9)
        )
        with pytest.raises(PairingError, match=r"no decoder layer mirrors .*at scales 1/2, 1/4; .*Pairing\.declare"):
            pair(model, torch.zeros(1, 3, 16, 24))

    def test_classifier_of_like_blocks_is_not_folded(self) -> None:
        body = nn.Sequential(Residual(4), Residual(4), Residual(4))
        model = nn.Sequential(conv(3, 4, stride=2), body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 9))
        with pytest.raises(PairingError, match="no decoder layer mirrors an encoder layer"):
            pair(model, torch.zeros(1, 3, 16, 24))

    def test_stages_of_a_classifier_are_no_stacks_to_mirror(self) -> None:
        def stage(i: int, o: int) -> nn.Sequential:
            return nn.Sequential(conv(i, o, stride=2), nn.Sequential(Residual(o), Residual(o)))

        stages = nn.Sequential(stage(3, 4), stage(4, 8))
        with pytest.raises(PairingError, match="no decoder layer mirrors an encoder layer"):
            pair(
                nn.Sequential(stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 9)), torch.zeros(1, 3, 16, 24)
            )
        with pytest.raises(PairingError, match="no decoder layer mirrors an encoder layer"):
            pair(stages, torch.zeros(1, 3, 16, 24))  # nor those of a backbone, of several scales

    def test_wrong_way_of_mirroring(self) -> None:
        with pytest.raises(PairingError, match="no decoder layer mirrors an encoder layer by depth"):
            pair(conv_autoencoder(), torch.zeros(1, 3, 16, 24), by="depth")
        with pytest.raises(ArgumentError, match="can't be mirrored by this; got 'size'"):
            pair(conv_autoencoder(), torch.zeros(1, 3, 16, 24), by="size")  # type: ignore[arg-type]

    def test_ignore(self) -> None:
        pairing = pair(conv_autoencoder(), torch.zeros(1, 3, 16, 24), ignore=["3"])
        assert pairing["1/4"].encoder.layer == "2"
        with pytest.raises(LayerNotFoundError, match="no layer to ignore; got '99'"):
            pair(conv_autoencoder(), torch.zeros(1, 3, 16, 24), ignore=["99"])


def simple() -> Pairing:
    return pair(conv_autoencoder(), torch.zeros(1, 3, 16, 24))


class TestEditing:
    def test_table(self) -> None:
        assert str(simple()).splitlines() == [
            "Pairing, 2 pairs, bottleneck 5",
            "  pair  encoder  decoder  channels  scale  companions",
            "  1/2   0        8        8         0.5    -",
            "  1/4   3        6        16        0.25   -",
        ]

    def test_access(self) -> None:
        pairing = simple()
        assert pairing[0] is pairing["1/2"]
        assert list(pairing) == [pairing[0], pairing[1]]
        assert len(pairing) == 2
        assert [str(tap) for tap in pairing.taps] == ["0", "8", "3", "6", "5"]
        with pytest.raises(LayerNotFoundError, match=r"no such pair; got '1/3'.*did you mean '1/"):
            pairing["1/3"]

    def test_without_and_reorder(self) -> None:
        pairing = simple()
        assert [p.name for p in pairing.without("1/2")] == ["1/4"]
        assert [p.name for p in pairing.reorder(["1/4", "1/2"])] == ["1/4", "1/2"]
        with pytest.raises(PairingError, match="at least one pair"):
            pairing.without("1/2", "1/4")
        with pytest.raises(PairingError, match="every pair once"):
            pairing.reorder(["1/2"])

    def test_replace_looks_the_layer_up(self) -> None:
        model, x = conv_autoencoder(inplace=True), torch.zeros(1, 3, 16, 24)
        pairing = pair(model, x)
        changed = pairing.replace("1/4", encoder="2", model=model, example=x)
        assert changed["1/4"].encoder == Tap("2")
        assert changed["1/4"].width == 16
        wider = pairing.replace("1/2", encoder="5", model=model, example=x)["1/2"]
        assert (wider.width, wider.scale) == (32, (0.125, 0.125))
        assert pairing["1/4"].encoder.layer == "3"  # the old one is as it was

    def test_replace_by_hand(self) -> None:
        assert simple().replace("1/2", name="half")["half"].encoder.layer == "0"
        assert simple().replace("1/2", decoder="9", decoder_width=8)["1/2"].decoder == Tap("9")
        with pytest.raises(ArgumentError, match=r"a new decoder needs its width.*decoder_width="):
            simple().replace("1/2", decoder="9")
        with pytest.raises(ArgumentError, match="no such field; got colour"):
            simple().replace("1/2", colour="red")
        with pytest.raises(PairingError, match="two pairs have the same name"):
            simple().replace("1/2", name="1/4")


class TestDeclare:
    def test_names_widths_and_layouts_are_looked_up(self) -> None:
        pairing = Pairing.declare(
            [("content.full", "decoder.full.1"), ("content.res.0", "decoder.res.0")],
            StyleTransfer(),
            PICTURES,
            companions={"content.res.0": ["style.res.0"]},
            bottleneck="content.res.1",
        )
        assert rows(pairing) == [
            ("1", "content.full", "decoder.full.1", 5, 5),
            ("1/4", "content.res.0", "decoder.res.0", 20, 20),
        ]
        assert pairing["1/4"].companions == (Tap("style.res.0"),)
        assert pairing.bottleneck == Tap("content.res.1")

    def test_given_names_repeated_scales_and_no_scale(self) -> None:
        model, x = conv_autoencoder(), torch.zeros(1, 3, 16, 24)
        assert [p.name for p in Pairing.declare({"outer": ("0", "8")}, model, x)] == ["outer"]
        assert [p.name for p in Pairing.declare([("0", "8"), ("1", "9")], model, x)] == ["1/2", "1/2 (2)"]
        mlp = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4))
        assert rows(Pairing.declare([("0", "1")], mlp, torch.zeros(1, 4))) == [("pair 1", "0", "1", 3, 4)]

    def test_inputs_and_paths(self) -> None:
        pairing = Pairing.declare([("d1[1]", "head:input")], TupleUNet(), torch.zeros(1, 3, 32, 48))
        assert rows(pairing) == [("1", "d1[1]", "head:input", 8, 8)]

    def test_mistakes(self) -> None:
        with pytest.raises(LayerNotFoundError, match="no layer '11'"):
            Pairing.declare([("0", "11")], conv_autoencoder(), torch.zeros(1, 3, 16, 24))
        with pytest.raises(
            PairingError, match=r"'d1' holds no one feature; got these: 'd1\[0\]|d1\[0\] \(1, 8, 16, 24\)"
        ):
            Pairing.declare([("d1", "u1")], TupleUNet(), torch.zeros(1, 3, 32, 48))
        with pytest.raises(PairingError, match="at least one pair"):
            Pairing.declare([], conv_autoencoder(), torch.zeros(1, 3, 16, 24))


class TestFiles:
    def test_round_trip(self, tmp_path: Path) -> None:
        for pairing in (
            pair(StyleTransfer(), PICTURES, companions=TestCompanions.COMPANIONS),
            pair(conv_autoencoder(inplace=True), torch.zeros(1, 3, 16, 24)),
            pair(nn.Transformer(8, 2, 2, 2, 16, batch_first=True), (torch.zeros(1, 7, 8), torch.zeros(1, 5, 8))),
            pair(TupleUNet(), torch.zeros(1, 3, 32, 48)),
        ):
            pairing.save(tmp_path / "pairing.json")
            assert Pairing.load(tmp_path / "pairing.json") == pairing
        assert os.listdir(tmp_path) == ["pairing.json"]  # nothing is left beside it

    def test_failed_write_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "pairing.json"
        simple().save(path)
        before = path.read_bytes()

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(FileError, match="can't be written; got No space left on device"):
            simple().without("1/2").save(path)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["pairing.json"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"format": "else"}, r"this isn't a pairing's JSON; expected the format 'skd\.pairing'"),
            ({"version": 2}, "another version; got 2; expected 1"),
            ({"pairs": []}, "at least one pair"),
            ({"pairs": [{"name": "x"}]}, "isn't a symmetric pair's JSON"),
            ({"bottleneck": {"layer": 3}}, "a tap can't have this layer"),
        ],
    )
    def test_other_content(self, change: dict[str, Any], message: str, tmp_path: Path) -> None:
        path = tmp_path / "pairing.json"
        path.write_text(json.dumps({**simple().to_json(), **change}))
        with pytest.raises(FileError, match=message):
            Pairing.load(path)

    @pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"null"])
    def test_damaged(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "pairing.json"
        path.write_bytes(content)
        with pytest.raises(FileError, match=r"pairing\.json' is no pairing file, or a damaged one"):
            Pairing.load(path)

    def test_truncated_and_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "pairing.json"
        simple().save(path)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(FileError, match="is no pairing file, or a damaged one"):
            Pairing.load(path)
        with pytest.raises(FileError, match="can't be read; got No such file"):
            Pairing.load(tmp_path / "other.json")


def test_the_model_is_left_as_it_was() -> None:
    model = UNet(2).train()
    model.mid.eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    pair(model, torch.randn(2, 2, 16, 24))
    assert [model.training, model.mid.training, model.enc.training] == [True, False, True]
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_pairs_are_plain_values() -> None:
    one = SymmetricPair("1/2", Tap("a"), Tap("b"), 4, 6, (0.5,), (Tap("c", layout="BNC"),))
    assert SymmetricPair.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert not one.has_equal_widths
    names: Sequence[str] = [p.name for p in Pairing((one,))]
    assert names == ["1/2"]
