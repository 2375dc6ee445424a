"""Cells that train together: the same to the bit as alone, with samples and the teacher's runs shared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from skd.knowledge import Reread

pytest.importorskip("torch_pruning")


def test_cells_together_are_the_same_cells(parts: dict[str, ModuleType], folder: Path, tmp_path: Path) -> None:
    cells = parts["cells"]
    prepared = cells.Prepared(parts["tasks"].task_of("denoising", folder, tmp_path, smoke=True))
    runs, begun = 0, 0

    def counted(*_: Any) -> None:
        nonlocal runs
        runs += 1

    def begins(_: Any, given: tuple[torch.Tensor]) -> None:
        nonlocal begun
        begun += not given[0].requires_grad  # a run of the teacher, or what it said read again

    prepared.task.teacher.down1.register_forward_pre_hook(begins)
    prepared.task.teacher.middle.register_forward_pre_hook(counted)  # which reading an output again does not reach
    # MGD draws masks from the global random numbers, Collaborative has stages; in the pairs' bases features come
    # through a teacher's adapter.
    arms = ("SKD", "MGD", "from scratch", "Hinton", "Collaborative", "SKD's start, not trained", "output only", "AT",
            "SKD, in the pairs' bases")  # fmt: skip
    some = [cells.Cell("denoising", arm, 1.0, 0, 30, "validation") for arm in arms]
    alone = [cells.run_cell(prepared, cell) for cell in some]
    needed, read = runs, begun - runs
    runs = begun = 0
    torch.manual_seed(3)
    at_once = parts["together"].run_together(prepared, some)
    assert runs < needed / 2
    assert begun - runs < 0.7 * read  # of two arms that read outputs again
    assert all(line.pop("cpu_seconds", 0) >= 0 for line in (*alone, *at_once))
    assert at_once == alone
    assert len({line["value"] for line in alone if "value" in line}) == len(arms) - 1
    torch.testing.assert_close(torch.rand(4), torch.rand(4, generator=torch.Generator().manual_seed(3)), rtol=0, atol=0)


def test_an_error_of_a_cell_leaves_the_others(
    parts: dict[str, ModuleType], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, together = parts["cells"], parts["together"]
    prepared = cells.Prepared(parts["tasks"].task_of("denoising", folder, tmp_path, smoke=True))
    long = replace(prepared.task.setting, final=2, long_precision="bfloat16")
    prepared.task = replace(prepared.task, setting=long)
    trained, done = cells._train, list[str]()

    def train(task: Any, student: nn.Module, rows: Any, loader: Any, cell: Any, **options: Any) -> None:
        if cell.arm == "FitNets":  # the first to train: what it leaves behind must not be missed by the others
            options["each"] = fails
        trained(task, student, rows, loader, cell, **options)
        done.append(cell.arm)

    def fails(*_: Any) -> None:
        raise RuntimeError("no more memory")

    monkeypatch.setattr(cells, "_train", train)
    some = [cells.Cell("denoising", arm, 1.0, 0, 6, "validation") for arm in ("FitNets", "AT", "output only")]
    with pytest.raises(RuntimeError, match="no more memory"):
        together.run_together(prepared, some)
    assert done == ["AT", "output only"]
    assert torch.get_num_threads() == 1  # as `conftest` has it


def test_samples_are_read_once_and_let_go(parts: dict[str, ModuleType]) -> None:
    read = list[int]()

    class Source:
        def __len__(self) -> int:
            return 9

        def __getitem__(self, index: int) -> int:
            read.append(index)
            return 10 * index

    once = parts["together"].ReadOnce(Source(), 4)
    assert [once[k] for k in (0, 1, 0, 1, 2, 3, 0, 4, 4, 0)] == [0, 10, 0, 10, 20, 30, 0, 40, 40, 0]
    assert read == [0, 1, 2, 3, 4, 0]  # the oldest went when there were five
    assert len(once) == 9
    assert len(once.kept) == 4


def test_what_several_ask_of_the_teachers_output_is_read_once(parts: dict[str, ModuleType]) -> None:
    network = nn.Conv2d(3, 2, 1)
    theirs, ours = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5, requires_grad=True)
    plain = Reread(network, [""])
    read = parts["together"].RereadOnce(plain)
    assert read(theirs) is read(theirs)
    torch.testing.assert_close(read(theirs), plain(theirs), rtol=0, atol=0)
    assert read(ours) is not read(ours)  # each has its own gradient
    torch.autograd.backward(read(ours).sum())
    assert ours.grad is not None
    later = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(read(later), plain(later), rtol=0, atol=0)


def test_only_cells_of_the_same_batches_go_together(parts: dict[str, ModuleType]) -> None:
    cell = parts["cells"].Cell
    some = [cell("t", arm, 1.0, seed, 2, "test") for arm in "abc" for seed in (0, 1)]
    found = parts["running"].groups([*some, cell("t", "a", 1.0, 0, 4, "test")], 2)
    assert [[(each.arm, each.seed, each.steps) for each in group] for group in found] == [
        [("a", 0, 2), ("b", 0, 2)], [("c", 0, 2)], [("a", 1, 2), ("b", 1, 2)], [("c", 1, 2)], [("a", 0, 4)]
    ]  # fmt: skip
