"""Distil a KBStyle network into a smaller one with SKD, through the public face of skd alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

import skd
from kbstyle_example.beginning import Start, first_weights, training_samples
from kbstyle_example.compressed import COMPRESSED, compressed
from kbstyle_example.data import StylePairs
from kbstyle_example.hard_pairs import HardPairs, drawn
from kbstyle_example.losses import COVARIANCE_WEIGHTS, FEATURE_WEIGHTS, STYLE_WEIGHTS
from kbstyle_example.networks import STUDENT, KBStyle, KBStyleConfig, even_phases
from kbstyle_example.pairing import kbstyle_pairing
from kbstyle_example.perceived import Painted, Perceived
from kbstyle_example.perceptual import Perceptual
from kbstyle_example.validation import Folders, differences
from kbstyle_example.weights_file import Stored, save_weights
from skd.errors import ArgumentError

# The decoder's features end where the output is drawn from them: SKD's terms guide, the output's decides.
OUTPUT_WEIGHT = 20.0
# With a perceptual network: what of the output isn't a matter of single pixels.
FEATURE_WEIGHT, STYLE_WEIGHT = 5.0, 5.0
# Of SKD after a start that knows the teacher: more of its features pulls away from the picture (docs: benchmark).
STARTED: dict[str, Any] = {"basis": "learned", "fit_adapters": True, "structure": 0.1, "statistics": 0.1}
CALIBRATION_BATCHES = 16
RECIPE = skd.Recipe(steps=20_000, channels_last=True)


def distill(
    teacher: KBStyle,
    contents: Sequence[Path],
    styles: Sequence[Path],
    out: str | Path,
    *,
    recipe: skd.Recipe = RECIPE,
    config: KBStyleConfig = STUDENT,
    crop: int = 128,
    batch_size: int = 4,
    workers: int = 1,
    vary_colours: float = 0.0,
    vary_strokes: float = 0.0,
    hard_pairs: int = 0,
    start: Start | None = None,
    perceptual: Perceptual | None = None,
    feature_weight: float = FEATURE_WEIGHT,
    style_weight: float = STYLE_WEIGHT,
    luminance_weight: float = 0.0,
    similarity_weight: float = 0.0,
    similarity_follows: float | None = None,
    detail_weight: float = 0.0,
    feature_weights: Mapping[str, float] = FEATURE_WEIGHTS,
    style_weights: Mapping[str, float] = STYLE_WEIGHTS,
    covariance_weights: Mapping[str, float] = COVARIANCE_WEIGHTS,
    validation: Folders | None = None,
    structure: skd.schedules.Weight = 1.0,
    statistics: skd.schedules.Weight = 1.0,
    fade: float = 0.0,
    fit_adapters: bool = False,
    **options: Any,
) -> skd.Distilled[KBStyle]:
    """Train a narrower KBStyle network to do what the teacher does, from scratch or from weights that are there.

    Parameters
    ----------
    teacher : KBStyle
        It is copied: nothing about it changes.
    contents, styles : sequence of Path
        Photographs and paintings.
    out : path
        Folder for checkpoints and log; a run found there goes on.
    recipe : skd.Recipe
        Its seed is also that of the student's first weights and of the crops.
    config : KBStyleConfig
        The student's.
    crop : int
        Side of the training crops in pixels.
    batch_size : int
        Pairs in a batch.
    workers : int
        Processes that load pictures; 0 loads in this one.
    vary_colours : float
        Share of the paintings whose colours are changed (`kbstyle_example.recolouring`).
    vary_strokes : float
        Share of the paintings whose strokes are made finer (`kbstyle_example.sharpening`).
    hard_pairs : int
        How many fixed pairs of crops are measured first, and drawn from in proportion to how far the first weights'
        pictures are from the painting in style (under `perceptual`); 0: no crop is seen twice.
    start : KBStyle, path or str, optional
        A student, its weights file or the name of bundled weights to begin with, in place of random first weights. It
        is copied. "compressed": as `skd.compress` makes it of the teacher (`kbstyle_example.compressed`).
    perceptual : Perceptual, optional
        Under which the student's pictures are compared with the teacher's, and with the paintings in style
        (`kbstyle_example.by_turns.ByTurns` makes one of several). It is frozen. Without it only pixels of the output
        are compared, and the student's strokes blur.
    feature_weight, style_weight : float
        Of these two comparisons.
    luminance_weight : float
        Of the grey pictures' part in the comparison of styles, beside 1 for the coloured ones'.
    similarity_weight, detail_weight : float
        Of 1 − SSIM with the photographs there, which holds the shapes against the style, and of the finest detail's
        distance from the paintings' (`kbstyle_example.detail`), which keeps patterns of single pixels away.
    similarity_follows : float, optional
        Let the similarity's weight follow, so that shapes are kept as well as in the teacher's pictures, and by so much
        of SSIM better (`kbstyle_example.similarity.Shapes`).
    feature_weights, style_weights, covariance_weights : mapping of str to float
        Of the perceptual network's layers in them, see `kbstyle_example.losses`.
    validation : (sequence of Path, sequence of Path), optional
        Photographs and paintings to evaluate on, as often as the recipe says.
    structure, statistics : float or schedule
        What SKD's features count, see `skd.methods.SKD`.
    fade : float
        Share of the steps over which these two go down to nothing, in half a cosine; 0 leaves them as they are. What
        features teach last pulls away from the picture (docs: benchmark).
    fit_adapters : bool
        Whether learned adapters (``basis="learned"``) begin as `skd.fit_adapters` fits them: for a start that has
        learned something.
    **options
        Of `skd.methods.SKD`.

    Returns
    -------
    skd.Distilled
        The student in eval mode.

    Raises
    ------
    ArgumentError, ShapeError
        A number that can't be, a student wider than its teacher, a start of another shape than `config`, or weights
        for layers that the perceptual network doesn't have.
    DataError
        No picture can be used.
    FileError
        The folder can't be written into, or the checkpoints there are another run's or damaged; there are no such
        weights to start from.
    MissingExtraError
        For a compressed start: torch-pruning isn't installed.
    NonFiniteError
        The training diverged; the checkpoint before it is kept.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> from kbstyle_example.beginning import scratch
    >>> teacher = scratch(KBStyleConfig(widths=(4, 5, 6)), seed=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "picture.png")
    ...     Image.radial_gradient("L").save(path)
    ...     done = distill(teacher, [path], [path], Path(folder, "run"), recipe=skd.Recipe(steps=2),
    ...                    batch_size=2, crop=16, config=KBStyleConfig(widths=(2, 3, 4)))
    >>> done.run.steps, len(done.report.rows), done.student.config.widths
    (2, 19, (2, 3, 4))
    """
    if not 0 <= fade <= 1:
        raise ArgumentError("share of the steps over which features fade", got=fade, expected="a number from 0 to 1")
    if hard_pairs and perceptual is None:
        remedy = "name a perceptual network, or hard_pairs=0"
        raise ArgumentError("hard pairs are told by a perceptual network", got="none", remedy=remedy)
    varied = {"vary_colours": vary_colours, "vary_strokes": vary_strokes}
    samples = training_samples(contents, styles, recipe, crop=crop, batch_size=batch_size, workers=workers, **varied)
    # Calibration pictures of the same kind, and never the same crops.
    length, seed = CALIBRATION_BATCHES * batch_size, recipe.seed + 1
    calibration = StylePairs(contents, styles, crop=crop, length=length, seed=seed, **varied)
    teacher = copy.deepcopy(teacher)
    if start == COMPRESSED:
        student, begun = compressed(teacher, contents, styles, config, seed=recipe.seed), COMPRESSED
    else:
        student, begun = first_weights(config, recipe.seed, start)
    perceived: Perceived | None = None
    pairs: StylePairs | HardPairs = samples
    if perceptual is not None:
        perceived = Perceived(
            perceptual,
            feature_weight=feature_weight,
            style_weight=style_weight,
            luminance_weight=luminance_weight,
            similarity_weight=similarity_weight,
            similarity_follows=similarity_follows,
            detail_weight=detail_weight,
            feature_weights=feature_weights,
            style_weights=style_weights,
            covariance_weights=covariance_weights,
        )
        if hard_pairs:
            pairs = drawn(samples, hard_pairs, student, begun, perceptual, perceived.style_weights, out)
    looked_at = None
    if validation is not None:
        looked_at = differences(teacher, validation, crop=crop, seed=recipe.seed, perceived=perceived)

    def method(plan: skd.Plan, spectra: skd.Spectra) -> Sequence[skd.methods.Transfer]:
        counts = {"structure": _fading(structure, fade * recipe.steps), "output": OUTPUT_WEIGHT}
        counts["statistics"] = _fading(statistics, fade * recipe.steps)
        rows = skd.methods.SKD(plan, spectra, **{**counts, **options}).transfers()
        if perceived is None:
            return rows
        perceived.to(next(student.parameters()).device)  # which is known only now
        return [*rows, *perceived.transfers()]

    done = skd.distill(
        teacher,
        DataLoader(pairs, batch_size=batch_size, num_workers=workers),
        out,
        student=student,
        recipe=recipe,
        method=method,
        pairings=(kbstyle_pairing(teacher), kbstyle_pairing(student)),
        fit_adapters=fit_adapters,
        calibration=DataLoader(calibration, batch_size=batch_size),
        task_loss=Painted(perceived) if perceived is not None and perceived.style_weight else None,
        task_weight=style_weight,
        evaluate=looked_at,
        about={
            **pairs.about(),
            "start": begun,
            "perceptual": None if perceived is None else perceived.identity(),
        },
    )
    even_phases(student.decoder)  # the checkpoint keeps the weights as they were trained
    return done


def _fading(weight: Any, steps: float) -> Any:
    if not steps or callable(weight) or weight == 0:
        return weight
    return skd.schedules.Ramp(weight, 0.0, steps=max(1, round(steps)), shape="cosine")


def save_student(network: KBStyle, path: Path, *, about: Mapping[str, str] | None = None) -> dict[Path, int]:
    """Write a student as float32, and beside it as float16 and int8; returns each file's size in bytes.

    Raises
    ------
    FileError
        See `save_weights`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sizes = save_student(KBStyle(STUDENT), Path(folder, "kbstyle.safetensors"))
    ...     [path.name for path in sizes], list(sizes.values()) == sorted(sizes.values(), reverse=True)
    (['kbstyle.safetensors', 'kbstyle-float16.safetensors', 'kbstyle-int8.safetensors'], True)
    """
    return {file: save_weights(network, file, about=about, dtype=dtype) for dtype, file in student_files(path).items()}


def student_files(path: Path) -> dict[Stored, Path]:
    """Where `save_student` writes what, by how the weights are stored.

    Examples
    --------
    >>> student_files(Path("kbstyle.safetensors"))["int8"].name
    'kbstyle-int8.safetensors'
    """
    others: tuple[Stored, ...] = ("float16", "int8")
    return {"float32": path, **{dtype: path.with_stem(f"{path.stem}-{dtype}") for dtype in others}}
