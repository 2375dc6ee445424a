"""Spectra against closed forms and brute force; measure() against numpy on all data at once; files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from skd.errors import ArgumentError, DataError, FileError, LayerNotFoundError, NonFiniteError, ShapeError
from skd.moments import Moments
from skd.pairing import Pairing, SymmetricPair, pair
from skd.spectra import PairSpectra, Spectra, measure
from skd.subspaces import Kind
from skd.taps import Tap


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_moments(cov: Tensor, mean: float = 0.0) -> Moments:
    moments = Moments(cov.shape[0])
    moments.count, moments.scatter = 101, cov.double() * 100
    moments.mean += mean
    return moments


def covariance(channels: int, seed: int) -> Tensor:
    factor = gaussian(channels, channels, seed=seed)
    return factor @ torch.diag(torch.arange(1.0, channels + 1).double() ** 2) @ factor.T


def spectra_of(encoder: Tensor, decoder: Tensor, cross: Tensor | None = None, *companions: Tensor) -> PairSpectra:
    taps = tuple(Tap(f"style{k}") for k in range(len(companions)))
    pair = SymmetricPair("1", Tap("e"), Tap("d"), len(encoder), len(decoder), None, taps)
    beside = tuple(exact_moments(cov) for cov in companions)
    return PairSpectra(pair, exact_moments(encoder, 1.0), exact_moments(decoder, 2.0), cross, beside)


def equal(seed: int = 0) -> PairSpectra:
    return spectra_of(covariance(6, seed), covariance(6, seed + 10), gaussian(6, 6, seed=seed + 20))


def unequal() -> PairSpectra:
    return spectra_of(covariance(4, 0), covariance(8, 1), gaussian(4, 8, seed=2))


def kept(cov: Tensor, basis: Tensor) -> float:
    return float((basis.T @ cov @ basis).trace() / cov.trace())


class TestSharedBasis:
    def test_matrix_is_the_mean_of_both_sides_over_their_traces(self) -> None:
        encoder, decoder = torch.diag(torch.tensor([3.0, 1.0])), torch.diag(torch.tensor([10.0, 30.0]))
        matrix = spectra_of(encoder, decoder).shared_matrix()
        assert_close(matrix, torch.diag(torch.tensor([0.5, 0.5])).double())
        assert float(equal().shared_matrix().trace()) == pytest.approx(1, abs=1e-12)

    @pytest.mark.parametrize("width", [1, 3, 6])
    def test_energy_is_the_trace_and_the_sum_of_eigenvalues(self, width: int) -> None:
        spectra = equal()
        matrix = spectra.shared_matrix()
        basis = spectra.basis(width)
        assert basis.encoder is basis.decoder is basis.lift_encoder
        assert_close(basis.encoder.T @ basis.encoder, torch.eye(width, dtype=torch.float64))
        largest = np.sort(np.linalg.eigvalsh(matrix.numpy()))[::-1][:width].sum()
        assert spectra.energy(width) == pytest.approx(largest, abs=1e-12)
        assert spectra.energy(width) == pytest.approx(kept(matrix, basis.encoder), abs=1e-12)
        assert basis.energy_encoder == pytest.approx(kept(spectra.encoder.cov, basis.encoder), abs=1e-12)
        assert basis.energy_decoder == pytest.approx(kept(spectra.decoder.cov, basis.decoder), abs=1e-12)

    @settings(max_examples=30)
    @given(seed=st.integers(0, 10**6), width=st.integers(1, 6))
    def test_no_other_basis_keeps_more(self, seed: int, width: int) -> None:
        spectra = equal()
        matrix, best = spectra.shared_matrix(), spectra.basis(width).encoder
        other = torch.linalg.qr(gaussian(6, width, seed=seed))[0]
        nudged = torch.linalg.qr(best + 1e-3 * gaussian(6, width, seed=seed))[0]
        assert kept(matrix, other) <= spectra.energy(width) + 1e-12
        assert kept(matrix, nudged) <= spectra.energy(width) + 1e-12

    def test_gradient_of_the_energy_is_zero_along_every_rotation(self) -> None:
        spectra = equal()
        matrix = spectra.shared_matrix()
        turn = torch.zeros(6, 6, dtype=torch.float64, requires_grad=True)
        basis = torch.linalg.matrix_exp(turn - turn.T) @ spectra.basis(3).encoder
        (basis.T @ matrix @ basis).trace().backward()
        assert_close(turn.grad, torch.zeros_like(turn), atol=1e-12, rtol=0)

    def test_signs_are_the_same_for_the_same_data(self) -> None:
        one, other = equal().basis(6).encoder, equal().basis(6).encoder
        assert torch.equal(one, other)
        assert bool((one.gather(0, one.abs().argmax(0)[None]) > 0).all())

    def test_unequal_widths_have_none(self) -> None:
        for kind in ("shared", "subset"):
            with pytest.raises(ArgumentError, match=r"same width; got 2 and 4|no shared matrix.*got 4 and 8 channels"):
                unequal().basis(2, kind)
        with pytest.raises(ArgumentError, match=r"pair '1' have no shared matrix.*kind='linked'"):
            unequal().shared_matrix()


class TestOtherBases:
    def test_own_is_each_sides_best(self) -> None:
        spectra = equal()
        basis = spectra.basis(2, "own")
        for cov, side, energy in (
            (spectra.encoder.cov, basis.encoder, basis.energy_encoder),
            (spectra.decoder.cov, basis.decoder, basis.energy_decoder),
        ):
            values = np.linalg.eigvalsh(cov.numpy())[::-1]
            assert energy == pytest.approx(values[:2].sum() / values.sum(), abs=1e-12)
            assert_close((cov @ side).T @ (cov @ side), torch.diag(torch.from_numpy(values[:2] ** 2)))
        assert basis.energy >= spectra.basis(2, "shared").energy

    @pytest.mark.parametrize("make", [equal, unequal])
    def test_linked_keeps_the_own_subspaces_and_one_coordinate_system(self, make: Any) -> None:
        spectra = make()
        own, linked = spectra.basis(3, "own"), spectra.basis(3, "linked")
        assert_close(linked.encoder @ linked.encoder.T, own.encoder @ own.encoder.T)
        assert_close(linked.decoder @ linked.decoder.T, own.decoder @ own.decoder.T)
        assert linked.energy == pytest.approx(own.energy, abs=1e-12)
        crossed = linked.encoder.T @ spectra.cross @ linked.decoder
        values = np.linalg.svd((own.encoder.T @ spectra.cross @ own.decoder).numpy(), compute_uv=False)
        expected = torch.zeros_like(crossed)
        expected.diagonal().copy_(torch.from_numpy(values))
        assert_close(crossed, expected, atol=1e-12, rtol=1e-9)

    def test_linked_finds_a_rotated_copy(self) -> None:
        """Where the decoder is the encoder in turned coordinates, linking undoes the turn."""
        cov = torch.diag(torch.tensor([5.0, 3.0, 1.0])).double()
        turn = torch.linalg.qr(gaussian(3, 3))[0]
        spectra = spectra_of(cov, turn @ cov @ turn.T, cov @ turn.T)
        basis = spectra.basis(2, "linked")
        assert_close(turn @ basis.encoder, basis.decoder)

    def test_linked_needs_the_cross_covariance(self) -> None:
        spectra = spectra_of(covariance(4, 0), covariance(4, 1))
        for call in (lambda: spectra.basis(2, "linked"), lambda: spectra.energy_curve("linked")):
            with pytest.raises(
                ArgumentError, match=r"pair '1' has no cross-covariance to link its sides by.*kind='own'"
            ):
                call()

    def test_subset_is_the_same_channels_with_a_lift_for_each_side(self) -> None:
        spectra = equal()
        basis = spectra.basis(3, "subset")
        assert basis.channels == basis.decoder_channels
        picked = list(basis.channels)
        assert_close(basis.encoder.T @ torch.arange(6.0).double(), torch.tensor(picked).double())
        for cov, lift, energy in (
            (spectra.encoder.cov, basis.lift_encoder, basis.energy_encoder),
            (spectra.decoder.cov, basis.lift_decoder, basis.energy_decoder),
        ):
            block = cov[picked][:, picked]
            assert_close(lift, torch.linalg.solve(block, cov[picked]).T)
            residual = cov - lift @ cov[picked]
            assert energy == pytest.approx(1 - float(residual.trace() / cov.trace()), abs=1e-12)

    def test_own_subset_for_unequal_widths(self) -> None:
        basis = unequal().basis(2, "own_subset")
        assert (len(basis.channels), len(basis.decoder_channels)) == (2, 4)
        assert basis.decoder.shape == basis.lift_decoder.shape == (8, 4)

    @pytest.mark.parametrize("kind", ["shared", "own", "linked", "subset", "own_subset"])
    def test_full_width_loses_nothing(self, kind: Kind) -> None:
        spectra = equal()
        basis = spectra.basis(6, kind)
        assert basis.energy == pytest.approx(1, abs=1e-9)
        x = gaussian(6, 5)
        for side, lift in ((basis.encoder, basis.lift_encoder), (basis.decoder, basis.lift_decoder)):
            assert_close(lift @ side.T @ x, x, atol=1e-7, rtol=1e-7)
        assert_close(basis.mean_encoder, torch.ones(6).double())
        assert_close(basis.mean_decoder, 2 * torch.ones(6).double())

    def test_defaults(self) -> None:
        assert equal().default_kind == equal().basis(2).kind == "shared"
        assert unequal().default_kind == "linked"
        assert spectra_of(covariance(4, 0), covariance(8, 1)).basis(1).kind == "own"

    def test_the_decoder_keeps_the_same_share(self) -> None:
        basis = unequal().basis(3)
        assert (basis.width, basis.decoder_width) == (3, 6)
        assert unequal().basis(3, decoder_width=2).decoder_width == 2
        assert spectra_of(covariance(8, 0), covariance(2, 1)).basis(1).decoder_width == 1

    def test_companions(self) -> None:
        style = covariance(6, 5)
        spectra = spectra_of(covariance(6, 0), covariance(6, 1), None, style)
        basis = spectra.basis(2)
        assert basis.energy_companions == (pytest.approx(kept(style, basis.encoder), abs=1e-12),)
        matrix = spectra.shared_matrix(companions=True)
        sides = [spectra.encoder.cov, spectra.decoder.cov, style]
        assert_close(matrix, sum(cov / cov.trace() for cov in sides) / 3)
        together = spectra.basis(2, companions=True)
        assert kept(matrix, together.encoder) > kept(matrix, basis.encoder)
        picked = spectra.basis(2, "subset").energy_companions[0]
        assert 0 < picked < 1

    def test_mistakes(self) -> None:
        with pytest.raises(ArgumentError, match="can't have this width; got 7; expected 1 to 6"):
            equal().basis(7)
        with pytest.raises(ArgumentError, match="can't have this width; got 0"):
            equal().basis(0)
        with pytest.raises(ArgumentError, match="no such kind of basis; got 'pca'; expected shared, own"):
            equal().basis(2, "pca")  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="gives both sides the same width; got 2 and 3"):
            equal().basis(2, "shared", decoder_width=3)
        with pytest.raises(ArgumentError, match="no such side; got 'style'"):
            equal().eigenvalues("style")  # type: ignore[arg-type]


class TestCurve:
    @pytest.mark.parametrize("kind", ["shared", "own", "linked", "subset", "own_subset"])
    @pytest.mark.parametrize("make", [equal, unequal])
    def test_equals_the_energy_at_each_width(self, make: Any, kind: Kind) -> None:
        spectra = make()
        if make is unequal and kind in ("shared", "subset"):
            with pytest.raises(ArgumentError, match=r"no shared matrix|same width"):
                spectra.energy_curve(kind)
            return
        curve = spectra.energy_curve(kind)
        assert_close(curve, torch.tensor([spectra.energy(k, kind) for k in range(1, spectra.width + 1)]).double())
        assert bool((curve.diff() >= -1e-12).all())

    def test_width_for(self) -> None:
        cov = torch.diag(torch.tensor([5.0, 3.0, 2.0]))
        spectra = spectra_of(cov, 7 * cov)
        assert [spectra.width_for(share) for share in (0.1, 0.5, 0.51, 0.8, 0.81, 1.0)] == [1, 1, 2, 2, 3, 3]
        for share in (0.0, 1.1, float("nan")):
            with pytest.raises(ArgumentError, match="above 0 and is at most 1"):
                spectra.width_for(share)

    def test_eigenvalues(self) -> None:
        cov = torch.diag(torch.tensor([1.0, 3.0]))
        spectra = spectra_of(cov, 2 * cov)
        for side in ("shared", "encoder", "decoder"):
            assert_close(spectra.eigenvalues(side), torch.tensor([0.75, 0.25]).double())


class Linear(nn.Module):
    """x → encoder → code → decoder → out, all 1×1, at scales 1, ½, 1."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(5, 5, 1, dtype=torch.float64)
        self.code = nn.Conv2d(5, 7, 2, 2, dtype=torch.float64)
        self.decoder = nn.ConvTranspose2d(7, 5, 2, 2, dtype=torch.float64)
        self.out = nn.Conv2d(5, 2, 1, dtype=torch.float64)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.decoder(self.dropout(self.code(self.encoder(x)))))


def white(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Pictures whose sample mean is exactly zero and whose sample covariance is exactly the identity."""
    raw = gaussian(batch * height * width, channels)
    centred = raw - raw.mean(0)
    rows = torch.linalg.qr(centred)[0] * (len(raw) - 1) ** 0.5
    return rows.reshape(batch, height, width, channels).permute(0, 3, 1, 2).contiguous()


def linear_pairing() -> tuple[Linear, Pairing]:
    model = Linear()
    return model, pair(model, torch.zeros(1, 5, 4, 6, dtype=torch.float64))


class TestMeasure:
    def test_closed_form_of_a_linear_encoder(self) -> None:
        """Of white noise through W the covariance is W Wᵀ, and the energy kept its leading eigenvalues' share."""
        model, pairing = linear_pairing()
        spectra = measure(model, pairing, white(3, 5, 4, 6).split(1))
        weight = model.encoder.weight.detach().squeeze()
        encoder = spectra["1"].encoder
        assert_close(encoder.cov, weight @ weight.T, rtol=1e-9, atol=1e-12)
        assert_close(encoder.mean, model.encoder.bias.detach(), rtol=1e-9, atol=1e-12)
        values = np.linalg.svd(weight.numpy(), compute_uv=False) ** 2
        for width in range(1, 6):
            closed = values[:width].sum() / values.sum()
            assert spectra["1"].basis(width, "own").energy_encoder == pytest.approx(closed, abs=1e-6)

    def test_against_numpy_on_everything_at_once(self) -> None:
        model, pairing = linear_pairing()
        data = gaussian(5, 5, 4, 6)
        spectra = measure(model, pairing, [data[:2], data[2:]])["1"]
        features = model.eval().encoder(data)
        decoded = model.decoder(model.code(features))
        one, other = (f.detach().transpose(0, 1).flatten(1).numpy() for f in (features, decoded))
        assert_close(spectra.encoder.cov.numpy(), np.cov(one), rtol=1e-12, atol=1e-12)
        assert_close(spectra.decoder.cov.numpy(), np.cov(other), rtol=1e-12, atol=1e-12)
        assert_close(spectra.cross.numpy(), np.cov(one, other)[:5, 5:], rtol=1e-12, atol=1e-12)

    @settings(max_examples=10)
    @given(order=st.permutations(range(4)), cut=st.integers(1, 3))
    def test_order_and_split_of_batches_do_not_matter(self, order: list[int], cut: int) -> None:
        torch.manual_seed(0)
        model, pairing = linear_pairing()
        data = gaussian(4, 5, 4, 6)
        one = measure(model, pairing, [data])
        other = measure(model, pairing, [data[order[:cut]], data[order[cut:]]])
        for a, b in zip((*one, one.bottleneck), (*other, other.bottleneck), strict=True):
            assert_close(a.encoder.cov, b.encoder.cov, rtol=1e-11, atol=1e-13)
            assert_close(a.decoder.cov, b.decoder.cov, rtol=1e-11, atol=1e-13)
            assert_close(a.cross, b.cross, rtol=1e-11, atol=1e-13)

    def test_the_bottleneck_is_measured_beside_the_pairs(self) -> None:
        model, pairing = linear_pairing()
        spectra = measure(model, pairing, [gaussian(4, 5, 4, 6)])
        assert [p.name for p in spectra] == ["1"]
        assert spectra.bottleneck.name == "bottleneck"
        assert spectra.bottleneck.encoder is spectra.bottleneck.decoder
        assert spectra.bottleneck.encoder.count == 24
        assert spectra.bottleneck.basis(3).energy_encoder == spectra.bottleneck.basis(3).energy_decoder

    def test_companions_are_measured(self) -> None:
        model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
        pairing = Pairing((SymmetricPair("p", Tap("0"), Tap("2"), 3, 3, None, (Tap("1"),)),))
        x = gaussian(2, 2, 4, 6).float()
        moments = measure(model, pairing, [x])["p"].companions[0]
        expected = np.cov(model[:2](x).detach().double().transpose(0, 1).flatten(1).numpy())
        assert_close(moments.cov.numpy(), expected, rtol=1e-12, atol=1e-12)

    def test_kinds_of_data(self) -> None:
        model, pairing = linear_pairing()
        x = gaussian(2, 5, 4, 6)
        expected = measure(model, pairing, [x])["1"].encoder.cov
        for data in ([(x,)], [[x]], [{"x": x}], iter([x]), torch.utils.data.DataLoader(x, batch_size=1)):
            assert_close(measure(model, pairing, data)["1"].encoder.cov, expected)
        labelled = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.zeros(2)), batch_size=2)
        assert_close(measure(model, pairing, labelled, inputs=lambda batch: batch[0])["1"].encoder.cov, expected)
        with pytest.raises(DataError, match=r"batch 0 doesn't fit .*list of 2 .*inputs=lambda batch: batch\[0\]"):
            measure(model, pairing, labelled)

    def test_batches_takes_no_more_than_it_needs(self) -> None:
        model, pairing = linear_pairing()
        asked = []

        def data() -> Iterator[Tensor]:
            for seed in range(5):
                asked.append(seed)
                yield gaussian(2, 5, 4, 6, seed=seed)

        assert measure(model, pairing, data(), batches=2)["1"].encoder.count == 96
        assert asked == [0, 1]

    def test_odd_sizes_have_no_cross_covariance(self) -> None:
        model, pairing = linear_pairing()
        spectra = measure(model, pairing, [gaussian(2, 5, 4, 6), gaussian(2, 5, 5, 7)])
        assert spectra["1"].cross is None
        assert spectra["1"].encoder.count == 118
        assert spectra["1"].decoder.count == 96
        expected = "encoder's side has 2 samples of 5×7 positions, the decoder's 2 samples of 4×6 positions; resize one"
        assert expected in spectra.notes[0]
        assert "note: pair '1' has no cross-covariance" in str(spectra)

    def test_tokens_and_vectors(self) -> None:
        model = nn.Transformer(8, 2, 2, 2, 16, batch_first=True)
        example = (torch.randn(3, 7, 8), torch.randn(3, 5, 8))
        spectra = measure(model, pair(model, example), [example])
        assert [(p.encoder.count, p.decoder.count, p.cross) for p in spectra] == [(21, 15, None)] * 2
        mlp = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2), nn.Linear(2, 4), nn.Linear(4, 6))
        x = torch.randn(9, 6)
        spectra = measure(mlp, pair(mlp, x), [x])
        assert_close(
            spectra[0].encoder.cov.numpy(), np.cov(mlp[0](x).detach().double().numpy().T), rtol=1e-12, atol=1e-12
        )

    def test_half_precision_model(self) -> None:
        model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1)).bfloat16()
        pairing = Pairing((SymmetricPair("p", Tap("0"), Tap("1"), 3, 3),))
        x = torch.randn(2, 2, 4, 6).bfloat16()
        expected = np.cov(model[0](x).detach().double().transpose(0, 1).flatten(1).numpy())
        assert_close(measure(model, pairing, [x])["p"].encoder.cov.numpy(), expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("fail", [False, True])
    def test_everything_is_restored(self, fail: bool) -> None:
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ConvTranspose2d(4, 2, 2, 2)
        )
        model.train()
        model[2].eval()
        x = torch.randn(3, 2, 8, 12)
        pairing = Pairing((SymmetricPair("p", Tap("0"), Tap("1"), 4, 4),))
        state = {key: value.clone() for key, value in model.state_dict().items()}
        random = torch.get_rng_state()

        def data() -> Iterator[Tensor]:
            yield x
            torch.rand(3)  # as a shuffling loader does
            if fail:
                raise KeyError("file")

        if fail:
            with pytest.raises(KeyError, match="file"):
                measure(model, pairing, data())
        else:
            one, other = (measure(model, pairing, [x])["p"].encoder.cov for _ in range(2))
            assert torch.equal(one, other)  # no dropout, no change of the statistics
        assert [module.training for module in model] == [True, True, False, True]
        assert torch.equal(torch.get_rng_state(), random)
        for key, value in model.state_dict().items():
            assert torch.equal(value, state[key])
        assert torch.is_grad_enabled()
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class TestRefused:
    def test_no_data(self) -> None:
        model, pairing = linear_pairing()
        with pytest.raises(DataError, match="no data to measure; got 0 batches"):
            measure(model, pairing, [])
        with pytest.raises(ArgumentError, match="at least one batch has to be measured; got batches=0"):
            measure(model, pairing, [gaussian(1, 5, 4, 6)], batches=0)

    @pytest.mark.parametrize(
        ("item", "text"), [("x", "str"), (None, "NoneType"), ((), "an empty tuple"), ({}, "an empty dict")]
    )
    def test_other_items(self, item: object, text: str) -> None:
        model, pairing = linear_pairing()
        with pytest.raises(DataError, match=f"batch 0 can't be given to the model; got {text}; expected a tensor"):
            measure(model, pairing, [item])

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_non_finite(self, bad: float) -> None:
        model, pairing = linear_pairing()
        broken = gaussian(1, 5, 4, 6)
        broken[0, 1, 2, 3] = bad
        with pytest.raises(
            NonFiniteError, match="layer 'encoder' returns NaN or infinity on batch 1; got channels 0, 1"
        ):
            measure(model, pairing, [gaussian(1, 5, 4, 6), broken])

    def test_constant(self) -> None:
        model, pairing = linear_pairing()
        with pytest.raises(DataError, match=r"layer 'encoder' is constant .*without\(name\)"):
            measure(model, pairing, [torch.ones(2, 5, 4, 6, dtype=torch.float64)])

    def test_too_few_positions(self) -> None:
        model, pairing = linear_pairing()
        with pytest.raises(DataError, match="layer 'encoder'; got 4 positions for 5 channels; expected at least 6"):
            measure(model, pairing.without(), [gaussian(1, 5, 2, 2)])

    def test_a_bottleneck_with_too_few_positions_can_be_left_out(self) -> None:
        model, pairing = linear_pairing()
        data = [gaussian(1, 5, 4, 6)]
        with pytest.raises(DataError, match=r"'code'; got 6 positions for 7 channels; .*at least 8.*bottleneck=None\)"):
            measure(model, pairing, data)
        assert measure(model, dataclasses.replace(pairing, bottleneck=None), data).bottleneck is None

    def test_another_models_pairing(self) -> None:
        model, pairing = linear_pairing()
        model.encoder = nn.Conv2d(5, 4, 1, dtype=torch.float64)
        model.code = nn.Conv2d(4, 7, 2, 2, dtype=torch.float64)
        with pytest.raises(ShapeError, match=r"'encoder' of pair '1' has another width .*; got 4 channels; expected 5"):
            measure(model, pairing, [gaussian(1, 5, 4, 6)])

    def test_a_companion_of_another_width(self) -> None:
        model, pairing = linear_pairing()
        with pytest.raises(ShapeError, match=r"'code' of pair '1' .*; got 7 channels; expected 5"):
            measure(model, pairing.replace("1", companions=["code"]), [gaussian(4, 5, 4, 6)])


def measured() -> Spectra:
    model, pairing = linear_pairing()
    return measure(model, pairing, [gaussian(4, 5, 4, 6)])


class TestSpectra:
    def test_access(self) -> None:
        spectra = measured()
        assert spectra[0] is spectra["1"]
        assert len(spectra) == len(list(spectra)) == 1
        with pytest.raises(LayerNotFoundError, match="no such pair; got '1/2'"):
            spectra["1/2"]

    def test_table(self) -> None:
        lines = str(measured()).splitlines()
        assert lines[0] == "Spectra, energy kept encoder / decoder"
        assert lines[1].split()[:4] == ["pair", "encoder", "decoder", "channels"]
        assert lines[2].split()[:6] == ["1", "encoder", "decoder", "5", "96", "shared"]
        assert lines[3].split()[:6] == ["bottleneck", "code", "code", "7", "24", "shared"]

    def test_round_trip(self, tmp_path: Path) -> None:
        spectra = measured()
        spectra.save(tmp_path / "spectra.pt")
        again = Spectra.load(tmp_path / "spectra.pt")
        assert os.listdir(tmp_path) == ["spectra.pt"]
        assert again.pairing == spectra.pairing
        assert again.notes == spectra.notes
        for one, other in zip((*spectra, spectra.bottleneck), (*again, again.bottleneck), strict=True):
            assert one.pair == other.pair
            assert one.encoder.count == other.encoder.count
            assert torch.equal(one.basis(2).encoder, other.basis(2).encoder)
            assert torch.equal(one.cross, other.cross)

    def test_round_trip_with_companions_and_without_cross(self, tmp_path: Path) -> None:
        made = spectra_of(covariance(3, 0), covariance(3, 1), None, covariance(3, 2))
        Spectra(Pairing((made.pair,)), (made,), None, ("a note",)).save(tmp_path / "spectra.pt")
        again = Spectra.load(tmp_path / "spectra.pt")
        assert again["1"].cross is None
        assert torch.equal(again["1"].companions[0].cov, made.companions[0].cov)
        assert (again.bottleneck, again.notes) == (None, ("a note",))

    def test_file_holds_no_code(self, tmp_path: Path) -> None:
        measured().save(tmp_path / "spectra.pt")
        content = torch.load(tmp_path / "spectra.pt", weights_only=True)
        assert content["format"] == "skd.spectra"

    @pytest.mark.parametrize("cut", [0, 10, 500, -100])
    def test_truncated(self, cut: int, tmp_path: Path) -> None:
        path = tmp_path / "spectra.pt"
        measured().save(path)
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(FileError, match=r"spectra\.pt' is no spectra file, or a damaged one"):
            Spectra.load(path)

    def test_other_files(self, tmp_path: Path) -> None:
        path = tmp_path / "spectra.pt"
        with pytest.raises(FileError, match="can't be read; got No such file"):
            Spectra.load(path)
        path.write_text("hello")
        with pytest.raises(FileError, match="is no spectra file"):
            Spectra.load(path)
        torch.save(nn.Linear(2, 2).state_dict(), path)
        with pytest.raises(FileError, match=r"holds something else; expected the format 'skd\.spectra'"):
            Spectra.load(path)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda c: c.update(version=7), "another version; got 7; expected 1"),
            (lambda c: c.pop("pairs"), "is damaged; got 'pairs'"),
            (lambda c: c["pairs"].pop(0), "the pairs aren't those of the pairing"),
            (lambda c: c["pairs"][0].update(cross=torch.zeros(2, 2)), "cross-covariance of pair '1' is damaged"),
            (lambda c: c["pairs"][0]["encoder"].update(count=-1), "stored moments are damaged"),
            (lambda c: c["pairs"][0].update(encoder=Moments(3).to_tensors()), "don't have its widths"),
            (lambda c: c["pairs"][0]["decoder"]["mean"].fill_(torch.nan), "stored moments are damaged"),
        ],
    )
    def test_damaged_content(self, damage: Any, message: str, tmp_path: Path) -> None:
        path = tmp_path / "spectra.pt"
        measured().save(path)
        content = torch.load(path, weights_only=True)
        damage(content)
        torch.save(content, path)
        with pytest.raises(FileError, match=message):
            Spectra.load(path)
