"""compress(): students by a factory and as files, the report, and what is left as it was."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from _small import SRResNet, UNet, noise, seeded
from torch import nn
from torch.testing import assert_close

import skd
from skd._compression.analysis import Data, analyse
from skd._compression.groups import find_groups
from skd._compression.narrowing import half, narrowed
from skd._compression.tracing import trace_channels
from skd.compressing import Compressed, compress
from skd.errors import ArgumentError, CompressionError, FileError

pytest.importorskip("torch_pruning")


def test_a_student_from_a_factory_is_filled_by_name() -> None:
    seeded()
    full = (8, 16, 24)
    net, data = UNet(full).eval(), noise(2, 1, 16, 16, count=2)
    done = compress(net, None, data=data, ratio=3, build=UNet, full=full, multiple=2)
    student = done.student
    assert isinstance(student, UNet)
    again = UNet((student.down1[0].out_channels, student.down2[0].out_channels, student.middle[0].out_channels))
    again.load_state_dict(student.state_dict())
    assert_close(again.eval()(data[0]), student(data[0]))
    assert done.bytes <= done.budget
    assert done.unused <= 0.03 or (done.next_bytes or 0) > done.budget
    # the same widths by the automatic way are the same network
    auto = compress(net, None, data=data, widths=done.widths)
    assert_close(auto.student(data[0]), student(data[0]), rtol=1e-4, atol=1e-5)


def test_the_widths_of_a_factory_can_have_names() -> None:
    seeded()
    data = noise(2, 3, 8, 8, count=2)

    def build(widths: dict[str, int]) -> nn.Module:
        return SRResNet(widths["all"])

    net = build({"all": 12}).eval()
    done = compress(net, None, data=data, build=build, full={"all": 12}, widths={"all": 5})
    assert {row.kept for row in done.rows if row.whole is None} == {5}


def test_a_factory_that_builds_something_else_is_refused() -> None:
    net, data = SRResNet(8).eval(), noise(2, 3, 8, 8, count=2)
    with pytest.raises(ArgumentError, match=r"isn't the teacher.*full="):
        compress(net, None, data=data, ratio=2, build=lambda w: SRResNet(*w), full=(6,))
    with pytest.raises(ArgumentError, match="build= needs the widths"):
        compress(net, None, data=data, ratio=2, build=lambda w: SRResNet(*w))

    def odd(widths: tuple[int]) -> nn.Module:
        made = SRResNet(*widths)
        made.tail = nn.Conv2d(made.tail.in_channels, 3, 5 if widths == (8,) else 3, padding=2)
        return made

    with pytest.raises(CompressionError, match=r"'tail.weight' doesn't fit"):
        compress(net, None, data=data, ratio=2, build=odd, full=(8,))


def test_a_norm_that_wants_multiples() -> None:
    data = noise(2, 1, 8, 8, count=2)

    def build(widths: tuple[int]) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, widths[0], 5), nn.GroupNorm(4, widths[0]), nn.Conv2d(widths[0], 1, 1))

    net = build((32,)).eval()
    done = compress(net, None, data=data, ratio=1.5, build=build, full=(32,))
    assert done.student[0].out_channels % 4 == 0
    assert compress(net, None, data=data, ratio=1.5).student[0].out_channels % 4 == 0


LOADING = """
import sys, torch
program = torch.export.load(sys.argv[1])
print(float(program.module()(torch.ones(1, 3, 8, 8)).sum()))
assert not any(name.split(".")[0] in ("skd", "torch_pruning") for name in sys.modules)
"""


def test_an_exported_student_runs_where_there_is_no_skd(tmp_path: Path) -> None:
    seeded()
    net, data = SRResNet(8).eval(), noise(1, 3, 8, 8, count=2)
    done = compress(net, None, data=data, ratio=2)
    done.export(tmp_path / "student.pt2", data[0])
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", LOADING, str(tmp_path / "student.pt2")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) == pytest.approx(
        done.student(torch.ones(1, 3, 8, 8)).detach().sum().item(), rel=1e-4, abs=1e-4
    )


def test_files_of_a_student(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch")
    seeded()
    net, data = SRResNet(8).eval(), noise(2, 3, 8, 8, count=2)
    done = compress(net, None, data=data, ratio=2, dtype=torch.float16)
    done.save(tmp_path / "student.safetensors")
    assert (tmp_path / "student.safetensors").stat().st_size == done.bytes
    again = copy.deepcopy(done.student)
    again.load_state_dict(library.load_file(tmp_path / "student.safetensors"))
    assert_close(again(data[0]), done.student(data[0]), rtol=1e-2, atol=1e-2)
    done.save_widths(tmp_path / "widths.json")
    widths = Compressed.load_widths(tmp_path / "widths.json")
    assert widths == done.widths
    twin = compress(net, None, data=data, widths=widths)
    assert_close(twin.student(data[0]), done.student(data[0]))


@pytest.mark.parametrize("content", [None, "", "{}", '{"format": "skd.widths", "version": 9, "widths": {}}', "[1]"])
def test_damaged_widths_files(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "widths.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(FileError, match=r"widths\.json"):
        Compressed.load_widths(path)


def test_the_teacher_is_left_as_it_was() -> None:
    seeded()
    net = UNet().train()
    net.down1[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    flags = [module.training for module in net.modules()]
    state = torch.get_rng_state()
    compress(net, None, data=noise(2, 1, 16, 16, count=2), ratio=2)
    assert [module.training for module in net.modules()] == flags
    assert {name for name, p in net.named_parameters() if not p.requires_grad} == {"down1.0.weight"}
    assert not any(module._forward_pre_hooks for module in net.modules())
    for name, tensor in net.state_dict().items():
        assert_close(tensor, before[name], rtol=0, atol=0)
    del state


def test_the_report_is_a_table() -> None:
    seeded()
    net, data = SRResNet(8).eval(), noise(2, 3, 8, 8, count=2)
    text = str(compress(net, None, data=data, size="8 KB"))
    assert text.startswith("Compressed ")
    assert "of 8,192 bytes" in text
    assert "tail is whole: the network's output" in text
    assert json.loads(json.dumps(compress(net, None, data=data, size="8 KB").widths))


def test_analysis_of_kbstyle_has_three_levels() -> None:
    """Content encoder, style encoder and decoder share the three streams; what the style turns is whole and named."""
    networks = pytest.importorskip("kbstyle_example.networks")
    seeded()
    net = networks.KBStyle(networks.KBStyleConfig((4, 6, 8))).eval()
    data = [(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 40)) for _ in range(2)]
    found = analyse(net, None, Data.of(data, None, None), rotated=False)
    streams = sorted(group.width for group in found.groups if len(group.ports) > 4 and group.whole is None)
    assert streams == [4, 6, 8]
    own = {group.name for group in found.groups if group.whole is None and len(group.ports) == 2}
    assert {"style_encoder.level3.2.mix", "style_encoder.level3.3.mix"} <= own
    whole = {group.name: group.whole for group in found.groups if group.whole is not None}
    assert "can't be followed" in whole["decoder.level3.film.2"]
    done = compress(
        net, None, data=data, ratio=2, build=lambda w: networks.KBStyle(networks.KBStyleConfig(w)), full=(4, 6, 8)
    )
    assert done.bytes <= done.budget
    assert done.student.config.widths != (4, 6, 8)


def test_narrowed_copies_share_nothing_with_the_network() -> None:
    net = SRResNet(4)
    groups = find_groups(trace_channels(net, (torch.randn(1, 3, 8, 8),), {}), net)
    twin = narrowed(net, groups, {k: half(g) for k, g in enumerate(groups) if g.whole is None})
    ours, theirs = ({p.data_ptr() for p in each.parameters()} for each in (net, twin))
    assert not ours & theirs


def test_the_public_name() -> None:
    assert skd.compress is compress
    assert skd.Compressed is Compressed


@pytest.mark.parametrize("frozen", ["all", "some", "none"])
def test_what_can_be_trained(frozen: str) -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 3))
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(frozen == "none" or (frozen == "some" and name.startswith("0")))
    before = [parameter.requires_grad for parameter in net.parameters()]
    student = compress(net, None, data=noise(2, 1, 8, 8, count=2), widths={"0": 4}).student
    wanted = [True] * 4 if frozen == "all" else before
    assert [parameter.requires_grad for parameter in student.parameters()] == wanted
    assert [parameter.requires_grad for parameter in net.parameters()] == before
