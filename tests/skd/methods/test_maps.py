"""Methods that compare maps, against their formulas written out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skd import Distiller
from skd.errors import ArgumentError, ShapeError
from skd.knowledge import attention
from skd.methods import AT, CIRKD, CWD, FSP, ICKD, MGD, NST, OFD, OMGD, PKD, VID, GANCompression, ReviewKD, StructuredKD
from skd.methods.ofd import negative_mean
from skd.methods.omgd import dissimilar, total_variation

NAMES = ["1/2/encoder", "1/2/decoder", "1/4/encoder", "1/4/decoder"]


def bcn(feature: Tensor) -> np.ndarray:
    """(B, C, N) of maps or tokens."""
    flat = feature.flatten(2) if feature.ndim == 4 else feature.transpose(1, 2)
    return flat.detach().numpy()


def regressed(distiller: Distiller, name: str, feature: Tensor) -> Tensor:
    """The student's feature through its 1×1 map, with the weights written out."""
    row = next(row for row in distiller.transfers if row.name.startswith(f"{name}/"))
    (adapter,) = row.student_adapters
    linear = next(module for module in adapter.modules() if hasattr(module, "weight"))
    equation = "bchw,dc->bdhw" if feature.ndim == 4 else "bnc,dc->bnd"
    out = torch.einsum(equation, feature, linear.weight)
    bias = 0 if linear.bias is None else linear.bias
    return out + (bias[:, None, None] if feature.ndim == 4 and isinstance(bias, Tensor) else bias)


def close(losses: dict[str, Tensor], expected: dict[str, float]) -> None:
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("kind", ["maps", "tokens"])
def test_at(case: Any, kind: str) -> None:
    made = case(kind)
    code, paper = {}, {}
    for name, sides in made.both().items():
        maps = [(bcn(side) ** 2).sum(1) for side in sides]
        student, teacher = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in maps)
        code[f"{name}/attention"] = 1000 * ((student - teacher) ** 2).mean()
        paper[f"{name}/attention"] = np.linalg.norm(student - teacher, axis=1).mean()
    code.pop("/attention"), paper.pop("/attention")
    close(made.losses(AT(made.plan, output=0)), code)
    close(made.losses(AT(made.plan, variant="paper", output=0)), paper)
    close(
        made.losses(AT(made.plan, variant="paper", weight=2.0, output=0)),
        {name: 2 * value for name, value in paper.items()},
    )


@pytest.mark.parametrize("kind", ["maps", "tokens"])
def test_cwd(case: Any, kind: str) -> None:
    made = case(kind)
    distiller, both = made.distiller(CWD(made.plan, temperature=2.0, output=0)), made.both()
    expected = {}
    for name in NAMES:
        logits = [bcn(regressed(distiller, name, both[name][0])) / 2, bcn(both[name][1]) / 2]
        student, teacher = (np.exp(one) / np.exp(one).sum(2, keepdims=True) for one in logits)
        divergences = (teacher * np.log(teacher / student)).sum(2)
        expected[f"{name}/channels"] = 50 * 4 / divergences.size * divergences.sum()
    close(distiller(made.x).losses.terms, expected)


@pytest.mark.parametrize("kind", ["maps", "tokens"])
def test_pkd(case: Any, kind: str) -> None:
    """½ the squared error of standardised features is 1 − the correlation, up to the deviations' eps."""
    made = case(kind)
    distiller, both = made.distiller(PKD(made.plan, weight=1.0, output=0)), made.both()
    losses = distiller(made.x).losses.terms
    for name in NAMES:
        student, teacher = bcn(regressed(distiller, name, both[name][0])), bcn(both[name][1])
        correlations = [
            np.corrcoef(student[:, c].ravel(), teacher[:, c].ravel())[0, 1] for c in range(teacher.shape[1])
        ]
        assert losses[f"{name}/pearson"].item() == pytest.approx(1 - np.mean(correlations), rel=1e-4)


@pytest.mark.parametrize("kind", ["maps", "tokens"])
def test_nst(case: Any, kind: str) -> None:
    made = case(kind)
    expected = {}
    for name, sides in made.both().items():
        student, teacher = (bcn(side) / np.linalg.norm(bcn(side), axis=2, keepdims=True) for side in sides)

        def kernel(one: np.ndarray, other: np.ndarray) -> float:
            values = [(x @ y) ** 2 for x in one for y in other]
            return float(np.mean(values))

        each = [kernel(t, t) + kernel(s, s) - 2 * kernel(s, t) for s, t in zip(student, teacher, strict=True)]
        expected[f"{name}/selectivity"] = 50 * np.mean(each)
    expected.pop("/selectivity")
    close(made.losses(NST(made.plan, output=0)), expected)


@pytest.mark.parametrize("kind", ["maps", "tokens"])
def test_ickd(case: Any, kind: str) -> None:
    made = case(kind)
    both = made.both()
    for variant, power in (("code", 1), ("paper", 2)):
        distiller = made.distiller(ICKD(made.plan, variant=variant, output=0))
        expected = {}
        for name in NAMES:
            total = 0.0
            for s, t in zip(bcn(regressed(distiller, name, both[name][0])), bcn(both[name][1]), strict=True):
                ours, theirs = (f @ f.T / np.linalg.norm(f @ f.T, axis=1, keepdims=True) for f in (s, t))
                total += ((ours - theirs) ** 2).sum()
            samples, channels = both[name][1].shape[0], bcn(both[name][1]).shape[1]
            expected[f"{name}/correlation"] = 2.5 * total / (samples * channels**power)
        close(distiller(made.x).losses.terms, expected)


def pooled(feature: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """Averages over a grid that divides the map, cell by cell."""
    height, width = feature.shape[2] // grid[0], feature.shape[3] // grid[1]
    cells = [
        feature[:, :, i * height : (i + 1) * height, j * width : (j + 1) * width].mean((2, 3))
        for i in range(grid[0])
        for j in range(grid[1])
    ]
    return torch.stack(cells, 2).detach().numpy()


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Between the columns of two (C, P)."""
    return (one / np.linalg.norm(one, axis=0)).T @ (other / np.linalg.norm(other, axis=0))


def test_structured_kd(case: Any) -> None:
    made = case(size=(16, 24))  # features 8×12 and 4×6; a grid of at most 24 cells is 4×6 of both
    expected = {}
    for name in NAMES:
        student, teacher = (pooled(side, (4, 6)) for side in made.both()[name])
        total = sum(((cosines(s, s) - cosines(t, t)) ** 2).sum() for s, t in zip(student, teacher, strict=True))
        expected[f"{name}/affinity"] = 10 * total / (len(student) * 24**2)
    close(made.losses(StructuredKD(made.plan, count=24, output=0)), expected)


def test_structured_kd_of_tokens(case: Any) -> None:
    made = case("tokens")
    student, teacher = (bcn(side) for side in made.both()["1/2/encoder"])
    total = sum(((cosines(s, s) - cosines(t, t)) ** 2).mean() for s, t in zip(student, teacher, strict=True))
    losses = made.losses(StructuredKD(made.plan, output=0))
    assert losses["1/2/encoder/affinity"].item() == pytest.approx(10 * total / len(student))


def test_cirkd(case: Any) -> None:
    made = case(size=(16, 24))
    expected = {}
    for name in NAMES:
        student, teacher = (pooled(side, (4, 6)) for side in made.both()[name])
        total = 0.0
        for i in range(len(student)):
            for j in range(len(student)):
                logits = [cosines(side[i], side[j]) / 0.5 for side in (student, teacher)]
                ours, theirs = (np.exp(one) / np.exp(one).sum(1, keepdims=True) for one in logits)
                total += (theirs * np.log(theirs / ours)).sum(1).mean()
        expected[f"{name}/relations"] = 3 * total / len(student) ** 2
    close(made.losses(CIRKD(made.plan, temperature=0.5, count=24, weight=3.0, output=0)), expected)
    with pytest.raises(ArgumentError, match="temperature must be positive"):
        CIRKD(made.plan, temperature=0)


def test_fsp(case: Any) -> None:
    made = case()
    distiller, both = made.distiller(FSP(made.plan, output=0)), made.both()
    adapters = {}
    for row in distiller.transfers:
        for tap, adapter in zip(row.student_taps, row.student_adapters, strict=True):
            assert adapters.setdefault(tap.layer, adapter) is adapter

    def flow(large: Tensor, small: Tensor) -> Tensor:
        large = F.max_pool2d(large, 2)
        return torch.einsum("bchw,bdhw->bcd", large, small) / (small.shape[2] * small.shape[3])

    expected = {}
    for outer, inner, name in (
        ("1/2/encoder", "1/4/encoder", "1/2/encoder"),
        ("1/2/decoder", "1/4/decoder", "1/4/decoder"),
    ):
        layers = {"1/2/encoder": "enc1", "1/4/encoder": "enc2", "1/2/decoder": "dec1", "1/4/decoder": "dec2"}
        ours = [adapters[layers[layer]](both[layer][0]) for layer in (outer, inner)]
        difference = flow(*ours) - flow(both[outer][1], both[inner][1])
        expected[f"{name}/flow"] = 50 * difference.square().mean().item()
    close(distiller(made.x).losses.terms, expected)  # a transposed flow has the same mean of squares


def test_fsp_of_tokens_and_of_one_pair(case: Any) -> None:
    made = case("tokens", equal=True)
    made.student = type(made.teacher)((8, 12, 12, 6)).double()
    both, losses = made.both(), made.losses(FSP(made.plan, sides="encoder", output=0))
    ours, theirs = ([both[name][side] for name in ("1/2/encoder", "1/4/encoder")] for side in (0, 1))
    flows = [torch.einsum("bnc,bnd->bcd", one, other) / 9 for one, other in (ours, theirs)]
    assert losses["1/2/encoder/flow"].item() == pytest.approx(50 * (flows[0] - flows[1]).square().mean().item())
    with pytest.raises(ArgumentError, match="no side has two"):
        FSP(type(made.plan)(made.plan.rows[:1]))


def test_gan_compression_has_a_map_even_where_widths_are_equal(case: Any) -> None:
    made = case(equal=True)
    distiller = made.distiller(GANCompression(made.plan, weight=2.0, output=0))
    with torch.no_grad():
        for parameter in distiller.adapters.parameters():
            parameter.add_(torch.randn_like(parameter))
    expected = {
        f"{name}/feature": 2
        * (regressed(distiller, name, made.both()[name][0]) - made.both()[name][1]).square().mean().item()
        for name in NAMES
    }
    close(distiller(made.x).losses.terms, expected)


# --- learned ---


@pytest.mark.parametrize("kind", ["maps", "tokens"])
def test_vid(case: Any, kind: str) -> None:
    made = case(kind)
    distiller, both = made.distiller(VID(made.plan, output=0)), made.both()
    expected = {}
    for row in distiller.transfers:
        name = row.name.removesuffix("/information")
        (adapter,) = row.student_adapters
        *weights, spread = sorted(adapter.parameters(), key=lambda parameter: parameter.ndim, reverse=True)
        with torch.no_grad():
            spread.normal_()
        mean = torch.from_numpy(bcn(both[name][0]))
        for index, weight in enumerate(weights):
            mean = torch.einsum("bcn,dc->bdn", mean.relu() if index else mean, weight)
        variance = (spread.exp() + 1).log() + 1e-5
        errors = (mean - torch.from_numpy(bcn(both[name][1]))).square() / variance[:, None]
        expected[row.name] = ((errors + variance.log()[:, None]) / 2).mean().item()
        assert len(weights) == 3
    close(distiller(made.x).losses.terms, expected)


def test_vid_starts_at_a_variance_of_five(case: Any) -> None:
    made = case()
    row = VID(made.plan, depth=1).transfers()[0]
    spread = next(p for p in row.adapters()[0].parameters() if p.ndim == 1)
    torch.testing.assert_close(F.softplus(spread) + 1e-5, torch.full((8,), 5.0))
    assert sum(p.numel() for p in row.adapters()[0].parameters()) == 4 * 8 + 8
    with pytest.raises(ArgumentError, match="at least one layer; got depth=0"):
        VID(made.plan, depth=0)


@pytest.mark.parametrize("kind", ["maps", "tokens"])
def test_mgd(case: Any, kind: str) -> None:
    made = case(kind)
    distiller, both = made.distiller(MGD(made.plan, weight=0.5, output=0)), made.both()
    convolve = F.conv2d if kind == "maps" else F.conv1d
    axis = 1 if kind == "maps" else 2

    def expected(masks: dict[str, Tensor] | None) -> dict[str, float]:
        found = {}
        for row in distiller.transfers:
            name = row.name.removesuffix("/generated")
            weights = [p for key, p in row.student_adapters[0].named_parameters() if "convolution" in key]
            feature, teacher = regressed(distiller, name, both[name][0]), both[name][1]
            feature = feature * masks[row.name] if masks else feature
            if kind == "tokens":
                feature, teacher = feature.mT, teacher.mT
            feature = convolve(feature, weights[0], weights[1], padding=1).relu()
            feature = convolve(feature, weights[2], weights[3], padding=1)
            found[row.name] = 0.5 * (feature - teacher).square().sum().item() / len(teacher)
        return found

    close(distiller.eval()(made.x).losses.terms, expected(None))
    torch.manual_seed(5)
    losses = distiller.train()(made.x).losses.terms
    torch.manual_seed(5)
    masks = {}
    for row in distiller.transfers:  # one number a position, in the order of the rows
        teacher = both[row.name.removesuffix("/generated")][1]
        masks[row.name] = (torch.rand_like(teacher.narrow(axis, 0, 1), dtype=torch.float32) <= 0.35).double()
    close(losses, expected(masks))
    with pytest.raises(ArgumentError, match=r"a share of the positions is masked; got 1\.0"):
        MGD(made.plan, masked=1.0)


def test_mgd_masks_the_share_that_is_said() -> None:
    from skd.methods.mgd import Generated

    seen: list[Tensor] = []
    module = Generated(2, masked=0.65, layout="BCHW")
    module.first.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    module(torch.ones(4, 2, 50, 60))
    assert set(seen[0].unique().tolist()) == {0.0, 1.0}
    assert seen[0].mean().item() == pytest.approx(0.35, abs=0.02)
    assert torch.equal(seen[0][:, 0], seen[0][:, 1])  # all channels of a position
    assert "masked=0.65, BCHW" in repr(module)


@pytest.mark.parametrize("kind", ["maps", "tokens"])
@pytest.mark.parametrize("measured", [True, False])
def test_ofd(case: Any, kind: str, measured: bool) -> None:
    made = case(kind)
    spectra = made.spectra() if measured else None
    distiller, both = made.distiller(OFD(made.plan, spectra, output=0)), made.both()
    expected = {}
    for name in NAMES:
        student, teacher = bcn(regressed(distiller, name, both[name][0])), bcn(both[name][1])
        values = teacher.transpose(1, 0, 2).reshape(teacher.shape[1], -1)  # of each channel
        if measured:  # by sampling the normal distributions
            normal = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
            margins = []
            for mean, deviation in zip(values.mean(1), values.std(1, ddof=1), strict=True):
                drawn = mean + deviation * normal
                below = drawn[drawn < 0]
                margins.append(below.mean() if len(below) > 400 else -3 * deviation)
        else:
            margins = [one[one < 0].mean() if (one < 0).any() else 0.0 for one in values]
        target = np.maximum(teacher, np.array(margins)[:, None])
        counts = (student > target) | (teacher > 0)
        factor = 1e-3 * (1.0 if name.startswith("1/4") else 0.5) / len(teacher)
        expected[f"{name}/margin"] = factor * (((student - target) ** 2) * counts).sum()
    for name, loss in distiller(made.x).losses.terms.items():
        assert loss.item() == pytest.approx(expected[name], rel=3e-3 if measured else 1e-9), name


def test_ofd_where_nothing_is_negative() -> None:
    margins = negative_mean(
        torch.tensor([5.0, -50.0], dtype=torch.float64), torch.tensor([1.0, 0.5], dtype=torch.float64)
    )
    torch.testing.assert_close(margins, torch.tensor([-3.0, -50.0], dtype=torch.float64))


def test_ofd_refuses_the_spectra_of_other_layers(case: Any) -> None:
    made, other = case(), case()
    other.plan = type(made.plan)(made.plan.rows[:1])
    with pytest.raises(ShapeError, match="of other layers than the plan's; got enc1, dec1; expected enc2"):
        OFD(made.plan, other.spectra()).transfers()


@pytest.mark.parametrize("kind", ["maps", "tokens"])
def test_review_kd(case: Any, kind: str) -> None:
    made = case(kind)
    distiller, both = made.distiller(ReviewKD(made.plan, output=0)), made.both()
    rows = {row.name.removesuffix("/review"): row for row in distiller.transfers}
    convolve = F.conv2d if kind == "maps" else F.conv1d

    def first(feature: Tensor) -> Tensor:
        return feature if kind == "maps" else feature.mT

    def linear(feature: Tensor, weight: Tensor) -> Tensor:
        return torch.einsum("bc...,dc->bd...", feature, weight)

    def pyramid(student: Tensor, teacher: Tensor) -> float:
        total, weights = (student - teacher).square().mean().item(), 1.0
        levels = [level for level in (4, 2, 1) if level < min(student.shape[2:])]
        for level, weight in zip(levels, (0.5, 0.25, 0.125), strict=False):
            pool = F.adaptive_avg_pool2d if kind == "maps" else F.adaptive_avg_pool1d
            total += weight * (pool(student, level) - pool(teacher, level)).square().mean().item()
            weights += weight
        return total / weights

    expected = {}
    # The layer that runs last, and the one that runs before: the inner encoder layer, and the outer decoder layer.
    for last, before in (("1/4/encoder", "1/2/encoder"), ("1/2/decoder", "1/4/decoder")):
        one = dict(rows[last].student_adapters[0].named_parameters())
        other = dict(rows[before].student_adapters[1].named_parameters())
        weights = [[p for key, p in each.items() if part in key]
                   for part, each in (("project", one), ("convolution", one), ("project", other), ("weigh.", other),
                                      ("convolution", other))]  # fmt: skip
        fused = linear(first(both[last][0]), weights[0][0])
        out = convolve(fused, *weights[1], padding=1)
        expected[f"{last}/review"] = pyramid(out, first(both[last][1]))
        own = linear(first(both[before][0]), weights[2][0])
        if kind == "maps":  # the encoder's grows to the outer size, the decoder's shrinks to the inner one
            larger = own.shape[2] > fused.shape[2]
            fused = fused.repeat_interleave(2, 2).repeat_interleave(2, 3) if larger else F.avg_pool2d(fused, 2)
        logits = linear(torch.cat([own, fused], 1), weights[3][0])
        shares = (logits + weights[3][1].reshape(1, -1, *(1,) * (own.ndim - 2))).sigmoid()
        fused = own * shares[:, :1] + fused * shares[:, 1:]
        out = convolve(fused, *weights[4], padding=1)
        expected[f"{before}/review"] = pyramid(out, first(both[before][1]))
    close(distiller(made.x).losses.terms, expected)


# --- pictures ---


def test_omgd(case: Any) -> None:
    made = case()
    distiller, both = made.distiller(OMGD(made.plan, weight=2.0, data_range=4.0, output=0)), made.both()
    expected = {}
    for name in NAMES:
        averages = [side.mean((2, 3)) for side in (regressed(distiller, name, both[name][0]), both[name][1])]
        expected[f"{name}/averages"] = 100 * (averages[0] - averages[1]).square().mean().item()
    student, teacher = both[""]
    expected["similarity"] = 20 * (1 - similarity(student.detach().numpy(), teacher.numpy(), 4.0))
    variation = sum(np.abs(np.diff(student.detach().numpy(), axis=axis)).sum() for axis in (2, 3))
    expected["variation"] = 2e-5 * variation
    close(distiller(made.x).losses.terms, expected)
    one = OMGD(made.plan, channels=0, variation=0, output=0).transfers()
    assert [row.name for row in one] == ["similarity"]


def similarity(one: np.ndarray, other: np.ndarray, data_range: float) -> float:
    """SSIM, window by window, with zeros around the picture."""
    steps = np.arange(-5, 6)
    line = np.exp(-(steps**2) / 4.5)
    window = np.outer(line, line) / line.sum() ** 2
    first, second = (np.pad(side, ((0, 0), (0, 0), (5, 5), (5, 5))) for side in (one, other))
    small, less = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for b, c, y, x in np.ndindex(*one.shape):
        a, o = first[b, c, y : y + 11, x : x + 11], second[b, c, y : y + 11, x : x + 11]
        mean, mean2 = (window * a).sum(), (window * o).sum()
        var, var2 = (window * a * a).sum() - mean**2, (window * o * o).sum() - mean2**2
        cov = (window * a * o).sum() - mean * mean2
        values.append(
            (2 * mean * mean2 + small) / (mean**2 + mean2**2 + small) * (2 * cov + less) / (var + var2 + less)
        )
    return float(np.mean(values))


@pytest.mark.parametrize("size", [(1, 1), (4, 5), (11, 30), (12, 10)])
def test_ssim_of_pictures_of_any_size(size: tuple[int, int]) -> None:
    picture = torch.rand(2, 3, *size)
    assert dissimilar(picture, picture).item() == 0
    assert 0 < dissimilar(picture, torch.rand(2, 3, *size)).item() < 2


def test_pictures_only() -> None:
    for distance in (dissimilar, total_variation):
        with pytest.raises(ShapeError, match=r"pictures; got \(2, 3, 4\)"):
            distance(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))


def test_sizes_that_differ_are_resampled(case: Any) -> None:
    """A student whose features are twice as large: each method of maps brings them to the teacher's size."""
    made = case(size=(16, 24))
    made.student.enc1 = nn.Conv2d(3, 4, 3, 1, 1).double()
    made.student.up1 = nn.Conv2d(3, 3, 1).double()
    for method in (AT, CWD, PKD, NST, ICKD, VID, MGD, OFD, StructuredKD, CIRKD, ReviewKD, FSP, GANCompression):
        losses = made.losses(method(made.plan))
        assert all(math.isfinite(loss.item()) for loss in losses.values()), method
    student, teacher = made.both()["1/2/encoder"]
    maps = [F.avg_pool2d(student, 2).square().sum(1).flatten(1), teacher.square().sum(1).flatten(1)]
    ours, theirs = (F.normalize(one, dim=1) for one in maps)
    found = made.losses(AT(made.plan, weight=1.0))["1/2/encoder/attention"]
    torch.testing.assert_close(found, (ours - theirs).square().mean())


def test_at_has_nothing_to_say_behind_a_layer_norm() -> None:
    """Said in its docstring: the squares of a normalised vector add up to the same at every position."""
    tokens = torch.randn(2, 9, 16)
    flat = attention(nn.LayerNorm(16, eps=0.0)(tokens), layout="BNC")
    torch.testing.assert_close(flat, torch.full((2, 9), 1 / 3), rtol=1e-4, atol=0)
    assert attention(tokens, layout="BNC").std() > 0.01
