"""Streaming moments against numpy on the whole data at once; bases against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from skd import bases, moments
from skd.errors import ArgumentError, DataError, FeatureError, FileError, NonFiniteError, ShapeError
from skd.moments import CrossMoments, Moments


def feature(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(shape[1], shape[1], generator=generator, dtype=torch.float64)
    raw = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (torch.einsum("dc,bcn->bdn", mix, raw) + 3 * torch.arange(shape[1])[None, :, None]).to(dtype)


def rows(x: torch.Tensor) -> np.ndarray:
    """(C, B·N) float64."""
    return x.double().transpose(0, 1).flatten(1).numpy()


def covariance(channels: int, seed: int = 0) -> torch.Tensor:
    factor = torch.randn(channels, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ torch.diag(torch.arange(1.0, channels + 1).double()) @ factor.T


class TestMoments:
    def test_equals_numpy_on_the_concatenated_data(self) -> None:
        data = feature(5, 4, 6)
        running = Moments(4)
        for part in (data[:1], data[1:4], data[4:]):
            running.update(part)
        assert running.count == 30
        assert_close(running.mean.numpy(), rows(data).mean(1), rtol=1e-12, atol=1e-12)
        assert_close(running.cov.numpy(), np.cov(rows(data)), rtol=1e-12, atol=1e-12)
        assert running.mean.dtype == running.cov.dtype == torch.float64

    def test_total_covariance_is_about_the_grand_mean_not_each_batchs(self) -> None:
        running = Moments(1)
        running.update(torch.zeros(1, 1, 2))
        running.update(torch.full((1, 1, 2), 2.0))
        assert_close(running.cov, torch.tensor([[4 / 3]], dtype=torch.float64))

    def test_a_large_mean_costs_no_digits(self) -> None:
        data = feature(3, 2, 50, dtype=torch.float64)
        shifted = Moments(2)
        for sample in data + 1e6:
            shifted.update(sample[None])
        assert_close(shifted.cov.numpy(), np.cov(rows(data)), rtol=1e-9, atol=0)

    @pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
    def test_chunks_make_no_difference(self, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(moments, "CHUNK", chunk)
        one, other = feature(3, 4, 5), feature(3, 2, 5, seed=1)
        running, cross = Moments(4), CrossMoments(4, 2)
        running.update(one)
        cross.update(one, other)
        assert_close(running.cov.numpy(), np.cov(rows(one)), rtol=1e-12, atol=1e-12)
        assert_close(cross.cov.numpy(), np.cov(rows(one), rows(other))[:4, 4:], rtol=1e-12, atol=1e-12)

    @settings(max_examples=25, deadline=None)
    @given(order=st.permutations(range(6)), cuts=st.sets(st.integers(1, 5)))
    def test_order_and_split_of_batches_do_not_matter(self, order: list[int], cuts: set[int]) -> None:
        data = feature(6, 3, 4)
        running = Moments(3)
        edges = [0, *sorted(cuts), 6]
        for start, end in itertools.pairwise(edges):
            running.update(data[list(order[start:end])])
        assert_close(running.mean.numpy(), rows(data).mean(1), rtol=1e-12, atol=1e-12)
        assert_close(running.cov.numpy(), np.cov(rows(data)), rtol=1e-12, atol=1e-12)

    def test_merged_workers_equal_one(self) -> None:
        data = feature(4, 3, 5)
        one, other = Moments(3), Moments(3)
        one.update(data[:1])
        other.update(data[1:])
        one.merge(other)
        one.merge(Moments(3))
        assert_close(one.cov.numpy(), np.cov(rows(data)), rtol=1e-12, atol=1e-12)
        with pytest.raises(ShapeError, match=r"other channels can't be merged; got 2; expected 3"):
            one.merge(Moments(2))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_features_are_summed_in_double(self, dtype: torch.dtype) -> None:
        data = feature(2, 3, 40, dtype=dtype)
        running = Moments(3)
        running.update(data)
        assert_close(running.cov.numpy(), np.cov(rows(data)), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    def test_non_finite_features_are_named_and_leave_no_trace(self, bad: float) -> None:
        data = feature(2, 3, 4)
        running = Moments(3)
        running.update(data)
        broken = data.clone()
        broken[1, 2, 3] = bad
        with pytest.raises(NonFiniteError, match="NaN or infinity; got channels 2"):
            running.update(broken)
        assert running.count == 8
        assert_close(running.cov.numpy(), np.cov(rows(data)), rtol=1e-12, atol=1e-12)

    def test_other_mistakes(self) -> None:
        with pytest.raises(ArgumentError, match="at least one channel"):
            Moments(0)
        with pytest.raises(ShapeError, match=r"got \(2, 4, 5\); expected \(B, 3, N\)"):
            Moments(3).update(torch.zeros(2, 4, 5))
        with pytest.raises(FeatureError, match=r"real floating-point features; got torch\.int64"):
            Moments(3).update(torch.zeros(2, 3, 5, dtype=torch.int64))
        with pytest.raises(DataError, match="holds no position"):
            Moments(3).update(torch.zeros(2, 3, 0))
        one = Moments(1)
        one.update(torch.zeros(1, 1, 1))
        with pytest.raises(DataError, match="at least two positions; got 1"):
            _ = one.cov

    def test_constant(self) -> None:
        still, varied = Moments(2), Moments(2)
        still.update(torch.full((4, 2, 9), 0.1))
        varied.update(0.1 + 1e-4 * feature(4, 2, 9))
        assert still.constant
        assert not varied.constant

    def test_plain_values_and_back(self) -> None:
        running = Moments(3)
        running.update(feature(2, 3, 4))
        again = Moments.from_tensors(running.to_tensors())
        assert again.count == running.count
        assert torch.equal(again.cov, running.cov)
        for key, value in {
            "count": "8",
            "mean": torch.zeros(2).double(),
            "scatter": torch.full((3, 3), torch.nan),
        }.items():
            with pytest.raises(FileError, match="stored moments are damaged"):
                Moments.from_tensors({**running.to_tensors(), key: value})  # type: ignore[dict-item]

    def test_gradients_are_not_kept(self) -> None:
        running = Moments(3)
        running.update(feature(2, 3, 4).requires_grad_())
        assert not running.mean.requires_grad
        assert not running.scatter.requires_grad


class TestCrossMoments:
    def test_equals_numpy(self) -> None:
        one, other = feature(5, 3, 4), feature(5, 2, 4, seed=1)
        cross = CrossMoments(3, 2)
        for start, end in ((0, 2), (2, 3), (3, 5)):
            cross.update(one[start:end], other[start:end])
        assert_close(cross.cov.numpy(), np.cov(rows(one), rows(other))[:3, 3:], rtol=1e-12, atol=1e-12)

    def test_mistakes(self) -> None:
        with pytest.raises(ShapeError, match="equally many samples and positions"):
            CrossMoments(3, 2).update(torch.zeros(1, 3, 4), torch.zeros(1, 2, 5))
        with pytest.raises(ShapeError, match=r"expected \(B, 2, N\)"):
            CrossMoments(3, 2).update(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4))
        with pytest.raises(ArgumentError, match="at least one channel a side"):
            CrossMoments(3, 0)
        with pytest.raises(NonFiniteError, match="NaN or infinity"):
            CrossMoments(1, 1).update(torch.full((1, 1, 2), torch.nan), torch.zeros(1, 1, 2))
        with pytest.raises(DataError, match="at least two positions"):
            _ = CrossMoments(1, 1).cov


class TestSpectrum:
    def test_equals_numpy_and_signs_are_fixed(self) -> None:
        matrix = covariance(6)
        values, vectors = bases.spectrum(matrix)
        assert_close(values.numpy(), np.linalg.eigvalsh(matrix.numpy())[::-1].copy())
        assert_close(vectors @ torch.diag(values) @ vectors.T, matrix)
        largest = vectors.abs().argmax(0)
        assert bool((vectors[largest, torch.arange(6)] > 0).all())

    def test_sign_goes_to_the_first_of_equal_entries(self) -> None:
        vectors = torch.tensor([[-0.5, 0.5], [0.5, 0.5], [0.5, -0.5], [-0.5, -0.5]], dtype=torch.float64)
        assert bases.signs(vectors).tolist() == [-1.0, 1.0]

    def test_rounding_below_zero_is_zero(self) -> None:
        vector = torch.tensor([[1.0], [3.0], [-7.0]], dtype=torch.float64) / 3
        assert float(bases.spectrum(vector @ vector.T)[0].min()) == 0.0


class TestLink:
    @pytest.mark.parametrize(("c", "d"), [(3, 3), (2, 4), (4, 2)])
    def test_coordinates_covary_one_to_one(self, c: int, d: int) -> None:
        encoder = bases.spectrum(covariance(5, 1))[1][:, :c]
        decoder = bases.spectrum(covariance(6, 2))[1][:, :d]
        cross = torch.randn(5, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        one, other = bases.link(encoder, decoder, cross)
        values = np.linalg.svd((encoder.T @ cross @ decoder).numpy(), compute_uv=False)
        expected = torch.zeros(c, d, dtype=torch.float64)
        expected[range(len(values)), range(len(values))] = torch.from_numpy(values)
        assert_close(one.T @ cross @ other, expected, atol=1e-12, rtol=1e-9)
        assert_close(one @ one.T, encoder @ encoder.T)  # the same subspaces
        assert_close(other @ other.T, decoder @ decoder.T)

    def test_is_the_best_rotation(self) -> None:
        """Sum of matched covariances: no other pair of rotations has more (von Neumann's trace inequality)."""
        generator = torch.Generator().manual_seed(0)
        eye = torch.eye(3, dtype=torch.float64)
        cross = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        one, other = bases.link(eye, eye, cross)
        best = float((one.T @ cross @ other).trace())
        for _ in range(200):
            p, q = (torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0] for _ in "pq")
            assert float((p.T @ cross @ q).trace()) <= best + 1e-12


class TestPivots:
    @pytest.mark.parametrize("seed", range(4))
    def test_each_step_takes_the_worst_explained_channel(self, seed: int) -> None:
        """Against the Schur complement recomputed from scratch at every step."""
        matrix = covariance(6, seed).numpy()
        picked: list[int] = []
        for _ in range(4):
            residual = matrix
            if picked:
                columns = matrix[:, picked]
                residual = matrix - columns @ np.linalg.solve(matrix[np.ix_(picked, picked)], columns.T)
            picked.append(int(np.argmax([-1.0 if i in picked else residual[i, i] for i in range(6)])))
        assert bases.pivots(torch.from_numpy(matrix), 4) == picked

    def test_first_of_equal_channels_and_no_repetition_at_rank_one(self) -> None:
        assert bases.pivots(torch.eye(4, dtype=torch.float64), 3) == [0, 1, 2]
        assert bases.pivots(torch.ones(3, 3, dtype=torch.float64), 3) == [0, 1, 2]

    def test_width_out_of_range(self) -> None:
        with pytest.raises(ArgumentError, match="can't have this width; got 5; expected 1 to 4"):
            bases.pivots(torch.eye(4, dtype=torch.float64), 5)

    def test_explained_and_lift_are_least_squares(self) -> None:
        data = feature(4, 5, 30, dtype=torch.float64)
        matrix, channels = torch.from_numpy(np.cov(rows(data))), [3, 1]
        centred = rows(data) - rows(data).mean(1, keepdims=True)
        solution = np.linalg.lstsq(centred[channels].T, centred.T, rcond=None)[0].T
        assert_close(bases.lift(matrix, channels).numpy(), solution, rtol=1e-9, atol=1e-9)
        left = [
            centred.T - centred[channels[:k]].T @ np.linalg.lstsq(centred[channels[:k]].T, centred.T, rcond=None)[0]
            for k in (1, 2)
        ]
        shares = [1 - (rest**2).sum() / (centred**2).sum() for rest in left]
        assert_close(bases.explained(matrix, channels).numpy(), np.array(shares), rtol=1e-9, atol=1e-9)

    def test_a_dead_channel_is_no_trouble(self) -> None:
        matrix = torch.diag(torch.tensor([0.0, 2.0, 1.0], dtype=torch.float64))
        assert_close(bases.lift(matrix, [0, 1]).T, torch.tensor([[0.0, 0, 0], [0, 1, 0]], dtype=torch.float64))
        assert_close(bases.explained(matrix, [0, 1]), torch.tensor([0, 2 / 3], dtype=torch.float64))
