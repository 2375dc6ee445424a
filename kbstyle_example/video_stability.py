"""Less flicker: each result is blended with the one before, moved along with the camera, where the content is the same.

What was tried (``benchmarks/video_stability.py`` measures what was kept): averaging the content's statistics over time
doesn't lower flicker (by −4 to +11 % on single clips); blending in place takes a fifth of it under a pan, where
following the camera takes more than half, and leaves ghosts; filtering the content instead of the result does next to
nothing beside a thing that moves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from skd.errors import ArgumentError

SAME = 6 / 255  # from this change on, of a 5×5 neighbourhood's mean, the content isn't the same
SAME_PIXEL = 24 / 255  # the same for the mean size of its pixels' changes: what noise may do
UNCHANGED = 2 / 255  # flicker is measured where a neighbourhood's mean changed by less
DIFFERENT = 8 / 255  # a pixel's change beyond which it doesn't matter how large it is
STILL = 0.1  # pixels: less motion than this, at every corner, is none
GRID = 256  # pixels: the longest side on which the camera's motion is looked for
LUMINANCE = (0.299, 0.587, 0.114)


class Steadier:
    """Takes the frames in order, each with its result, and gives the results with less flicker.

    Parameters
    ----------
    stability : float
        0 (none) to 1, exclusive: the share of the result before in the new one, where the content is the same.

    Raises
    ------
    ArgumentError
        Stability out of range.

    Notes
    -----
    The camera's motion is one affine map a frame (pan, zoom, turn; not what moves in front of it, which the content's
    change tells). Memory: two frames. A cut needs no detection: nothing there is the same.

    Examples
    --------
    >>> steadier, content = Steadier(0.5), torch.full((1, 3, 16, 16), 0.5)
    >>> _ = steadier(content, torch.zeros(1, 3, 16, 16))
    >>> float(steadier(content, torch.ones(1, 3, 16, 16)).mean())
    0.5
    """

    def __init__(self, stability: float) -> None:
        if not 0 <= stability < 1:
            raise ArgumentError("stability", got=stability, expected="0 or more and less than 1")
        self.stability = stability
        self._kept: Tensor | None = None  # (1, 6, H, W): what the content was, and the result

    def __call__(self, content: Tensor, result: Tensor) -> Tensor:
        """(1, 3, H, W) in 0..1 both → the same shape."""
        if not self.stability:
            return result
        new = torch.cat([content, result], 1)
        if self._kept is not None and self._kept.shape == new.shape:
            matrix = camera_motion(self._kept[:, :3], content)
            before = self._kept if matrix is None else warped(self._kept, matrix)
            weight = self.stability * similarity(before[:, :3], content)
            if matrix is not None:
                weight = weight * _inside(matrix, content)
            # The content is kept by the same blend, so that a slow change adds up and is noticed.
            new = torch.lerp(new, before, weight)
        self._kept = new
        return new[:, 3:]


def similarity(before: Tensor, content: Tensor) -> Tensor:
    """How far each pixel is the same: 1, falling to 0; (1, 1, H, W).

    By the mean change of its 5×5 neighbourhood, in which noise cancels out, and by the mean size of the changes, in
    which a fine texture that moves doesn't.

    Examples
    --------
    >>> content = torch.full((1, 3, 8, 8), 0.5)
    >>> [float(similarity(content, content + change / 255).mean().round(decimals=3)) for change in (2, 4.5, 7)]
    [1.0, 0.5, 0.0]
    """
    change = content - before
    mean = _blurred(change).abs().amax(1, keepdim=True)
    size = _blurred(change.abs()).mean(1, keepdim=True)
    return (2 - 2 * mean / SAME).clamp(0, 1) * (2 - 2 * size / SAME_PIXEL).clamp(0, 1)


def _blurred(image: Tensor) -> Tensor:
    return F.avg_pool2d(image, 5, 1, 2, count_include_pad=False)


def warped(image: Tensor, matrix: Tensor) -> Tensor:
    """The picture seen through an affine map of positions in −1..1 (2, 3), as `affine_grid` takes it; bicubic."""
    grid = F.affine_grid(matrix[None].to(image), list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(0, 1)


def _inside(matrix: Tensor, image: Tensor) -> Tensor:
    """1 where the map stays within the picture, else 0; (1, 1, H, W)."""
    size = [1, 1, *image.shape[-2:]]
    grid = F.affine_grid(matrix[None].to(image), size, align_corners=False)
    return (grid.abs().amax(-1) <= 1).to(image)[:, None]


def camera_motion(before: Tensor, after: Tensor) -> Tensor | None:
    """The affine map with which `warped(before, map)` comes nearest to `after`; None where there is no motion.

    Phase correlation on a coarse grid gives the shift, then Gauss-Newton steps on two finer ones (Lucas & Kanade 1981)
    with weights that leave out what moves by itself.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> scene = F.interpolate(torch.rand(1, 3, 12, 18), (96, 144), mode="bicubic").clamp(0, 1)
    >>> motion = camera_motion(scene[..., :80, :128], scene[..., 3:83, 5:133])
    >>> (motion[:, 2] * torch.tensor([128, 80]) / 2).round(decimals=1) + 0.0
    tensor([5., 3.])
    >>> camera_motion(scene, scene) is None
    True
    """
    height, width = after.shape[-2:]
    grey = torch.cat([before, after]).float()
    grey = (grey * torch.tensor(LUMINANCE, device=grey.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
    levels = [_scaled(grey, GRID // factor) for factor in (4, 2, 1)]
    matrix = torch.eye(2, 3, device=grey.device)
    matrix[:, 2] = _shift(levels[0])
    if _error(levels[0], matrix) > 0.9 * _error(levels[0], None):
        matrix[:, 2] = 0
    for level in levels[1:]:
        for _ in range(4):
            matrix = matrix + _step(level, matrix)
    moved = matrix - torch.eye(2, 3, device=grey.device)
    corners = torch.tensor([[1.0, 1, 1], [-1, 1, 1], [1, -1, 1], [-1, -1, 1]], device=grey.device)
    pixels = (corners @ moved.T).abs().amax(0) * torch.tensor([width / 2, height / 2], device=grey.device)
    if not bool(moved.isfinite().all()) or float(pixels.max()) < STILL:
        return None
    return matrix if _error(levels[2], matrix) < 0.95 * _error(levels[2], None) else None


def _scaled(image: Tensor, longest: int) -> Tensor:
    height, width = image.shape[-2:]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    size = max(8, round(height * scale)), max(8, round(width * scale))
    return F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)


def _shift(pair: Tensor) -> Tensor:
    """The translation by the peak of the phase correlation, in units of affine_grid."""
    height, width = pair.shape[-2:]
    window = torch.outer(*(torch.hann_window(n, periodic=False, device=pair.device) for n in (height, width)))
    before, after = torch.fft.fft2((pair[:, 0] - pair.mean((1, 2, 3))[:, None, None]) * window)
    cross = before * after.conj()
    peak = int(torch.fft.ifft2(cross / (cross.abs() + 1e-6)).real.argmax())
    y, x = peak // width, peak % width
    shift = (x - width if x > width / 2 else x) * 2 / width, (y - height if y > height / 2 else y) * 2 / height
    return torch.tensor(shift, device=pair.device)


def _error(pair: Tensor, matrix: Tensor | None) -> float:
    """Mean absolute difference where both are seen; a large one counts no more than a middling one.

    So what moves by itself, however strong its contrast, doesn't outweigh a larger part of the picture that stands.
    """
    if matrix is None:
        return float((pair[:1] - pair[1:]).abs().clamp(max=DIFFERENT).mean())
    seen = _inside(matrix, pair)
    if float(seen.mean()) < 0.3:  # too little to tell
        return math.inf
    return float(((warped(pair[:1], matrix) - pair[1:]).abs().clamp(max=DIFFERENT) * seen).sum() / seen.sum())


def _step(pair: Tensor, matrix: Tensor) -> Tensor:
    """A Gauss-Newton step of the robust squared difference."""
    height, width = pair.shape[-2:]
    seen = _inside(matrix, pair)[0, 0]
    image = warped(pair[:1], matrix)[0, 0]
    rest = pair[1, 0] - image
    down, across = torch.gradient(image, spacing=(2 / height, 2 / width))
    rows = (torch.arange(height, device=pair.device) + 0.5) * (2 / height) - 1
    columns = (torch.arange(width, device=pair.device) + 0.5) * (2 / width) - 1
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    directions = torch.stack([across * x, across * y, across, down * x, down * y, down]).flatten(1)
    scale = 2 * rest.abs().median() + 1 / 255
    weight = (seen / (1 + (rest / scale).square())).flatten()
    square = (directions * weight) @ directions.T
    damping = (1e-4 * square.diagonal().mean() + 1e-9) * torch.eye(6, device=pair.device)
    change = torch.linalg.solve(square + damping, (directions * weight) @ rest.flatten())
    # A step was found in the warped picture's coordinates: it goes before the map.
    whole = torch.cat([matrix, matrix.new_tensor([[0.0, 0.0, 1.0]])])
    return (matrix[:, :2] @ change.view(2, 3)) if whole.isfinite().all() else torch.zeros_like(matrix)


def flicker(contents: Sequence[Tensor], results: Sequence[Tensor]) -> float:
    """Root mean squared change of the result from frame to frame, in 1/255, at pixels whose content didn't change.

    Unchanged are pixels whose 5×5 neighbourhood's mean changed by less than 2/255 in each channel. No such pixel: 0.

    Examples
    --------
    >>> content = torch.zeros(1, 3, 8, 8)
    >>> flicker([content, content], [content, content + 3 / 255])  # doctest: +ELLIPSIS
    3.0...
    """
    total, count = 0.0, 0.0
    for i in range(1, len(contents)):
        changes, pixels = squared_change(contents[i - 1], contents[i], results[i - 1], results[i])
        total, count = total + changes, count + pixels
    return 255 * math.sqrt(total / count) if count else 0.0


def squared_change(before: Tensor, content: Tensor, result_before: Tensor, result: Tensor) -> tuple[float, float]:
    """What `flicker` adds up: the squared changes at unchanged pixels, and how many values these are."""
    unchanged = _blurred(content - before).abs().amax(1, keepdim=True) < UNCHANGED
    changes = (result - result_before).square().sum(1, keepdim=True) * unchanged
    return float(changes.sum(dtype=torch.float64)), 3 * float(unchanged.sum())
