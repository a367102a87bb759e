"""Texts of several lengths side by side."""

from __future__ import annotations

import torch

from nextset.text.condition import Text


def test_texts_are_padded_and_counted():
    text = Text.of([torch.ones(2, 3), torch.full((4, 3), 2.0)])
    assert text.values.shape == (2, 4, 3) and text.lengths.tolist() == [2, 4] and len(text) == 2
    assert text.mask.tolist() == [[True, True, False, False], [True] * 4]


def test_packed_texts_come_apart():
    values, ends = torch.arange(5), torch.tensor([0, 2, 5])
    text = Text.unpacked(values, ends)
    assert text.values.tolist() == [[0, 1, 0], [2, 3, 4]] and text.lengths.tolist() == [2, 3]


def test_padding_repeating_and_choosing():
    text = Text.of([torch.tensor([1]), torch.tensor([2, 3])])
    assert text.pad_to(4).values.tolist() == [[1, 0, 0, 0], [2, 3, 0, 0]] and text.pad_to(2) is text
    assert text.repeat_interleave(2).lengths.tolist() == [1, 1, 2, 2]
    assert text[torch.tensor([1, 0])].values.tolist() == [[2, 3], [1, 0]]
    assert text[1:].lengths.tolist() == [2]
    features = Text.of([torch.ones(1, 3), torch.ones(2, 3)]).pad_to(3)
    assert features.values.shape == (2, 3, 3) and features.values[0, 1:].abs().sum() == 0
