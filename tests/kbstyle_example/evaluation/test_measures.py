"""The measures against numpy, closed forms and invariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbstyle_example.detail import detail_distance
from kbstyle_example.evaluation.measures import (
    HIGHER_IS_BETTER,
    Judge,
    content_distance,
    luminance_style_distance,
    measuring_layers,
    ssim,
    style_distance,
)
from kbstyle_example.luminance import luminance, matched_luminance
from kbstyle_example.moments import EPSILON
from kbstyle_example.perceptual import VGG, VGG19_STAGES, Perceptual, SqueezeNet
from skd.errors import ArgumentError, NonFiniteError, ShapeError

Array = np.ndarray[Any, Any]


class Tiny(Perceptual):
    """Three layers, the last of which is deeper than the content's."""

    name, layers, content_layer, smallest_side = "tiny", ("a", "b", "c"), "b", 8

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3, stride=2), nn.Conv2d(6, 2, 1)
        self.freeze()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        a = F.relu(self.a(self.checked(image)))
        b = F.relu(self.b(a))
        return {"a": a, "b": b, "c": self.c(b)}


def pictures(count: int = 2, side: int = 20) -> list[Tensor]:
    return [torch.rand(1, 3, side, side + 3 * index) for index in range(count)]


# --- luminance -------------------------------------------------------------------------------------------------------


def test_luminance_of_the_primaries() -> None:
    primaries = torch.eye(3).view(3, 3, 1, 1)
    torch.testing.assert_close(luminance(primaries).flatten(), torch.tensor([0.299, 0.587, 0.114]))
    torch.testing.assert_close(luminance(torch.full((1, 3, 2, 2), 0.4)), torch.full((1, 1, 2, 2), 0.4))


@pytest.mark.parametrize(
    ("image", "error", "says"),
    [
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), ArgumentError, "wrong type; got torch.uint8"),
        (torch.zeros(1, 1, 4, 4), ShapeError, r"not pictures; got \(1, 1, 4, 4\)"),
        (torch.zeros(3, 4, 4), ShapeError, "not pictures"),
        (torch.zeros(0, 3, 4, 4), ShapeError, "not pictures"),
        (torch.full((1, 3, 4, 4), float("nan")), NonFiniteError, "NaN or infinite"),
    ],
)
def test_luminance_of_what_isnt_a_picture(image: Tensor, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        luminance(image)


def test_matched_luminance_has_the_paintings_mean_and_deviation() -> None:
    image, style = pictures()
    style = 0.3 * style + 0.1
    found, wanted = matched_luminance(image, style), luminance(style)
    assert found.shape == image.shape
    torch.testing.assert_close(found[:, 0], found[:, 2])
    torch.testing.assert_close(found[:, :1].mean(), wanted.mean())
    variance = found[:, 0].var(correction=0).item()
    own = luminance(image).var(correction=0).item()
    assert variance == pytest.approx((wanted.var(correction=0).item() + EPSILON) * own / (own + EPSILON), rel=1e-4)


# --- distances -------------------------------------------------------------------------------------------------------


def style_by_hand(net: Tiny, result: Tensor, style: Tensor) -> float:
    terms = []
    found, wanted = net(result), net(style)
    for layer in ("a", "b"):
        f, w = (x[layer][0].double().numpy() for x in (found, wanted))
        mean, deviation = f.mean((1, 2)), np.sqrt(f.var((1, 2)) + EPSILON)
        wanted_mean, wanted_deviation = w.mean((1, 2)), np.sqrt(w.var((1, 2)) + EPSILON)
        energy = (wanted_mean**2 + wanted_deviation**2).mean()
        terms.append((((mean - wanted_mean) ** 2).mean() + ((deviation - wanted_deviation) ** 2).mean()) / energy)
    return float(np.mean(terms))


def test_style_distance() -> None:
    net = Tiny()
    result, style = pictures()
    assert style_distance(net, result, style).item() == pytest.approx(style_by_hand(net, result, style), rel=1e-4)
    assert style_distance(net, style, style).item() == 0


def test_luminance_style_distance() -> None:
    net = Tiny()
    result, style = pictures()
    grey, own = (matched_luminance(image, style) for image in (result, style))
    assert luminance_style_distance(net, result, style).item() == pytest.approx(style_by_hand(net, grey, own), rel=1e-4)
    assert luminance_style_distance(net, style, style).item() == 0


def test_recolouring_lowers_the_style_distance_and_not_that_of_luminance() -> None:
    """Each channel brought to the painting's mean and deviation: colour alone."""
    net = SqueezeNet().freeze()
    content = F.interpolate(torch.rand(1, 3, 6, 6), (64, 64), mode="bicubic").clamp(0, 1)
    style = 0.5 * torch.rand(1, 3, 64, 64) * torch.tensor([1.0, 0.5, 0.2]).view(1, 3, 1, 1)
    grey = luminance(content).expand(-1, 3, -1, -1)  # so that no strokes can change with the mix of the channels
    mean, deviation = style.mean((2, 3), keepdim=True), style.std((2, 3), keepdim=True)
    recoloured = (grey - grey.mean()) / grey.std() * deviation + mean
    assert style_distance(net, recoloured, style) < 0.9 * style_distance(net, grey, style)
    before, after = (luminance_style_distance(net, image, style) for image in (grey, recoloured))
    torch.testing.assert_close(after, before, rtol=1e-2, atol=0)


def test_content_distance() -> None:
    net = Tiny()
    result, content = torch.rand(2, 1, 3, 20, 20)

    def standard(image: Tensor) -> Array:
        feature = net(image)["b"][0].double().numpy()
        deviation = np.sqrt(feature.var((1, 2), keepdims=True) + EPSILON)
        return np.asarray((feature - feature.mean((1, 2), keepdims=True)) / deviation)

    wanted = ((standard(result) - standard(content)) ** 2).mean()
    assert content_distance(net, result, content).item() == pytest.approx(wanted, rel=1e-4)
    with pytest.raises(ShapeError, match="features of two contents"):
        content_distance(net, result, content[..., :14])


def test_measuring_layers_of_the_known_networks() -> None:
    vgg = VGG("vgg", (1, 1, 1, 1, 1), stages=VGG19_STAGES)
    assert measuring_layers(vgg) == ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
    assert measuring_layers(SqueezeNet()) == ("conv1", "fire2", "fire4", "fire6")


def test_a_judge_says_what_the_functions_say() -> None:
    nets: list[Perceptual] = [Tiny(), SqueezeNet().freeze()]
    content, result = torch.rand(2, 1, 3, 40, 40)
    style = torch.rand(1, 3, 48, 44)
    found = Judge(content, style, nets)(result)
    wanted = {"ssim": ssim(result, content), "detail": detail_distance(result, style)}
    for net in nets:
        wanted[f"{net.name}/style"] = style_distance(net, result, style)
        wanted[f"{net.name}/luminance_style"] = luminance_style_distance(net, result, style)
        wanted[f"{net.name}/content"] = content_distance(net, result, content)
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value.item(), rel=1e-5)
        assert name.rpartition("/")[2] in HIGHER_IS_BETTER


def test_a_judge_needs_a_result_of_the_contents_size() -> None:
    judge = Judge(torch.rand(1, 3, 20, 20), torch.rand(1, 3, 20, 20), [Tiny()])
    with pytest.raises(ShapeError, match="pictures to compare"):
        judge(torch.rand(1, 3, 20, 24))
