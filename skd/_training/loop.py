"""The loop: batches in, steps of the optimizer, and everything that is written down on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skd._code import code_of
from skd._measuring import arguments
from skd._training.batches import Batch, Batches, PassOver, check_tensors, not_finite
from skd._training.checkpoints import Store, locked, save_atomically
from skd._training.engine import FAILED, OVER, READY, Engine
from skd._training.evaluations import Evaluate, Evaluations
from skd._training.fetching import Place
from skd._training.identity import identity_of
from skd._training.randomness import put_back, seed_all, state, undisturbed
from skd._training.records import Records
from skd._training.standing import Standing
from skd._training.trained import Average, distillers, modes_kept, trainable
from skd.distiller import Distiller
from skd.errors import ArgumentError, DataError, FileError, NonFiniteError, ProcessError
from skd.recipes import Recipe
from skd.steps import Step

LAST = "last.pt"
SKIPPED_IN_A_ROW = 50  # steps that float16's loss scaling may leave out before that is taken for a divergence

Each = Callable[[int, Step], None]


class Loop:
    """One run of `fit`, in one of its processes."""

    def __init__(
        self,
        engine: Engine,
        module: nn.Module,
        batches: Batches,
        out: Path,
        recipe: Recipe,
        *,
        inputs: Callable[[Any], Any] | None,
        product: nn.Module,
        evaluate: Evaluate | None,
        each: Each | None,
        about: Mapping[str, Any],
        label: str,
    ) -> None:
        self.engine, self.module, self.batches, self.out, self.recipe = engine, module, batches, out, recipe
        self.inputs, self.product, self.each, self.label = inputs, product, each, label
        self.parameters = trainable(module)
        if recipe.compile and any(each.cache is not None for each in distillers(module)):
            remedy = "leave one of them out"
            raise ArgumentError(
                "a compiled step doesn't read a TeacherCache", got=f"compile={recipe.compile}", remedy=remedy
            )
        self.store = Store(out, recipe.keep)
        self.average = Average(self.parameters, recipe.average) if recipe.average else None
        self.evaluations = evaluate and Evaluations(
            engine, module, product, evaluate, average=self.average, recipe=recipe, out=out
        )
        self.identity = {
            "recipe": recipe.identity(),
            "data": batches.identity(),
            "module": identity_of(module),
            "inputs": None if inputs is None else code_of(inputs),
            "about": dict(about),
        }
        self.standing = Standing()
        self.skipped = 0

    def run(self) -> Standing:
        """Train to the end, from the newest checkpoint if there is one; everything borrowed is put back."""
        engine, recipe = self.engine, self.recipe
        with ExitStack() as kept:
            kept.enter_context(undisturbed())
            kept.enter_context(modes_kept(self.module))
            kept.callback(self.module.zero_grad, set_to_none=True)
            lock = engine.on_main(lambda: self._open(kept))
            del lock
            seed_all(recipe.seed, engine.rank)
            if engine.device.type == "cuda":
                torch.cuda.manual_seed(recipe.seed + engine.rank)
            optimizer = recipe.make_optimizer(self.parameters.values())
            self.rates = [group["lr"] for group in optimizer.param_groups]
            self.optimizer = engine.accelerator.prepare_optimizer(optimizer)
            refused = self._resume()
            self.records = engine.all_alike(self._records)
            kept.callback(self.records.close)
            for reason in refused:
                self.records.say(f"checkpoint refused: {reason}; going on from step {self.standing.step}")
                self.records.line(self.standing.step, {"refused": reason})
            self._train()
        return self.standing

    def _open(self, kept: ExitStack) -> None:
        """Main process: the folder, for us alone."""
        self.store.prepare(made_only=True)
        kept.enter_context(locked(self.out))
        self.store.prepare()

    def _records(self) -> Records:
        return Records(
            self.out,
            first=self.standing.step,
            total=self.recipe.steps,
            label=self.label,
            tensorboard=self.recipe.tensorboard,
            main=self.engine.main,
        )

    # --- the steps -------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        engine, standing = self.engine, self.standing
        started = time.monotonic() - standing.seconds
        if standing.ended is None:
            if standing.step == 0:
                self._save()  # the first weights: a script that draws them anew each time still goes on with these
            self.module.train()
            self.reader: Iterator[Batch | PassOver] = self.batches.read(standing.place)
            wrapped = engine.wrap(self.module)
            try:
                while (reason := self._ended(started)) is None:
                    wrapped = self._step(wrapped, started)
            finally:
                self.reader.close()  # type: ignore[attr-defined] # and with it the processes that load data
            if self.evaluations and standing.evaluated != standing.step:
                self._evaluate(self.evaluations)
            standing.ended = reason
            self._save()
        if self.average is not None:
            self.average.swap()  # for good: the average is what the run made
        engine.on_main(lambda: save_atomically(self.product.state_dict(), self.out / LAST, "the last weights"))

    def _ended(self, started: float) -> str | None:
        recipe, standing = self.recipe, self.standing
        standing.seconds = time.monotonic() - started
        if recipe.seconds is not None:  # all processes end together
            standing.seconds = self.engine.on_main(lambda: standing.seconds)
            if standing.seconds >= recipe.seconds:
                return "seconds"
        if recipe.patience is not None and standing.without_gain >= recipe.patience:
            return "patience"
        return "steps" if standing.step >= recipe.steps else None

    def _step(self, wrapped: nn.Module, started: float) -> nn.Module:
        """One step of the optimizer, and what is due after it. Returns the module to go on with."""
        recipe, standing, optimizer = self.recipe, self.standing, self.optimizer
        rate = recipe.rate(standing.step, standing.seconds)
        for group, highest in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = highest * rate
        used: list[Batch] = []
        terms: list[dict[str, Tensor]] = []
        for _ in range(recipe.accumulate):
            batch = self._next()
            used.append(batch)
            with self.engine.lost(), self.engine.accelerator.accumulate(wrapped):
                result = self._run(wrapped, batch)
                terms.append({name: term.detach() for name, term in result.losses.terms.items()})
                self.engine.accelerator.backward(result.losses.total)
        # inf clips nothing; the norm is wanted all the same
        norm = self.engine.accelerator.clip_grad_norm_(self.parameters.values(), recipe.clip or math.inf)
        due = (standing.step + 1) % recipe.log_every == 0 or standing.step + 1 == recipe.steps
        if due or self.engine.device.type == "cpu":  # a GPU isn't waited for in every step
            self._check_finite(norm, terms, used)
        optimizer.step()
        optimizer.zero_grad()
        standing.step += 1
        standing.place = used[-1].following
        if self.average is not None:
            self.average.update()
        wrapped = self._advance(wrapped)
        standing.seconds = time.monotonic() - started
        self.records.step(expected=self._expected())
        if self.each is not None:
            self.each(standing.step, result)
        if due:
            self._log(norm, terms)
        if self.evaluations and recipe.evaluate_every and standing.step % recipe.evaluate_every == 0:
            self._evaluate(self.evaluations)
        if standing.step % recipe.save_every == 0 and standing.step < recipe.steps:
            self._save()
        return wrapped

    def _next(self) -> Batch:
        """The next batch; all processes have one, or all end."""
        while True:
            flag, error, item = READY, None, None
            try:
                item = next(self.reader)
                if isinstance(item, PassOver):
                    flag = OVER
                else:
                    check_tensors(item)
            except Exception as found:
                flag, error = FAILED, found
            least = self.engine.least(flag)
            if error is not None:
                raise error
            if least == FAILED:
                remedy = "see that process' own output"
                raise ProcessError("another process of the run couldn't load its batch", remedy=remedy)
            if isinstance(item, Batch):
                if least == READY:
                    return item
                self.reader = self.batches.read(Place(item.place.epoch + 1))  # another's pass is over: ours, too

    def _run(self, wrapped: nn.Module, batch: Batch) -> Step:
        target = self.module.student if isinstance(self.module, Distiller) else self.module
        given = batch.value if self.inputs is None else self.inputs(batch.value)
        args, kwargs = arguments(target, given, batch.place.batch)
        args, kwargs = self.engine.moved((args, kwargs), channels_last=self.recipe.channels_last)
        result = wrapped(*args, **kwargs)
        if not isinstance(result, Step):
            raise ArgumentError("the module doesn't return a Step", got=type(result).__name__, remedy="see skd.Step")
        if not result.losses.total.requires_grad:
            remedy = "see skd.check for what cuts the gradient off"
            raise ArgumentError("the loss depends on nothing that is trained", remedy=remedy)
        return result

    def _check_finite(self, norm: Tensor, terms: list[dict[str, Tensor]], used: list[Batch]) -> None:
        """End before the optimizer spreads what isn't finite to all weights, and the next checkpoint keeps them."""
        losses = all(bool(torch.isfinite(term)) for each in terms for term in each.values())
        if losses and bool(torch.isfinite(norm)):
            self.skipped = 0
            return
        if losses and self.recipe.precision == "float16" and self.skipped < SKIPPED_IN_A_ROW:
            self.skipped += 1  # loss scaling leaves such a step out, and lowers the scale
            return
        for batch in used:
            where = not_finite(batch.value)
            if where is not None:
                name = f"batch {batch.place.batch} of pass {batch.place.epoch + 1}"
                remedy = "leave such samples out of the dataset, then run again: it goes on from the last checkpoint"
                raise DataError(f"{name} holds NaN or infinity", got=where, remedy=remedy)
        what = "gradient" if losses else "loss"
        got = float(norm) if losses else {name: float(term) for name, term in terms[-1].items()}
        raise NonFiniteError(
            f"the {what} of step {self.standing.step} isn't finite",
            got=got,
            remedy="lower the learning rate, then train into another folder, or begin anew",
        )

    def _advance(self, wrapped: nn.Module) -> nn.Module:
        """Schedules and stages go on. Parallel modules look once for what is trained: a new stage is wrapped anew."""
        before = [p.requires_grad for p in self.parameters.values()]
        for distiller in distillers(self.module):
            distiller.advance()
        if self.engine.processes > 1 and before != [p.requires_grad for p in self.parameters.values()]:
            return self.engine.wrap(self.module)
        return wrapped

    # --- what is written down --------------------------------------------------------------------------------------

    def _expected(self) -> int:
        """Steps in all; where time is limited, as many as the time will do for."""
        steps, limit, standing = self.recipe.steps, self.recipe.seconds, self.standing
        if not limit or standing.seconds < 1:
            return steps
        return min(steps, max(standing.step, round(standing.step * max(1.0, limit / standing.seconds))))

    def _log(self, norm: Tensor, terms: list[dict[str, Tensor]]) -> None:
        names = list(terms[0])
        device = self.engine.device
        means = [torch.stack([each[name].to(device, torch.float32) for each in terms]).mean() for name in names]
        found = self.engine.mean(torch.stack(means)).tolist()
        values = dict(zip(names, found, strict=True)) | {"total": sum(found)}
        rate = self.optimizer.param_groups[0]["lr"]
        facts = {"seconds": round(self.standing.seconds, 2), "learning_rate": rate, "gradient": float(norm)}
        self.engine.all_alike(lambda: self.records.line(self.standing.step, {**facts, **values}))
        self.records.show(values)

    def _evaluate(self, evaluations: Evaluations) -> None:
        line = evaluations.run(self.standing)
        self.engine.all_alike(lambda: self.records.line(self.standing.step, line))

    def _save(self) -> None:
        random_states = self.engine.gather(state())
        scaler = self.engine.accelerator.scaler
        self.engine.on_main(
            lambda: self.store.save(
                {
                    "identity": self.identity,
                    **self.standing.values(),
                    "module": self.module.state_dict(),
                    "optimizer": self.optimizer.optimizer.state_dict(),
                    "average": None if self.average is None else self.average.values,
                    "random": random_states,
                    "scaler": None if scaler is None else scaler.state_dict(),
                }
            )
        )

    def _resume(self) -> tuple[str, ...]:
        """Go on from the newest usable checkpoint; returns why newer ones were refused."""
        found, refused = self.engine.on_main(lambda: self.store.find(self.identity))
        if found is None:
            return ()
        try:
            standing = Standing.of({name: found[name] for name in vars(Standing())})
            self.optimizer.optimizer.load_state_dict(found["optimizer"])
            self.module.load_state_dict(found["module"])
            if self.average is not None:
                self.average.load(found["average"])
            if self.engine.accelerator.scaler is not None:
                self.engine.accelerator.scaler.load_state_dict(found["scaler"])
            put_back(found["random"][self.engine.rank])
        except Exception as error:  # missing or of other shapes: KeyError, ValueError, RuntimeError …
            got = f"{self.store.folder} ({type(error).__name__}: {str(error).partition(chr(10))[0][:120]})"
            remedy = "name another output folder, or remove this one to begin anew"
            raise FileError("the checkpoint doesn't fit the module", got=got, remedy=remedy) from error
        self.standing = standing
        if refused:
            self.engine.on_main(lambda: self.store.put_aside(standing.step))
        return tuple(refused)
