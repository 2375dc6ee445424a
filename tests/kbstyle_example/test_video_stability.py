"""Stability: the blend by hand, the camera's motion, and that nothing of what moved is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kbstyle_example.threads import WriteBehind, read_ahead
from kbstyle_example.video_stability import Steadier, camera_motion, flicker, warped
from skd.errors import ArgumentError


def scene(height: int = 140, width: int = 200) -> Tensor:
    torch.manual_seed(0)
    coarse = F.interpolate(torch.rand(1, 3, height // 8, width // 8), (height, width), mode="bicubic")
    return (0.5 + 0.6 * (coarse - 0.5)).clamp(0, 1)


def test_the_blend_by_hand_where_nothing_moves() -> None:
    content, results = scene(), [torch.rand(1, 3, 140, 200) for _ in range(3)]
    steadier = Steadier(0.75)
    found = [steadier(content, result) for result in results]
    expected = results[0]
    torch.testing.assert_close(found[0], expected)
    for result, blended in zip(results[1:], found[1:], strict=True):
        expected = 0.75 * expected + 0.25 * result
        torch.testing.assert_close(blended, expected)
    assert flicker([content] * 3, found) < 0.5 * flicker([content] * 3, results)


def test_without_stability_results_are_untouched() -> None:
    steadier = Steadier(0)
    result = torch.rand(1, 3, 40, 40)
    assert steadier(torch.rand(1, 3, 40, 40), result) is result
    assert steadier(torch.rand(1, 3, 40, 40), result) is result


def test_a_cut_and_another_size_begin_anew() -> None:
    steadier, result = Steadier(0.9), torch.rand(1, 3, 140, 200)
    steadier(scene(), torch.zeros(1, 3, 140, 200))
    torch.testing.assert_close(steadier(1 - scene().flip(-1).round(), result), result, atol=0.02, rtol=0)
    small = torch.rand(1, 3, 30, 40)
    assert torch.equal(steadier(torch.rand(1, 3, 30, 40), small), small)


@pytest.mark.parametrize("stability", [-0.1, 1.0, float("nan")])
def test_stability_out_of_range(stability: float) -> None:
    with pytest.raises(ArgumentError, match="stability"):
        Steadier(stability)


@pytest.mark.parametrize(("x", "y"), [(3, 1), (-7, 4), (25, -12)])
def test_the_pan_is_found(x: int, y: int) -> None:
    large = scene(180, 260)
    before, after = (large[..., 20 + dy : 160 + dy, 30 + dx : 230 + dx] for dx, dy in ((0, 0), (x, y)))
    matrix = camera_motion(before, after)
    assert matrix is not None
    found = matrix[:, 2] * torch.tensor([100.0, 70.0])
    torch.testing.assert_close(found, torch.tensor([float(x), float(y)]), atol=0.15, rtol=0)
    torch.testing.assert_close(matrix[:, :2], torch.eye(2), atol=0.005, rtol=0)


def test_zoom_and_turn_are_found() -> None:
    given = torch.tensor([[0.98, 0.02, 0.01], [-0.02, 0.98, -0.02]])
    before = scene()
    matrix = camera_motion(before, warped(before, given))
    assert matrix is not None
    torch.testing.assert_close(matrix, given, atol=0.003, rtol=0)


def test_what_moves_by_itself_isnt_the_camera() -> None:
    before, after = scene(), scene()
    thing = (scene(60, 60) > 0.5).float()
    before[..., 40:100, 20:80], after[..., 40:100, 32:92] = thing, thing
    assert camera_motion(before, after) is None


def test_featureless_frames_have_no_motion() -> None:
    assert camera_motion(torch.full((1, 3, 40, 60), 0.2), torch.full((1, 3, 40, 60), 0.2)) is None
    assert camera_motion(torch.zeros(1, 3, 40, 60), torch.ones(1, 3, 40, 60)) is None


def test_no_ghosts_while_the_camera_moves() -> None:
    """Blended with itself, a clip that pans stays as it is; blended in place it would smear."""
    large, steadier = scene(180, 260), Steadier(0.9)
    frames = [large[..., 10 + n : 150 + n, 5 + 4 * n : 205 + 4 * n] for n in range(10)]
    found = [steadier(frame, frame) for frame in frames]
    worst = max(float((a - b).square().mean().sqrt()) for a, b in zip(frames, found, strict=True))
    change = float((frames[1] - frames[0]).square().mean().sqrt())
    assert worst < 0.02 * change


# --- threads ---------------------------------------------------------------------------------------------------------


def test_reading_ahead_is_bounded_and_ends_early() -> None:
    made: list[int] = []
    closed = threading.Event()

    def numbers() -> Iterator[int]:
        try:
            for n in range(1000):
                made.append(n)
                yield n
        finally:
            closed.set()

    with read_ahead(numbers(), 3) as ahead:  # type: ignore[arg-type]
        assert next(ahead) == 0
        time.sleep(0.2)
        assert len(made) <= 6
    assert closed.is_set()


def test_errors_come_through_both_ways() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("reading")

    with pytest.raises(KeyError, match="reading"), read_ahead(broken(), 2) as ahead:  # type: ignore[arg-type]
        list(ahead)

    def refuse(item: int) -> None:
        raise KeyError("writing")

    def write_all(count: int) -> None:
        with WriteBehind(refuse, 2) as write:
            for n in range(count):
                write(n)

    for count in (1, 100):
        with pytest.raises(KeyError, match="writing"):
            write_all(count)
