"""How long a work of several stages will still take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


class Outlook:
    """Says at each stage what is left. What a stage takes in truth corrects what the later ones are expected to.

    Parameters
    ----------
    stages : sequence of str
    say : callable
        Told each line.

    Examples
    --------
    >>> outlook = Outlook(("bake", "eat"), print)
    >>> outlook.expect(3600, 600)
    >>> outlook.begin("bake")
    [1/2] bake: about 1 h; for all that is left about 1 h 10 min
    >>> outlook.skip("eat")
    [2/2] eat: done already
    """

    def __init__(self, stages: Sequence[str], say: Callable[[str], None]) -> None:
        self.stages, self.say = tuple(stages), say
        self.expected = dict.fromkeys(stages, 0.0)
        self.started = self.began = time.monotonic()

    def expect(self, *seconds: float) -> None:
        """What each stage will take."""
        self.expected = dict(zip(self.stages, seconds, strict=True))

    def begin(self, stage: str) -> None:
        """Say what comes, and how long it and all that is left will take."""
        self.began = time.monotonic()
        left = sum(self.expected[later] for later in self.stages[self.stages.index(stage) :])
        self.say(
            f"{self._place(stage)}: about {duration(self.expected[stage])}; for all that is left about {duration(left)}"
        )

    def skip(self, stage: str) -> None:
        """A stage that an earlier run has done."""
        self.say(f"{self._place(stage)}: done already")

    def end(self, stage: str) -> None:
        """A stage is done: later ones are expected to be as much slower, or faster, as this one was."""
        took = time.monotonic() - self.began
        index = self.stages.index(stage)
        if took > 10 and self.expected[stage] > 0:
            factor = took / self.expected[stage]
            for later in self.stages[index + 1 :]:
                self.expected[later] *= factor

    def finish(self, text: str) -> None:
        """All is done."""
        self.say(f"Done in {duration(time.monotonic() - self.started)}; {text}")

    def _place(self, stage: str) -> str:
        return f"[{self.stages.index(stage) + 1}/{len(self.stages)}] {stage}"


def duration(seconds: float) -> str:
    """Seconds in words, to about a tenth.

    Examples
    --------
    >>> duration(4), duration(250), duration(5400), duration(200_000)
    ('4 s', '4 min', '1 h 30 min', '2 d 8 h')
    """
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours < 24:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    return f"{hours // 24} d" + (f" {hours % 24} h" if hours % 24 else "")
