"""Hugging Face accelerate, as the loop uses it: devices, precision, processes, and how they agree."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from skd.errors import ArgumentError, MissingExtraError, ProcessError, SkdError
from skd.recipes import Recipe
from skd.steps import Step

T = TypeVar("T")
_PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
# What backends say where another process is gone, in lower case.
_LOST = ("connection closed", "connection reset", "broken pipe", "timed out", "timeout", "socket", "nccl", "peer")

FAILED, OVER, READY = 0, 1, 2  # what a process can say before a step; the least of all counts


class Engine:
    """One process' view of the run.

    Attributes
    ----------
    rank, processes : int
    main : bool
        Whether this process writes files and talks.
    device : torch.device
    """

    def __init__(self, recipe: Recipe) -> None:
        try:
            import accelerate
        except ImportError:
            raise MissingExtraError("accelerate", extra="train", purpose="training") from None
        from accelerate.state import AcceleratorState

        self._first = not AcceleratorState._shared_state  # nobody else uses accelerate in this process now
        handlers = [accelerate.DistributedDataParallelKwargs(find_unused_parameters=recipe.find_unused)]
        try:
            self.accelerator = accelerate.Accelerator(
                mixed_precision=_PRECISIONS[recipe.precision],
                gradient_accumulation_steps=recipe.accumulate,
                # Without it accelerate overlooks torchrun's other processes where there are only CPUs.
                cpu=recipe.cpu or not torch.accelerator.is_available(),
                kwargs_handlers=handlers,
            )
        except ValueError as error:
            if self._first:
                AcceleratorState._reset_state()
            got = str(error).partition("\n")[0]
            raise ArgumentError("accelerate can't train in this way here", got=got) from error
        try:
            self._check(recipe)
        except ArgumentError:
            self.close()
            raise
        self._compile = recipe.compile
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        self.main, self.device = self.accelerator.is_main_process, self.accelerator.device
        # Flags travel between CPUs, so that no GPU waits for them.
        gloo = self.processes == 1 or torch.distributed.get_backend() == "gloo"
        self._group = None if gloo else torch.distributed.new_group(backend="gloo")

    def _check(self, recipe: Recipe) -> None:
        if recipe.precision == "float16" and self.accelerator.device.type == "cpu":
            remedy = "train in bfloat16 or float32"
            raise ArgumentError("float16 needs a GPU: a CPU has no loss scaling", got="device cpu", remedy=remedy)
        kind = self.accelerator.distributed_type
        if kind not in ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "MULTI_XPU"):
            raise ArgumentError(
                "fit doesn't train under this engine",
                got=kind,
                expected="one process, or DistributedDataParallel",
                remedy="write the loop yourself: the distiller runs under FSDP2 (see the docs on engines)",
            )

    # --- the module ------------------------------------------------------------------------------------------------

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module on its device, compiled where that is asked for, under autocast, averaged over the processes."""
        if self._compile:
            module = torch.compile(module, **({} if self._compile is True else self._compile))  # type: ignore[assignment]
        wrapped: nn.Module = self.accelerator.prepare_model(_Shell(module))
        return wrapped

    def share_weights(self, module: nn.Module) -> None:
        """The main process' weights and buffers for all, before anything is made of them."""
        if self.processes > 1:
            with self.lost(), torch.no_grad():
                for tensor in (*module.parameters(), *module.buffers()):
                    torch.distributed.broadcast(tensor, src=0)

    def moved(self, value: Any, *, channels_last: bool) -> Any:
        """A copy of the value with its tensors on the device, maps in channels_last where that is asked for."""

        def move(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):  # what else can be moved: a tokenizer's batch
                return leaf.to(self.device) if callable(getattr(leaf, "to", None)) else leaf
            leaf = leaf.to(self.device, non_blocking=True)
            return leaf.contiguous(memory_format=torch.channels_last) if channels_last and leaf.dim() == 4 else leaf

        return _pytree.tree_map(move, value)

    def close(self) -> None:
        """Leave accelerate as it was found: the next run may want another precision."""
        from accelerate.state import AcceleratorState

        self.accelerator.free_memory()
        if self._first:
            AcceleratorState._reset_state()

    # --- how processes agree ---------------------------------------------------------------------------------------

    def least(self, flag: int) -> int:
        """The least of the processes' flags."""
        if self.processes == 1:
            return flag
        flags = torch.tensor(flag)
        with self.lost():
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MIN, group=self._group)
        return int(flags)

    def all_alike(self, work: Callable[[], T]) -> T:
        """Do it everywhere. Where it fails anywhere, all end: those with the error, the others saying so."""
        result, error = _tried(work)
        if self.processes > 1:
            said: list[str | None] = [None] * self.processes
            mine = None if error is None else _text(error)
            with self.lost():
                torch.distributed.all_gather_object(said, mine, group=self._group)
            failed = [(rank, text) for rank, text in enumerate(said) if text is not None]
            if failed and error is None:
                rank, text = failed[0]
                raise ProcessError(f"process {rank} of the run failed", got=text)
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def on_main(self, work: Callable[[], T]) -> T:
        """Do it in the main process; all get its result, or end with its error."""
        if self.processes == 1:
            return work()
        result, error = _tried(work) if self.main else (None, None)
        shared: list[Any] = [result, None if error is None else _text(error)]
        with self.lost():
            torch.distributed.broadcast_object_list(shared, src=0, group=self._group)
        if error is not None:
            raise error
        if shared[1] is not None:
            raise ProcessError("the main process of the run failed", got=shared[1])
        return shared[0]  # type: ignore[no-any-return]

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, by rank."""
        if self.processes == 1:
            return [value]
        found: list[Any] = [None] * self.processes
        with self.lost():
            torch.distributed.all_gather_object(found, value, group=self._group)
        return found

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes."""
        if self.processes == 1:
            return values
        values = values.clone()
        with self.lost():
            torch.distributed.all_reduce(values)
        averaged: Tensor = values / self.processes
        return averaged

    @contextlib.contextmanager
    def lost(self) -> Iterator[None]:
        """Where a backend says that a peer is gone, say so."""
        try:
            yield
        except SkdError:
            raise
        except RuntimeError as error:
            text = str(error)
            if self.processes > 1 and any(word in text.lower() for word in _LOST):
                raise ProcessError(
                    "another process of the run died or is stuck",
                    got=text.strip().partition("\n")[0][:200],
                    remedy="see that process' own output, then start all again: the run goes on from its last "
                    "checkpoint",
                ) from error
            raise


class _Shell(nn.Module):
    """What accelerate changes and wraps in place of the user's module.

    The output comes out without its graph, so that what the losses don't reach counts as unused in several processes.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = self.module(*args, **kwargs)
        return Step(_detached(found.output), found.losses, found.teacher_output) if isinstance(found, Step) else found


def _detached(value: Any) -> Any:
    return _pytree.tree_map_only(Tensor, lambda tensor: tensor.detach(), value)


def _tried(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(".")
