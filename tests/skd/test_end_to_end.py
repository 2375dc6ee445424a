"""The whole flow, on networks that this project didn't write: pair, measure, match, distil, check, report, deploy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import skd
from skd.errors import (
    ArgumentError,
    CheckError,
    DataError,
    FileError,
    LayerNotFoundError,
    PairingError,
    ShapeError,
)
from skd.methods import SKD, Transfer

nets = pytest.importorskip("monai.networks.nets")


def basic_unet(width: int, dimensions: int = 2) -> nn.Module:
    features = (width, width, 2 * width, 2 * width, 4 * width, width)
    made: nn.Module = nets.BasicUNet(spatial_dims=dimensions, in_channels=1, out_channels=2, features=features)
    return made


def unet(width: int, dimensions: int = 2) -> nn.Module:
    channels = (width, 2 * width, 4 * width)
    made: nn.Module = nets.UNet(
        spatial_dims=dimensions, in_channels=1, out_channels=2, channels=channels, strides=(2, 2), num_res_units=1
    )
    return made


class Autoencoder(nn.Module):
    """1-D: (B, 3, L) → (B, 3, L), L a multiple of 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv1d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv1d(width, 2 * width, 3, 2, 1))
        self.up = nn.Sequential(
            nn.ConvTranspose1d(2 * width, width, 2, 2), nn.ReLU(), nn.ConvTranspose1d(width, 3, 2, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(self.down(x))
        return out


class Translator(nn.Module):
    """Tokens to logits, through torch's transformer: (B, N), (B, M) → (B, M, 11)."""

    def __init__(self, width: int, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, width)
        self.net = nn.Transformer(
            width, 2, num_encoder_layers=layers, num_decoder_layers=layers, dim_feedforward=2 * width, batch_first=True
        )
        self.head = nn.Linear(width, 11)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        out: Tensor = self.head(self.net(self.embed(source), self.embed(target)))
        return out


def train(distiller: skd.Distiller, batches: Sequence[Any], rounds: int, rate: float) -> list[float]:
    """Plain steps, the same batches round after round; the total of each step."""
    optimizer = torch.optim.Adam(distiller.parameters(), lr=rate)
    skd.check(distiller, batches[0], optimizer=optimizer)
    totals = []
    for _ in range(rounds):
        for batch in batches:
            step = distiller(*(batch if isinstance(batch, tuple) else (batch,)))
            optimizer.zero_grad()
            step.losses.total.backward()
            optimizer.step()
            distiller.advance()
            totals.append(step.losses.values()["total"])
    return totals


def distilled(teacher: nn.Module, student: nn.Module, batches: Sequence[Any], **options: Any) -> skd.Distiller:
    pairing = skd.pair(teacher, batches[0])
    spectra = skd.measure(teacher, pairing, batches)
    return skd.Distiller(teacher, student, SKD(skd.match(pairing, skd.pair(student, batches[0])), spectra, **options))


def assert_learned(
    distiller: skd.Distiller, batches: Sequence[Any], *, rounds: int = 6, rate: float = 5e-3, share: float = 0.9
) -> skd.Report:
    """The loss falls, in training and in the report; the teacher stays as it was, the student doesn't."""
    networks = (distiller.teacher, distiller.student)
    weights = [[p.detach().clone() for p in network.parameters()] for network in networks]
    before = skd.report(distiller, batches)
    totals = train(distiller, batches, rounds, rate)
    after = skd.report(distiller, batches)
    count = len(batches)
    assert sum(totals[-count:]) < share * sum(totals[:count])
    assert sum(row.loss or 0.0 for row in after.rows) < sum(row.loss or 0.0 for row in before.rows)
    for network, were, same in zip(networks, weights, (True, False), strict=True):
        assert all(torch.equal(p, w) for p, w in zip(network.parameters(), were, strict=True)) is same
    return after


# --- the flow ---------------------------------------------------------------------------------------------------------


def test_basic_unet_from_the_pairing_to_the_deployed_student(tmp_path: Path) -> None:
    batches = list(torch.randn(3, 4, 1, 32, 32))
    teacher, student = basic_unet(8), basic_unet(3)
    pairing = skd.pair(teacher, batches[0])
    assert [(p.name, str(p.encoder), str(p.decoder), p.width) for p in pairing] == [
        ("1", "conv_0", "upcat_1", 8),
        ("1/2", "down_1", "upcat_2", 8),
        ("1/4", "down_2", "upcat_3", 16),
        ("1/8", "down_3", "upcat_4", 16),
    ]
    spectra = skd.measure(teacher, pairing, [*batches, *torch.randn(3, 4, 1, 32, 32)])
    plan = skd.match(pairing, skd.pair(student, batches[0]))
    distiller = skd.Distiller(teacher, student, SKD(plan, spectra))
    found = assert_learned(distiller, batches)
    assert len(found.rows) == 4 * 2 * 2 + 1
    assert found.student_parameters == sum(p.numel() for p in student.parameters())
    assert all(row.energy_kept is None or 0.1 < row.energy_kept <= 1 for row in found.rows)

    # What is deployed is the student alone: a file of its weights, and the same numbers without skd.
    torch.save(student.state_dict(), tmp_path / "student.pt")
    alone = basic_unet(3)
    alone.load_state_dict(torch.load(tmp_path / "student.pt", weights_only=True))
    torch.testing.assert_close(alone.eval()(batches[0]), student.eval()(batches[0]), rtol=0, atol=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())
    assert {type(m).__module__.partition(".")[0] for m in student.modules()} <= {"monai", "torch"}

    # The files between the steps lead to the same distiller.
    pairing.save(tmp_path / "pairing.json")
    spectra.save(tmp_path / "spectra.pt")
    again = skd.Pairing.load(tmp_path / "pairing.json")
    method = SKD(skd.match(again, skd.pair(student, batches[0])), skd.Spectra.load(tmp_path / "spectra.pt"))
    torch.testing.assert_close(
        skd.Distiller(teacher, student, method)(batches[0]).losses.total,
        distiller(batches[0]).losses.total,
    )


def test_a_checkpoint_of_the_distiller_goes_on_without_the_teacher(tmp_path: Path) -> None:
    batches = list(torch.randn(2, 4, 1, 16, 16))
    teacher = unet(8)
    distiller = distilled(teacher, unet(4), batches, basis="learned")
    train(distiller, batches, 1, 1e-3)
    torch.save(distiller.state_dict(), tmp_path / "checkpoint.pt")
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(key.startswith(("student.", "adapters.", "_extra_state")) for key in state)
    again = distilled(teacher, unet(4), batches, basis="learned")
    again.load_state_dict(state)
    torch.testing.assert_close(again.eval()(batches[0]).losses.total, distiller.eval()(batches[0]).losses.total)
    assert again.steps_done == 2


@pytest.mark.parametrize("basis", [None, "own", "subset", "learned", "learned_shared"])
@pytest.mark.parametrize("sides", ["both", "encoder", "decoder"])
def test_every_basis_and_side_learns(basis: Any, sides: Any) -> None:
    batches = list(torch.randn(2, 4, 1, 16, 16))
    assert_learned(
        distilled(unet(8), unet(4), batches, basis=basis, sides=sides), batches, rounds=4, rate=1e-2, share=1
    )


def test_three_dimensions() -> None:
    batches = list(torch.randn(2, 2, 1, 12, 12, 12))
    distiller = distilled(unet(8, 3), unet(4, 3), batches)
    assert_learned(distiller, batches, rounds=4, rate=1e-2)


def test_one_dimension() -> None:
    batches = list(torch.randn(2, 4, 3, 32))
    found = assert_learned(distilled(Autoencoder(8), Autoencoder(3), batches), batches, rate=1e-2)
    assert [row.name for row in found.rows if row.alignment is not None] == [
        row.name
        for row in found.rows
        if row.name != "output"  # whose three dimensions have no stated layout
    ]


def test_a_transformer_that_reads_and_writes_tokens() -> None:
    """Mirrored by depth; called with two arguments; layout BNC."""
    torch.manual_seed(3)
    batches = [(torch.randint(11, (4, 7)), torch.randint(11, (4, 7))) for _ in range(4)]
    teacher, student = Translator(16), Translator(8)
    pairing = skd.pair(teacher, batches[0])
    assert [(str(p.encoder), str(p.decoder)) for p in pairing] == [
        ("net.encoder.layers.0", "net.decoder.layers.1"),
        ("net.encoder.layers.1", "net.decoder.layers.0"),
    ]
    assert {tap.layout for tap in pairing.taps} == {"BNC"}
    assert_learned(distilled(teacher, student, batches), batches, rate=5e-3)


def test_a_student_with_fewer_layers() -> None:
    batches = [(torch.randint(11, (4, 7)), torch.randint(11, (4, 7))) for _ in range(4)]
    distiller = distilled(Translator(16, layers=4), Translator(8, layers=2), batches)
    assert len({row.name.split("/")[0] for row in distiller.transfers}) == 3  # two pairs and the output
    assert_learned(distiller, batches)


def test_a_task_loss_beside_the_distillation() -> None:
    """`step.output` is the student's own, with its gradient."""
    x, y = torch.randn(4, 1, 16, 16), torch.randint(2, (4, 16, 16))
    student = unet(4)
    distiller = distilled(unet(8), student, [x])
    optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        step = distiller(x)
        task = nn.functional.cross_entropy(step.output, y)
        optimizer.zero_grad()
        (task + step.losses.total).backward()
        optimizer.step()
        losses.append((task.item(), step.losses.total.item()))
    assert losses[-1][0] < losses[0][0]
    assert losses[-1][1] < losses[0][1]


# --- bad input: one clear error each ----------------------------------------------------------------------------------


def test_unknown_layers_name_the_closest() -> None:
    net = basic_unet(4)
    with pytest.raises(LayerNotFoundError, match=r"no layer 'upcat_9'.*did you mean 'upcat_"):
        skd.Distiller(net, basic_unet(2), [Transfer("t", "upcat_1", "upcat_9")])
    with pytest.raises(LayerNotFoundError, match=r"'dwon_1'.*did you mean 'down_1'"):
        skd.Pairing.declare([("dwon_1", "upcat_1")], net, torch.zeros(1, 1, 32, 32))
    pairing = skd.pair(net, torch.zeros(1, 1, 32, 32))
    with pytest.raises(LayerNotFoundError, match=r"no such pair; got '1/3'.*did you mean '1/"):
        pairing.without("1/3")


def test_features_that_do_not_fit() -> None:
    x = torch.randn(2, 1, 32, 32)
    distiller = skd.Distiller(basic_unet(4), basic_unet(2), [Transfer("t", "conv_0", "conv_0")])
    with pytest.raises(ShapeError, match=r"transfer 't': .*\(2, 2, 32, 32\).*\(2, 4, 32, 32\)"):
        skd.check(distiller, x)
    with pytest.raises(ShapeError, match=r"\(2, 2, 32, 32\).*\(2, 4, 32, 32\)"):
        distiller(x)


def test_a_student_that_is_wider_than_its_teacher() -> None:
    x = torch.randn(2, 1, 16, 16)
    with pytest.raises(PairingError, match=r"the student's encoder is wider.*teacher comes first"):
        skd.match(skd.pair(unet(2), x), skd.pair(unet(4), x))


def test_a_network_without_a_mirror() -> None:
    with pytest.raises(PairingError, match=r"no decoder layer mirrors an encoder layer.*Pairing\.declare"):
        skd.pair(nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Flatten(), nn.Linear(4 * 7 * 7, 5)), torch.zeros(1, 3, 16, 16))


def test_spectra_of_another_pairing() -> None:
    x = torch.randn(4, 1, 16, 16)
    teacher = unet(8)
    plan = skd.match(skd.pair(teacher, x), skd.pair(unet(4), x))
    other = Autoencoder(8)
    declared = skd.Pairing.declare({"other": ("down.0", "up.0")}, other, torch.zeros(1, 3, 16))
    spectra = skd.measure(other, declared, [torch.randn(4, 3, 16)])
    with pytest.raises(ShapeError, match="the spectra are of another pairing than the plan"):
        skd.Distiller(teacher, unet(4), SKD(plan, spectra))


def test_an_empty_loader() -> None:
    x = torch.randn(4, 1, 16, 16)
    teacher = unet(8)
    with pytest.raises(DataError, match="no data to measure; got 0 batches"):
        skd.measure(teacher, skd.pair(teacher, x), [])
    with pytest.raises(DataError, match="no data to report on; got 0 batches"):
        skd.report(distilled(teacher, unet(4), [x]), [])


def test_a_loader_of_pairs_without_inputs() -> None:
    x, y = torch.randn(4, 1, 16, 16), torch.zeros(4)
    teacher = unet(8)
    pairing = skd.pair(teacher, x)
    with pytest.raises(DataError, match=r"batch 0 doesn't fit the model's arguments.*inputs=lambda batch: batch\[0\]"):
        skd.measure(teacher, pairing, [(x, y)])
    spectra = skd.measure(teacher, pairing, [(x, y)], inputs=lambda batch: batch[0])
    distiller = skd.Distiller(teacher, unet(4), SKD(skd.match(pairing, skd.pair(unet(4), x)), spectra))
    with pytest.raises(DataError, match="the batch isn't what the student takes"):
        skd.check(distiller, (x, y))
    assert skd.report(distiller, [(x, y)], inputs=lambda batch: batch[0]).batches == 1


@pytest.mark.parametrize("kind", [skd.Pairing, skd.Spectra, skd.Report])
@pytest.mark.parametrize("content", [b"", b"not it", b'{"format": "another"}', b"\x89PNG\r\n\x1a\n"])
def test_wrong_files(kind: Any, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"file' (is no \w+ file, or a damaged one|holds something else)"):
        kind.load(path)
    with pytest.raises(FileError, match="can't be read; got No such file"):
        kind.load(tmp_path / "none")


def test_a_teacher_that_is_the_student() -> None:
    net = unet(4)
    with pytest.raises(ArgumentError, match=r"a teacher that isn't the student itself.*deepcopy"):
        skd.Distiller(net, net, [Transfer("output", "", "")])


def test_an_optimizer_of_the_student_alone() -> None:
    x = torch.randn(4, 1, 16, 16)
    distiller = distilled(unet(8), unet(4), [x], basis="learned")
    with pytest.raises(CheckError, match=r"without adapters\.0\."):
        skd.check(distiller, x, optimizer=torch.optim.Adam(distiller.student.parameters()))
