"""Contact sheets: every cell where it belongs, whole files, little memory."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from kbstyle_example.evaluation.sheet import draw_sheets, spread
from kbstyle_example.images import CAPTION, load_image
from kbstyle_example.peers import System
from skd.errors import ArgumentError, DataError, FileError

MARGIN, STRIP = 4, CAPTION * 3 // 2


def system(name: str, share: float) -> System:
    """The mean colours of content and style, mixed."""

    def run(content: Tensor, style: Tensor) -> Tensor:
        return ((1 - share) * content + share * style.mean((2, 3), keepdim=True)).expand_as(content)

    return System(name, run, name, 0, 0, lambda content, style: 0)


def colours(folder: Path, values: list[int]) -> list[Path]:
    folder.mkdir()
    for value in values:
        Image.new("RGB", (40, 32), (value, 0, 255 - value)).save(folder / f"{value}.png")
    return [folder / f"{value}.png" for value in values]


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    return colours(tmp_path / "contents", [0, 100, 200]), colours(tmp_path / "styles", [40, 240])


def cell(sheet: Tensor, row: int, column: int, side: int, left: int = STRIP) -> Tensor:
    """The middle pixel of a cell."""
    top = MARGIN + STRIP + row * (side + MARGIN) + side // 2
    return sheet[0, :, top, MARGIN + left + column * (side + MARGIN) + side // 2]


def colour(value: float) -> Tensor:
    return torch.tensor([round(value) / 255, 0, round(255 - value) / 255])


def test_each_cell_shows_its_content_in_its_style(pictures: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    contents, styles = pictures
    systems = [system("half", 0.5), system("all of/it", 1.0)]
    written = draw_sheets(systems, contents, styles, tmp_path / "out", size=32, cell=16)
    assert [path.name for path in written] == ["sheet_half.png", "sheet_all_of_it.png", "side_by_side.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in written)
    sheets = [load_image(path) for path in written]
    for sheet, share in zip(sheets[:2], (0.5, 1.0), strict=True):
        assert sheet.shape == (1, 3, MARGIN + STRIP + 4 * (16 + MARGIN), MARGIN + STRIP + 3 * (16 + MARGIN))
        torch.testing.assert_close(cell(sheet, 0, 0, 16), torch.ones(3))
        for row, c in enumerate((0, 100, 200), start=1):
            torch.testing.assert_close(cell(sheet, row, 0, 16), colour(c), atol=0.003, rtol=0)
            for column, s in enumerate((40, 240), start=1):
                wanted = colour((1 - share) * c + share * s)
                torch.testing.assert_close(cell(sheet, row, column, 16), wanted, atol=0.006, rtol=0)
                torch.testing.assert_close(cell(sheet, 0, column, 16), colour(s), atol=0.003, rtol=0)
    beside = sheets[2]  # no captions at its left; content, style, and both systems
    for row, (c, s) in enumerate(((0, 40), (100, 240), (200, 40))):
        wanted = [colour(value) for value in (c, s, (c + s) / 2, s)]
        for column, expected in enumerate(wanted):
            torch.testing.assert_close(cell(beside, row, column, 16, left=0), expected, atol=0.006, rtol=0)


def test_no_more_than_one_pair_is_held_in_full_size(
    pictures: tuple[list[Path], list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import weakref

    from kbstyle_example.evaluation import sheet

    alive: list[weakref.ref[Tensor]] = []
    most = 0
    real = sheet.square

    def counted(path: Path, size: int) -> Tensor:
        nonlocal most
        picture = real(path, size)
        alive.append(weakref.ref(picture))
        most = max(most, sum(reference() is not None for reference in alive))
        return picture

    monkeypatch.setattr(sheet, "square", counted)
    draw_sheets([system("half", 0.5)], *pictures, tmp_path / "out", size=32, cell=16)
    assert len(alive) == 5 + 3 + 6
    assert most <= 3  # the content, the style, and the style before it until the name is bound anew


def test_of_many_pictures_some_are_taken(pictures: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    written = draw_sheets([system("half", 0.5)], *pictures, tmp_path, count=1, size=32, cell=16)
    assert load_image(written[0]).shape[-1] == MARGIN + STRIP + 2 * (16 + MARGIN)


def test_cells_arent_enlarged(pictures: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    written = draw_sheets([system("half", 0.5)], *pictures, tmp_path, size=16, cell=64)
    assert load_image(written[0]).shape[-1] == MARGIN + STRIP + 3 * (16 + MARGIN)


def test_spread() -> None:
    paths = [Path(f"{number}.png") for number in range(41)]
    found = [int(path.stem) for path in spread(paths, 8)]
    assert len(set(found)) == 8
    assert (found[0], found[-1]) == (0, 40)
    assert {b - a for a, b in pairwise(found)} <= {5, 6}
    assert spread(paths[:3], 8) == paths[:3]
    assert spread(paths, 1) == paths[:1]


def test_what_makes_no_sheet(pictures: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    contents, styles = pictures
    one = system("one", 0.5)
    with pytest.raises(ArgumentError, match="systems to draw"):
        draw_sheets([], contents, styles, tmp_path)
    with pytest.raises(ArgumentError, match=r"systems to draw; got \['a_b', 'a_b'\]"):
        draw_sheets([system("a b", 0), system("a/b", 0)], contents, styles, tmp_path)
    for wrong in ({"count": 0}, {"cell": 0}, {"size": 8}):
        with pytest.raises(ArgumentError, match="a sheet of no pictures"):
            draw_sheets([one], contents, styles, tmp_path, **wrong)
    with pytest.raises(DataError, match="no pictures for a sheet"):
        draw_sheets([one], contents, [], tmp_path)
    with pytest.raises(DataError, match="too small to measure on"):
        draw_sheets([one], contents, styles, tmp_path, size=64)
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="the output folder can't be made"):
        draw_sheets([one], contents, styles, tmp_path / "file", size=32)
