"""The faults of a set-up that show without running it: wrappers, frozen teachers, the optimizer."""

from __future__ import annotations

import torch
from torch import nn

from skd.distiller import Distiller
from skd.errors import CheckError


def check_wrappers(outer: nn.Module, distiller: Distiller) -> None:
    student = distiller.student
    if distiller.tapped is not student:
        raise CheckError(
            "the student was wrapped or replaced after the distiller was made, so that the wrapper is bypassed",
            got=type(student).__name__,
            remedy="make the distiller of the plain student, then wrap the distiller itself",
        )
    if isinstance(outer, nn.DataParallel):
        raise CheckError("DataParallel copies the student but not its taps", remedy="use DistributedDataParallel")
    trained = any(p.requires_grad for p in distiller.adapters.parameters())
    parallel = nn.parallel.DistributedDataParallel
    if isinstance(student, parallel) and trained:
        raise CheckError(
            "the student is wrapped for several processes and the adapters aren't, so theirs would drift apart",
            remedy="wrap the distiller: DistributedDataParallel(Distiller(teacher, student, method))",
        )
    count = _processes()
    sharded = any(type(p).__name__ == "DTensor" for p in distiller.parameters())
    if count > 1 and outer is distiller and not isinstance(student, parallel) and not sharded:
        raise CheckError(
            "several processes run, and nothing averages their gradients",
            got=f"{count} processes and a plain distiller",
            remedy="wrap it: DistributedDataParallel(distiller), or fully_shard(distiller)",
        )


def _processes() -> int:
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return 1
    return distributed.get_world_size()


def check_frozen(distiller: Distiller) -> None:
    trained = {id(p) for p in distiller.parameters() if p.requires_grad}
    if not any(p.requires_grad for p in distiller.student.parameters()):
        raise CheckError("nothing of the student is trained", remedy="student.requires_grad_(True)")
    for name, teacher in distiller.teachers.items():
        shared = [key for key, p in teacher.named_parameters() if id(p) in trained]
        if shared:
            raise CheckError(
                f"the student trains parameters of the teacher {name!r}, which would change while it is learned from",
                got=f"{len(shared)} shared parameters, first {shared[0]!r}",
                remedy="give the student copies (copy.deepcopy), or freeze what is shared",
            )
        live = [key for key, p in teacher.named_parameters() if p.requires_grad]
        if live:
            raise CheckError(
                f"the teacher {name!r} isn't frozen",
                got=f"{len(live)} parameters with requires_grad, first {live[0]!r}",
                remedy="teacher.requires_grad_(False) after whatever set it",
            )
        training = [key or "the teacher itself" for key, module in teacher.named_modules() if module.training]
        if training:
            raise CheckError(
                f"the teacher {name!r} isn't in eval mode, so its dropout and batch statistics would be live",
                got=f"{len(training)} modules in train mode, first {training[0]!r}",
                remedy="teacher.eval() after whatever called train()",
            )


def check_optimizer(distiller: Distiller, optimizer: torch.optim.Optimizer) -> None:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in distiller.named_parameters() if p.requires_grad and id(p) not in held]
    remedy = "build it from distiller.parameters()"
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        got = f"without {', '.join(missing[:3])}{more}"
        raise CheckError("the optimizer doesn't train everything", got=got, remedy=remedy)
    student = {id(p) for p in distiller.parameters()}
    for name, teacher in distiller.teachers.items():
        if any(id(p) in held and id(p) not in student for p in teacher.parameters()):
            raise CheckError(f"the optimizer holds the teacher {name!r}", remedy=remedy)
