"""Teachers' features on disk: the same losses without running the teacher, and never those of something else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import skd
from skd._feature_file import Kept, packed, unpacked
from skd.errors import ArgumentError, FeatureError, FileError
from skd.methods import Transfer

ROWS = ["0", ""]


class Counted(nn.Sequential):
    """How often it ran."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


def net(width: int = 4) -> Counted:
    return Counted(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 3, 1))


def rows() -> list[Transfer]:
    return [Transfer(f"at {tap}", tap, tap) for tap in ROWS]


def made(folder: Path, teacher: nn.Module | None = None, **options: Any) -> tuple[skd.Distiller, skd.TeacherCache]:
    torch.manual_seed(0)
    cache = skd.TeacherCache(folder, **options)
    return skd.Distiller(net() if teacher is None else teacher, net(), rows(), cache=cache), cache


def losses(distiller: skd.Distiller, x: Tensor) -> Tensor:
    return torch.stack(list(distiller(x).losses.terms.values()))


def batch(size: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(size, 3, 6, 8, generator=torch.Generator().manual_seed(seed))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_losses_without_the_teacher(tmp_path: Path, dtype: torch.dtype) -> None:
    distiller, cache = made(tmp_path, dtype=dtype)
    teacher = distiller.teacher
    assert isinstance(teacher, Counted)
    plain = skd.Distiller(teacher, distiller.student, rows()).eval()
    distiller.eval()
    wanted = losses(plain, batch())
    teacher.calls = 0
    assert torch.equal(losses(distiller, batch()), wanted)  # the first time as if there were no cache
    assert teacher.calls == 2  # one of them the first sample alone, to see that samples are by themselves
    found = losses(distiller, batch())
    assert teacher.calls == 2
    assert (cache.hits, cache.misses) == (4, 4)
    exact = dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0 if exact else 2e-2, atol=0 if exact else 1e-3)


def test_samples_are_found_in_any_order_and_by_another_process(tmp_path: Path) -> None:
    distiller, _ = made(tmp_path, dtype=torch.float32)
    x = batch(6)
    losses(distiller, x)
    teacher = distiller.teacher
    assert isinstance(teacher, Counted)
    later = skd.Distiller(teacher, distiller.student, rows(), cache=skd.TeacherCache(tmp_path, dtype=torch.float32))
    order = torch.tensor([5, 0, 3])
    wanted = losses(skd.Distiller(teacher, distiller.student, rows()), x[order])
    teacher.calls = 0
    torch.testing.assert_close(losses(later, x[order]), wanted)
    assert teacher.calls == 0
    assert later.cache is not None
    assert (later.cache.hits, later.cache.misses) == (3, 0)
    losses(later, torch.cat((x[:1], batch(1, seed=9))))  # one of two is new: the teacher runs
    assert (later.cache.hits, later.cache.misses) == (4, 1)


def test_nothing_else_is_found(tmp_path: Path) -> None:
    distiller, cache = made(tmp_path)
    x = batch()
    losses(distiller, x)
    losses(distiller, x.flip(-1))  # another augmentation
    losses(distiller, x.to(memory_format=torch.channels_last))  # the same numbers
    assert (cache.hits, cache.misses) == (4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        losses(distiller, x)
    assert cache.misses == 12
    teacher = distiller.teacher
    with torch.no_grad():
        teacher[1].running_mean.add_(0.5)  # type: ignore[union-attr, operator]
    losses(distiller, x)
    assert cache.misses == 16
    teacher[3] = nn.Conv2d(4, 3, 1)  # type: ignore[operator]
    wanted = losses(skd.Distiller(teacher, distiller.student, rows()), x)
    torch.testing.assert_close(losses(distiller, x), wanted)
    assert cache.misses == 20
    other = skd.Distiller(teacher, distiller.student, rows()[:1], cache=cache)  # other taps
    losses(other, x)
    assert (cache.hits, cache.misses) == (4, 24)


@pytest.mark.parametrize("damage", ["a bit", "the end", "everything"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: str) -> None:
    distiller, cache = made(tmp_path)
    wanted = losses(distiller, batch(2))
    path = min(files(tmp_path))
    content = bytearray(path.read_bytes())
    if damage == "a bit":
        content[len(content) // 2] ^= 1
    path.write_bytes({"a bit": content, "the end": content[:-5], "everything": b""}[damage])
    torch.testing.assert_close(losses(distiller, batch(2)), wanted, rtol=2e-2, atol=1e-3)
    assert (cache.corrupt, cache.hits, cache.misses) == (1, 1, 3)
    losses(distiller, batch(2))
    assert (cache.corrupt, cache.hits, cache.misses) == (1, 3, 3)


def test_it_stays_within_its_size(tmp_path: Path) -> None:
    distiller, cache = made(tmp_path / "probe")
    losses(distiller, batch(1))
    one = cache.used
    assert one == sum(path.stat().st_size for path in files(tmp_path))
    limit = 3 * one + one // 2
    small = skd.TeacherCache(tmp_path / "small", size=limit)
    distiller = skd.Distiller(distiller.teacher, distiller.student, rows(), cache=small)
    for seed in range(3):
        losses(distiller, batch(2, seed))
    assert len(files(tmp_path / "small")) == 3
    assert small.used == sum(path.stat().st_size for path in files(tmp_path / "small")) <= limit
    assert skd.TeacherCache(tmp_path / "small", size=limit).used == small.used
    assert "hits" in repr(small)


def test_features_out_of_range_stay_as_they_are(tmp_path: Path) -> None:
    teacher = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Identity())
    with torch.no_grad():
        teacher[0].weight.mul_(1e6)  # type: ignore[operator, union-attr]
    cache = skd.TeacherCache(tmp_path)
    distiller = skd.Distiller(teacher, nn.Sequential(nn.Conv2d(3, 4, 1), nn.Identity()), rows(), cache=cache)
    wanted = losses(distiller, batch())
    assert torch.equal(losses(distiller, batch()), wanted)
    assert cache.hits == 4


def test_memory_formats_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    taps = skd.Taps(net().eval().to(memory_format=torch.channels_last), ROWS, stop_early=True)
    cache = skd.TeacherCache(tmp_path, dtype=torch.float32)
    x = batch().contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        first, second = (cache.features(taps, (x,), {}) for _ in range(2))
    assert cache.hits == 4
    for tap in taps.taps:
        assert torch.equal(first[tap], second[tap])
        assert second[tap].is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.sampled_from([None, 1.5, "mode", True]))
def test_features_are_those_of_the_taps(tmp_path_factory: pytest.TempPathFactory, order: list[int], more: Any) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor, *, by: Tensor, options: dict[str, Any]) -> Tensor:
            scale = 2.0 if options["more"] == 1.5 else 3.0
            return self.layer(x) * by * scale

    torch.manual_seed(0)
    taps = skd.Taps(Scaled().eval(), ["layer", ""])
    cache = skd.TeacherCache(tmp_path_factory.mktemp("cache"), dtype=torch.float32)
    every, by = torch.arange(18.0).view(6, 3), torch.tensor(2.0)
    with torch.no_grad():
        for _ in range(2):
            x = every[order]
            found = cache.features(taps, (x,), {"by": by, "options": {"more": more}})
            wanted = taps(x, by=by, options={"more": more})[1]
            for tap in taps.taps:
                torch.testing.assert_close(found[tap], wanted[tap])
        before = cache.misses
        cache.features(taps, (x,), {"by": by + 1, "options": {"more": more}})
        assert cache.misses == before + len(order)


def test_training_is_the_same(tmp_path: Path) -> None:
    data = [batch(2, seed) for seed in range(3)]
    found = []
    for cache in (None, skd.TeacherCache(tmp_path / "cache", dtype=torch.float32)):
        torch.manual_seed(0)
        teacher, student = net(), net()
        out = tmp_path / f"run{len(found)}"
        recipe = skd.Recipe(steps=9, cpu=True)
        skd.distill(teacher, data, out, student=student, recipe=recipe, method=rows(), cache=cache)
        found.append(student.state_dict())
        runs = teacher.calls
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value)
    assert cache is not None
    assert cache.misses == 6
    assert runs < 9  # of them three that made the features, and what looked at the set-up


def test_what_it_refuses(tmp_path: Path) -> None:
    class Together(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

    x = batch()
    taps = skd.Taps(Together(), [""])
    with pytest.raises(FeatureError, match="can't be kept sample by sample"):
        skd.TeacherCache(tmp_path).features(taps, (x,), {})
    assert not files(tmp_path)
    plain = skd.Taps(net().eval(), [""])
    with pytest.raises(ArgumentError, match="no tensors has no samples"):
        skd.TeacherCache(tmp_path).features(plain, (), {})
    with pytest.raises(ArgumentError, match="contents of an argument can't be told"):
        skd.TeacherCache(tmp_path).features(plain, (x,), {"how": lambda: 1})
    with pytest.raises(ArgumentError, match="features can't be kept so"):
        skd.TeacherCache(tmp_path, dtype=torch.int8)
    with pytest.raises(ArgumentError, match="isn't a size"):
        skd.TeacherCache(tmp_path, size="many")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="can't be made"):
        skd.TeacherCache(tmp_path / "file" / "folder")
    with pytest.raises(ArgumentError, match="keeps features, and not the teacher's output"):
        skd.Distiller(net(), net(), rows(), cache=skd.TeacherCache(tmp_path), keep_teacher_output=True)
    cache = skd.TeacherCache(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileError, match="can't be written"):
        cache.features(plain, (x,), {})


def test_a_pickle_and_a_compiled_step(tmp_path: Path) -> None:
    distiller, cache = made(tmp_path, size="3 MB")
    again = pickle.loads(pickle.dumps(cache))
    assert (again.folder, again.size, again.dtype) == (cache.folder, cache.size, cache.dtype)
    distiller.eval()
    wanted = losses(distiller, batch())
    compiled = torch.compile(distiller, backend="eager", fullgraph=True)
    torch.testing.assert_close(torch.stack(list(compiled(batch()).losses.terms.values())), wanted)
    assert (cache.hits, cache.misses) == (0, 4)


# --- files -----------------------------------------------------------------------------------------------------------

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64]


@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4), st.booleans()), max_size=4))
def test_a_file_holds_what_was_written(features: list[tuple[torch.dtype, list[int], bool]]) -> None:
    random = torch.Generator().manual_seed(0)
    given = [
        Kept((torch.randn(shape, generator=random) * 9).to(dtype), torch.float32, last)
        for dtype, shape, last in features
    ]
    for one, other in zip(given, unpacked(packed(given)), strict=True):
        assert (one.values.dtype, one.values.shape, one[1:]) == (other.values.dtype, other.values.shape, other[1:])
        assert torch.equal(one.values, other.values)


# --- features kept in a basis' coordinates ---------------------------------------------------------------------------


def mirrored(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1),
        nn.Conv2d(width, 2 * width, 3, 2, 1),
        nn.ConvTranspose2d(2 * width, width, 2, 2),
        nn.ConvTranspose2d(width, 3, 2, 2),
    )


@pytest.fixture
def narrowing() -> tuple[nn.Module, nn.Module, skd.Plan, skd.Spectra, Tensor]:
    torch.manual_seed(0)
    teacher, student, x = mirrored(16).eval(), mirrored(4), torch.rand(4, 3, 16, 24)
    pairing = skd.pair(teacher, x)
    return teacher, student, skd.match(pairing, skd.pair(student, x)), skd.measure(teacher, pairing, [x]), x


def kept(path: Path) -> list[int]:
    """How many numbers a file holds of each feature."""
    return [each.values.numel() for each in unpacked(path.read_bytes()[32:])]


def test_what_a_fixed_basis_reads_is_kept_in_its_coordinates(tmp_path: Path, narrowing: Any) -> None:
    teacher, student, plan, spectra, x = narrowing
    method = skd.methods.SKD(plan, spectra, output=0.0)
    wanted = losses(skd.Distiller(teacher, student, method), x)
    distiller = skd.Distiller(teacher, student, method, cache=skd.TeacherCache(tmp_path, dtype=torch.float32))
    for _ in range(2):  # made, and read
        torch.testing.assert_close(losses(distiller, x), wanted, rtol=1e-6, atol=0)
    assert kept(files(tmp_path)[0]) == [4 * 8 * 12] * 2  # 16 channels in the teacher
    own, known = distiller.features(x)  # for reports: the features themselves
    assert {feature.shape[1] for feature in known["teacher"].values()} == {16}
    for row, value in zip(distiller.transfers, wanted, strict=True):
        torch.testing.assert_close(row.distance(*distiller.knowledge(row, own, known["teacher"])), value)


def test_gradients_are_those_without_a_cache(tmp_path: Path, narrowing: Any) -> None:
    teacher, student, plan, spectra, x = narrowing
    found = []
    for cache in (None, skd.TeacherCache(tmp_path, dtype=torch.float32)):
        distiller = skd.Distiller(teacher, student, skd.methods.SKD(plan, spectra), cache=cache)
        for _ in range(1 if cache is None else 2):
            student.zero_grad()
            distiller(x).losses.total.backward()
        found.append([parameter.grad.clone() for parameter in student.parameters()])
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-8)


def test_another_basis_is_another_feature(tmp_path: Path, narrowing: Any) -> None:
    teacher, student, plan, spectra, x = narrowing
    cache = skd.TeacherCache(tmp_path, dtype=torch.float32)
    for basis in ("shared", "subset", "own"):
        method = skd.methods.SKD(plan, spectra, basis=basis)
        wanted = losses(skd.Distiller(teacher, student, method), x)
        for _ in range(2):
            found = losses(skd.Distiller(teacher, student, method, cache=cache), x)
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    assert (cache.hits, cache.misses) == (12, 12)


def like(row: Transfer, name: str, *, knowledge: Any = None, adapters: Any = None) -> Transfer:
    """A row with something else."""
    ours, theirs = adapters or (row.student_adapters, row.teacher_adapters)
    return Transfer(
        name,
        row.student_taps,
        row.teacher_taps,
        knowledge or row.knowledge,
        row.distance,
        student_adapters=ours,
        teacher_adapters=theirs,
    )


@pytest.mark.parametrize("why", ["read as it is", "another basis", "a learned adapter beside", "an adapter of its own"])
def test_what_others_read_too_is_kept_whole(tmp_path: Path, narrowing: Any, why: str) -> None:
    teacher, student, plan, spectra, x = narrowing
    method = skd.methods.SKD(plan, spectra, output=0.0)
    rows = list(method.transfers())
    if why == "read as it is":
        rows += [
            like(row, f"whole {row.name}", knowledge=skd.knowledge.attention, adapters=(None, None)) for row in rows
        ]
    elif why == "another basis":
        rows += [
            like(row, f"other {row.name}")
            for row in skd.methods.SKD(plan, spectra, basis="subset", output=0).transfers()
        ]
    elif why == "a learned adapter beside":
        rows = [like(row, row.name, adapters=(AsLarge(), row.teacher_adapters)) for row in rows]
    else:
        one = Doubled()
        rows = [like(row, row.name, adapters=(row.student_adapters, one)) for row in rows]
    wanted = losses(skd.Distiller(teacher, student, rows), x)
    distiller = skd.Distiller(teacher, student, rows, cache=skd.TeacherCache(tmp_path, dtype=torch.float32))
    for _ in range(2):
        torch.testing.assert_close(losses(distiller, x), wanted, rtol=1e-6, atol=0)
    assert kept(files(tmp_path)[0]) == [16 * 8 * 12] * 2


def test_another_teacher_is_read_as_its_own_rows_do(tmp_path: Path, narrowing: Any) -> None:
    teacher, student, plan, spectra, x = narrowing
    torch.manual_seed(1)
    rows = list(skd.methods.SKD(plan, spectra, output=0).transfers())
    tap = rows[0].student_taps
    rows.append(Transfer("other", tap, rows[0].teacher_taps, of="other"))
    teachers = {"teacher": teacher, "other": mirrored(4).eval()}
    wanted = losses(skd.Distiller(teachers, student, rows), x)
    cache = skd.TeacherCache(tmp_path, dtype=torch.float32)
    distiller = skd.Distiller(teachers, student, rows, cache=cache)
    for _ in range(2):
        torch.testing.assert_close(losses(distiller, x), wanted, rtol=1e-6, atol=0)
    assert {sum(kept(path)) for path in files(tmp_path)} == {2 * 4 * 8 * 12, 4 * 8 * 12}


class AsLarge(skd.adapters.Adapter):
    """Uses more than the size of what it is compared with."""

    def __init__(self) -> None:
        super().__init__(layout="BCHW")

    def forward(self, feature: Tensor, reference: Tensor | None = None) -> Tensor:
        assert reference is not None
        return feature * reference[:, 8:].std()  # channels that the basis' coordinates don't have


class Doubled(skd.adapters.Adapter):
    """Some adapter of a user's; nobody knows what it depends on."""

    def __init__(self) -> None:
        super().__init__(layout="BCHW")

    def forward(self, feature: Tensor, reference: Tensor | None = None) -> Tensor:
        return 2 * feature[:, :4]
