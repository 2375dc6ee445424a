"""FitNets and AT of one U-Net through skd, torchdistill and nvidia-modelopt: ``python -m benchmarks.libraries``.

The same teacher, student, regressors and pictures in one process; each library in the way its documentation shows. Of
each: the lines a user writes (`lines_of` counts the function's body), the processor's seconds of a step, the memory
it adds, and the losses of all steps, which have to agree. torchdistill imports torchvision, of which no CPU build may
match this torch: then its operators are declared, which is all that the import asks for; none of them is called.

The libraries are needed in an environment of their own: ``pip install --no-deps torchvision torchdistill`` and
``pip install nvidia-modelopt``.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.metadata
import inspect
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import skd
from benchmarks.cost import peak
from benchmarks.reports import write_report
from benchmarks.worth.unet import UNet, unet_pairing
from kbstyle_example.evaluation.costs import surroundings

RESULTS = Path(__file__).parent / "results" / "libraries.json"
TEACHER, STUDENT = (24, 48, 96), (8, 16, 32)
LAYERS = {"down1.2": (8, 24), "back1.2": (8, 24), "down2.2": (16, 48), "back2.2": (16, 48)}
ATTENTION, RATE = 1000.0, 1e-3
Step = Callable[[Tensor, Tensor], float]


def with_skd(teacher: UNet, student: UNet, regressors: dict[str, nn.Conv2d]) -> Step:
    plan = skd.match(unet_pairing(teacher), unet_pairing(student))
    rows = [
        *skd.methods.FitNets(plan, output=0).transfers(),
        *skd.methods.AT(plan, weight=ATTENTION, output=0).transfers(),
    ]
    distiller = skd.Distiller(teacher, student, rows)
    _same_regressors(distiller, regressors)
    optimizer = torch.optim.SGD(distiller.parameters(), lr=RATE)

    def step(noisy: Tensor, clean: Tensor) -> float:
        optimizer.zero_grad()
        found = distiller(noisy)
        loss = F.mse_loss(found.output, clean) + found.losses.total
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def with_torchdistill(teacher: UNet, student: UNet, regressors: dict[str, nn.Conv2d]) -> Step:
    from torchdistill.core.distillation import DistillationBox
    from torchdistill.models.registry import register_auxiliary_model_wrapper
    from torchdistill.models.wrapper import AuxiliaryModelWrapper

    @register_auxiliary_model_wrapper
    class Regressed(AuxiliaryModelWrapper):
        def __init__(self, student_model: nn.Module, **_: Any) -> None:
            super().__init__()
            self.student_model = student_model
            self.regressors = nn.ModuleDict({name.replace(".", "_"): each for name, each in regressors.items()})

        def forward(self, x: Tensor) -> Tensor:
            return self.student_model(x)

        def secondary_forward(self, io_dict: dict[str, Any]) -> None:
            for name, regressor in regressors.items():
                regressor(io_dict[f"student_model.{name}"]["output"])

    def squared(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
        wrapper = {"key": "SimpleLossWrapper", "kwargs": {"input": ours, "target": theirs}}
        return {"criterion": {"key": "MSELoss", "kwargs": {}}, "criterion_wrapper": wrapper, "weight": 1.0}

    hints = {
        f"hint {name}": squared(
            {"is_from_teacher": False, "module_path": "regressors." + name.replace(".", "_"), "io": "output"},
            {"is_from_teacher": True, "module_path": name, "io": "output"},
        )
        for name in LAYERS
    }
    pairs = {
        name: {
            "teacher": {"io": "output", "path": name},
            "student": {"io": "output", "path": f"student_model.{name}"},
            "weight": 1,
        }
        for name in LAYERS
    }
    attended = {"key": "ATLoss", "kwargs": {"at_pairs": pairs, "mode": "code"}}
    attention = {"criterion": attended, "weight": ATTENTION}
    task = squared({"is_from_teacher": False, "module_path": ".", "io": "output"}, {"uses_label": True})
    outputs = [f"student_model.{name}" for name in LAYERS] + [f"regressors.{n.replace('.', '_')}" for n in LAYERS]
    config = {
        "num_epochs": 1,
        "teacher": {
            "forward_proc": "forward_batch_only",
            "requires_grad": False,
            "forward_hook": {"input": [], "output": list(LAYERS)},
        },
        "student": {
            "forward_proc": "forward_batch_only",
            "auxiliary_model_wrapper": {"key": "Regressed", "kwargs": {}},
            "forward_hook": {"input": [], "output": outputs},
        },
        "optimizer": {"key": "SGD", "kwargs": {"lr": RATE}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {**hints, "attention": attention, "task": task}},
        },
    }
    box = DistillationBox(teacher, student, {}, config, torch.device("cpu"), None, False, 1)
    box.pre_epoch_process(epoch=0)

    def step(noisy: Tensor, clean: Tensor) -> float:
        loss = box.forward_process(noisy, clean, {})
        box.post_forward_process(loss)
        return float(loss.detach())

    return step


def with_modelopt(teacher: UNet, student: UNet, regressors: dict[str, nn.Conv2d]) -> Step:
    import modelopt.torch.distill as mtd

    class HintAndAttention(nn.modules.loss._Loss):
        def __init__(self, regressor: nn.Conv2d) -> None:
            super().__init__()
            self.regressor = regressor

        def forward(self, ours: Tensor, theirs: Tensor) -> Tensor:
            s, t = (F.normalize(each.pow(2).mean(1).flatten(1)) for each in (ours, theirs))
            return F.mse_loss(self.regressor(ours), theirs) + ATTENTION * F.mse_loss(s, t)

    class Sum(mtd.DistillationLossBalancer):
        def forward(self, loss_dict: dict[str, Tensor]) -> Tensor:
            return torch.stack(list(loss_dict.values())).sum()

    config = {
        "teacher_model": teacher,
        "criterion": {(name, name): HintAndAttention(regressor) for name, regressor in regressors.items()},
        "loss_balancer": Sum(),
    }
    model = mtd.convert(student, mode=[("kd_loss", config)])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)

    def step(noisy: Tensor, clean: Tensor) -> float:
        optimizer.zero_grad()
        output = model(noisy)
        loss = model.compute_kd_loss(student_loss=F.mse_loss(output, clean))
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


LIBRARIES = {"skd": with_skd, "torchdistill": with_torchdistill, "nvidia-modelopt": with_modelopt}


def _same_regressors(distiller: skd.Distiller, regressors: dict[str, nn.Conv2d]) -> None:
    """So that all begin alike; no line that a user would write."""
    for row in distiller.transfers:
        adapters = [each for each in row.adapters() for each in each.modules() if hasattr(each, "weight")]
        for adapter in adapters:
            source = regressors[str(row.student_taps[0])]
            with torch.no_grad():
                adapter.weight.copy_(source.weight.view_as(adapter.weight))  # type: ignore[operator, union-attr, arg-type]
                adapter.bias.copy_(source.bias)  # type: ignore[operator, union-attr, arg-type]


def lines_of(function: Callable[..., Any]) -> int:
    """Lines of a function's body with something in them, but for what only makes this comparison fair."""
    body = inspect.getsource(function).splitlines()[1:]
    return sum(
        1 for line in body if line.strip() and not line.strip().startswith("#") and "_same_regressors" not in line
    )


def prepared(names: Sequence[str]) -> dict[str, Step]:
    """A step of each library, all from the same weights."""
    torch.manual_seed(0)
    teacher, student = UNet(TEACHER).eval(), UNet(STUDENT)
    regressors = {name: nn.Conv2d(*widths, 1) for name, widths in LAYERS.items()}
    return {name: LIBRARIES[name](*copy.deepcopy((teacher, student, regressors))) for name in names}


def timed(steps: dict[str, Step], batches: Sequence[tuple[Tensor, Tensor]], rounds: int) -> dict[str, dict[str, Any]]:
    """Losses of every round, and seconds as ratios to skd's within a round."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(rounds + 2):
        for k in range(len(names)):
            name = names[(turn + k) % len(names)]
            began = time.process_time()
            losses[name].append(steps[name](*batches[turn % len(batches)]))
            if turn > 1:
                taken[name].append(time.process_time() - began)
    own = taken[names[0]]
    found = {}
    for name in names:
        ratios = [one / other for one, other in zip(taken[name], own, strict=True)]
        found[name] = {
            "ratio": round(statistics.median(ratios), 3),
            "least": round(min(ratios), 3),
            "greatest": round(max(ratios), 3),
            "seconds": round(statistics.median(taken[name]), 5),
            "losses": losses[name],
        }
    return found


def declare_vision() -> None:
    """torchvision's operators, where its own build doesn't fit this torch."""
    with contextlib.suppress(ImportError, RuntimeError):
        import torchvision  # noqa: F401

        return
    library = torch.library.Library("torchvision", "DEF")
    tensor, pair = "Tensor", "(Tensor, Tensor)"
    for name in ("nms", "qnms", "roi_align", "qroi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d"):
        library.define(f"{name}(Tensor x) -> {pair if name in ('roi_pool', 'ps_roi_pool', 'ps_roi_align') else tensor}")
        if not name.startswith("q") and name != "nms":
            library.define(f"_{name}_backward(Tensor x) -> Tensor")
    globals()["_library"] = library  # it is undone when it is collected


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(prog="benchmarks.libraries", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--libraries", nargs="+", choices=list(LIBRARIES), default=list(LIBRARIES))
    parser.add_argument("--rounds", type=int, default=150, help="that count, after two that don't (%(default)s)")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # theirs
    if "torchdistill" in options.libraries:
        declare_vision()
    noise = torch.Generator().manual_seed(0)
    clean = torch.rand(8, options.batch, 3, options.size, options.size, generator=noise)
    batches = [(each + 0.1 * torch.randn(each.shape, generator=noise), each) for each in clean]
    found = timed(prepared(options.libraries), batches, options.rounds)
    for name, row in found.items():
        step = prepared([name])[name]
        step(*batches[0])
        row["mib"] = peak(lambda step=step: step(*batches[0]))  # type: ignore[misc]
        row["lines"] = lines_of(LIBRARIES[name])
        row["apart"] = max(
            abs(one - other) / other for one, other in zip(row["losses"], found["skd"]["losses"], strict=True)
        )
        row["version"] = skd.__version__ if name == "skd" else importlib.metadata.version(name)
    report = {
        "command": "python -m benchmarks.libraries",
        "rounds": options.rounds,
        **surroundings(),
        "libraries": found,
    }
    write_report(report, options.out)
    for name, row in found.items():
        spread = f"({row['least']:.2f} to {row['greatest']:.2f})"
        print(
            f"{name:16}{row['version']:8}{row['lines']:4} lines  step ×{row['ratio']:.2f} {spread}  "
            f"{row['mib'] or 0:5.0f} MiB  losses apart {row['apart']:.1e}"
        )


if __name__ == "__main__":
    main()
