"""What each command of the command line does, given its options; those that paint are in `painting_commands`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbstyle_example.data import list_pictures
from kbstyle_example.files import writable_folder
from kbstyle_example.splits import of_split
from kbstyle_example.weights_file import load_weights, save_weights
from skd.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from kbstyle_example.validation import Folders
    from skd import Recipe


def demo(options: argparse.Namespace) -> None:
    """Distil the bundled teacher on the bundled pictures."""
    from kbstyle_example.demo import run_demo

    run_demo(
        options.out,
        seconds=options.seconds,
        steps=options.steps,
        batch_size=options.batch_size,
        crop=options.crop,
        seed=options.seed,
    )


def distill(options: argparse.Namespace) -> None:
    """Distil a teacher on folders of pictures."""
    from kbstyle_example.distill import distill, save_student

    recipe = _recipe(options)
    (contents, styles), validation = _pictures(options)
    done = distill(
        load_weights(options.teacher),
        contents,
        styles,
        options.out,
        recipe=recipe,
        crop=options.crop,
        batch_size=options.batch_size,
        workers=options.workers,
        vary_colours=options.vary_colours,
        vary_strokes=options.vary_strokes,
        hard_pairs=options.hard_pairs,
        start=options.start,
        perceptual=_perceptual(options),
        validation=validation,
        basis=options.basis,
        structure=options.structure,
        statistics=options.statistics,
        fade=options.fade,
        fit_adapters=options.fit_adapters,
        **_losses(options),
    )
    facts = {"distilled": f"{done.run.steps} steps, seed {options.seed}"}
    print(done.report)
    for path, size in save_student(done.student, options.out / "student.safetensors", about=facts).items():
        print(f"{path}: {size:,} bytes")


def train(options: argparse.Namespace) -> None:
    """Train a teacher on folders of pictures."""
    from kbstyle_example.peers import load_peer
    from kbstyle_example.reproduction import name_of
    from kbstyle_example.train import guide_name, train

    recipe = _recipe(options)
    (contents, styles), validation = _pictures(options)
    named, perceptual = _guide(options), _perceptual(options)
    guide = None if named is None else load_peer(*named)
    done = train(
        contents,
        styles,
        perceptual,
        options.out,
        recipe=recipe,
        crop=options.crop,
        batch_size=options.batch_size,
        workers=options.workers,
        vary_colours=options.vary_colours,
        vary_strokes=options.vary_strokes,
        hard_pairs=options.hard_pairs,
        guide=guide,
        start=options.start,
        validation=validation,
        content_weight=options.content_weight,
        pixel_weight=options.pixel_weight,
        **_losses(options),
    )
    path = options.out / "teacher.safetensors"
    facts = {
        "trained": f"{done.run.steps} steps, seed {options.seed}",
        "perceptual": name_of(perceptual),
        **({} if guide is None else {"imitated": guide_name(guide)}),
    }
    print(f"{path}: {save_weights(done.network, path, about=facts):,} bytes")


def learn(options: argparse.Namespace) -> None:
    """Teach the student one painting."""
    from kbstyle_example.learning import learn

    perceptual = _perceptual(options)
    done = learn(
        options.painting,
        options.out,
        contents=None if options.content is None else list_pictures(options.content),
        start=options.start,
        perceptual=perceptual,
        steps=options.steps,
        crop=options.crop,
        seed=options.seed,
    )
    under = "the teacher's encoders" if perceptual is None else perceptual.name
    print(
        f"style distance {done.before:.3f} before, {done.after:.3f} after {done.steps:,} steps, the teacher's "
        f"{done.teacher:.3f}: under {under}, which it was trained with"
    )
    print(f"{options.out}: {done.size:,} bytes")


def reproduce(options: argparse.Namespace) -> None:
    """Everything, from folders of pictures to a model card."""
    from kbstyle_example.perceptual_files import download_vgg19, load_perceptual
    from kbstyle_example.reproduce import reproduce
    from kbstyle_example.reproduction import Options, parts_of

    standard = Options()
    chosen = Options(
        teacher_recipe=replace(standard.teacher_recipe, steps=options.teacher_steps, seed=options.seed),
        student_recipe=replace(standard.student_recipe, steps=options.student_steps, seed=options.seed),
        teacher_crop=options.teacher_crop,
        student_crop=options.student_crop,
        batch_size=options.batch_size,
        workers=options.workers,
        size=options.size,
        pairs=options.pairs,
        guide=_guide(options),
        start_teacher=options.start_teacher,
        data_licence=options.data_licence,
    )
    for folder in (options.content, options.style):
        parts_of(folder)  # before a large file is fetched for nothing
    file = options.perceptual or download_vgg19(writable_folder(options.out) / "vgg19-dcbb9e9d.pth")
    made = reproduce(
        options.content,
        options.style,
        options.out,
        load_perceptual(file),
        measures=[load_perceptual(path) for path in options.measure],
        options=chosen,
    )
    print("\n".join(map(str, made)))


def evaluate(options: argparse.Namespace) -> None:
    """Measure networks and their peers."""
    from kbstyle_example.evaluation.evaluate import evaluate
    from kbstyle_example.peers import as_system, load_peers
    from kbstyle_example.peers.system import in_bfloat16
    from kbstyle_example.perceptual_files import load_perceptual

    contents, styles = _measured(options)
    systems = [as_system(name) for name in options.weights]
    systems += [in_bfloat16(name) for name in options.weights] if options.bfloat16 else []
    systems += load_peers(options.peers) if options.peers else []
    results = evaluate(
        systems,
        contents,
        styles,
        [load_perceptual(path) for path in options.perceptual],
        options.out,
        size=options.size,
        pairs=options.pairs,
        seed=options.seed,
        never_trained_on=options.never_trained_on,
    )
    print(results)


def sheet(options: argparse.Namespace) -> None:
    """Draw contact sheets."""
    from kbstyle_example.evaluation.sheet import draw_sheets
    from kbstyle_example.peers import as_system, load_peers

    contents, styles = _measured(options)
    systems = [as_system(name) for name in options.weights] + (load_peers(options.peers) if options.peers else [])
    for path in draw_sheets(systems, contents, styles, options.out, count=options.count, size=options.size):
        print(path)


def export(options: argparse.Namespace) -> None:
    """Write the network for other runtimes."""
    from kbstyle_example.exporting import export_kbstyle

    for done in export_kbstyle(
        options.weights,
        options.out,
        format=options.format,
        size=options.size,
        photographs=options.photographs,
        paintings=options.paintings,
    ):
        print(done)


def web(options: argparse.Namespace) -> None:
    """The page: served, written, or its networks made again."""
    from kbstyle_example.webpage import rebuild, runtime_folder, serve, write_site

    if options.rebuild:
        print("\n".join(map(str, rebuild())))
        return
    runtime = runtime_folder(options.runtime)
    if options.to is not None:
        print(write_site(options.to, runtime))
    else:
        serve(runtime, port=options.port, show=not options.no_open)


def info(_: argparse.Namespace) -> None:
    """What is bundled, and the versions."""
    import torch

    import skd
    from kbstyle_example.weights_file import about, bundled

    print(f"skd {skd.__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}")
    for name, path in bundled().items():
        facts = ", ".join(f"{key} {value}" for key, value in sorted(about(name).items()))
        print(f"{name}: {path.stat().st_size:,} bytes; {facts}")


def _losses(options: argparse.Namespace) -> dict[str, Any]:
    """What losses under a perceptual network weigh."""
    layers = {name: dict(getattr(options, name)) for name in ("style_weights", "covariance_weights", "feature_weights")}
    of_all = ("style_weight", "luminance_weight", "similarity_weight", "similarity_follows", "detail_weight")
    return {name: getattr(options, name) for name in (*of_all, "feature_weight")} | layers


def _perceptual(options: argparse.Namespace) -> Any:
    """The perceptual network to train under, or several as one, in the precision asked for; None where none is said."""
    import torch

    from kbstyle_example.by_turns import ByTurns
    from kbstyle_example.perceptual_files import load_perceptual

    if options.perceptual is None:
        return None
    paths = options.perceptual if isinstance(options.perceptual, list) else [options.perceptual]
    networks = [load_perceptual(path, lifted=options.perceptual_lifted) for path in paths]
    network = networks[0] if len(networks) == 1 else ByTurns(networks)
    if options.perceptual_precision == "bfloat16":
        network.bfloat16().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _guide(options: argparse.Namespace) -> tuple[str, Path] | None:
    """Name and folder of the published network that is imitated."""
    if options.imitate is None:
        return None
    if options.peers is None:
        raise ArgumentError("where the network to imitate lies isn't said", got=options.imitate, remedy="--peers DIR")
    return options.imitate, options.peers


def _recipe(options: argparse.Namespace) -> Recipe:
    """The standard recipe with what the options say."""
    from kbstyle_example.distill import RECIPE

    return replace(RECIPE, **{name: value for name, value in vars(options).items() if name in vars(RECIPE)})


def _pictures(options: argparse.Namespace) -> tuple[Folders, Folders | None]:
    """Photographs and paintings to train on, and those to look at meanwhile; the ones for tests are left alone."""
    from kbstyle_example.validation import pairs_to_validate

    found = list_pictures(options.content), list_pictures(options.style)
    for kind, paths in zip(("content", "style"), found, strict=True):
        if not of_split(paths, "train"):
            raise DataError(
                "no picture in the folder is for training",
                got=f"{getattr(options, kind)} with {len(paths)} pictures whose names say validation or test",
                remedy="add pictures: nine in ten are for training (see kbstyle_example.splits.split)",
            )
    return (of_split(found[0], "train"), of_split(found[1], "train")), pairs_to_validate(*found)


def _measured(options: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """Photographs and paintings to measure on; says which couldn't be used."""
    from kbstyle_example.evaluation.pairs import pictures_to_measure

    found = []
    for folder in (options.content, options.style):
        usable, skipped = pictures_to_measure(
            folder, part=options.part, never_trained_on=options.never_trained_on, size=options.size
        )
        for path, reason in skipped.items():
            print(f"{path.name} left out: {reason}", file=sys.stderr)
        found.append(usable)
    return found[0], found[1]
