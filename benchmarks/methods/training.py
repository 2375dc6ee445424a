"""Training on a task's own loss: teachers, and the student from scratch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

import skd
from benchmarks.methods.task import Setting
from kbstyle_example.devices import has_bfloat16
from kbstyle_example.files import write_atomically

TEACHER_SEED = 2_000_000
BUNDLED = Path(__file__).parent / "teachers_trained"  # so that nobody has to train for hours before comparing
Network = TypeVar("Network", bound=nn.Module)


class Supervised(nn.Module):
    """A network and its loss, as a training module.

    Parameters
    ----------
    network : nn.Module
    inputs, loss : callable
        As `Task` has them.
    """

    def __init__(self, network: nn.Module, inputs: Callable[[Any], Any], loss: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        self.network, self.inputs, self.loss = network, inputs, loss

    def forward(self, *batch: Any) -> skd.Step:
        """A batch's parts → the network's output and its loss."""
        given = self.inputs(batch)
        output = self.network(*given) if isinstance(given, tuple) else self.network(given)
        return skd.Step(output, skd.Losses({"task": self.loss(output, batch)}))


def taught(
    name: str,
    make: Callable[[], Network],
    samples: Callable[[Any, int, int], Any],
    inputs: Callable[[Any], Any],
    loss: Callable[[Any, Any], Tensor],
    setting: Setting,
    cache: Path,
    *,
    warmup: int,
    collate: Callable[[Any], Any] | None = None,
) -> Network:
    """A trained teacher: bundled, or from its file ``NAME-….pt`` in `cache`, or trained until there is one.

    A training that was killed goes on.

    In rounds, each twice as long as the one before, which begin from its weights with the learning rate high again
    (Loshchilov & Hutter 2017): a teacher that isn't good enough yet is trained further instead of anew. In bfloat16
    where the processor has it (`has_bfloat16`), which takes half the time.

    The file is all that counts afterwards, so that a change of the code which leaves the network alone doesn't cost
    hours. What was trained with it is known by the weights (`definitions.plan_of`).
    """
    batch = setting.teacher_batch
    rounds = [setting.teacher_steps * 2**index for index in range(setting.teacher_rounds)]
    sizes = [(*setting.widths, steps, batch, *((setting.crop,) if setting.crop else ())) for steps in rounds]
    files = [cache / f"{'-'.join(map(str, (name, *each)))}.pt" for each in sizes]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TEACHER_SEED)
        network = make()
    kept = [[path for path in (file, BUNDLED / f"{file.stem}.safetensors") if path.exists()] for file in files]
    done = [index for index, found in enumerate(kept) if found]
    if done:
        path = kept[done[-1]][0]
        bundled = path.suffix == ".safetensors"
        network.load_state_dict(load_file(path) if bundled else torch.load(path, weights_only=True))
    for index in range(done[-1] + 1 if done else 0, len(rounds)):
        steps, seed = rounds[index], TEACHER_SEED + index
        recipe = skd.Recipe(
            steps=steps,
            learning_rate=1e-3,
            warmup=min(warmup, steps // 10),
            precision="bfloat16" if has_bfloat16() else "float32",
            channels_last=setting.crop > 0,
            seed=seed,
            cpu=True,
        )
        loader = DataLoader(samples("train", seed, steps * batch), batch_size=batch, collate_fn=collate)
        module = Supervised(network, inputs, loss)
        run = skd.fit(module, loader, files[index].with_suffix(""), recipe=recipe, product=network, label="teacher")
        write_atomically(run.last_weights.read_bytes(), files[index])
        network.load_state_dict(torch.load(files[index], weights_only=True))
    return network.eval()
