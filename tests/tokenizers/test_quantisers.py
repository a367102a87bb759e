"""Codebooks: search, health, revival."""

from __future__ import annotations

import math

import pytest
import torch

from nextset.tokenizers.quantisers import Codebook, Usage, revive

G = torch.Generator().manual_seed(0)


def codebook(table: torch.Tensor, distance: str = "l2") -> Codebook:
    book = Codebook(*table.shape, distance=distance)
    book.weight.data.copy_(table)
    return book


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_nearest_against_plain_loops(distance):
    table, z = torch.randn(7, 3, generator=G), torch.randn(2, 4, 3, generator=G)
    found = codebook(table, distance).nearest(z)
    assert found.shape == (2, 4) and found.dtype == torch.int64
    for i in range(2):
        for j in range(4):
            if distance == "l2":
                scores = [-float((z[i, j] - e).square().sum()) for e in table]
            else:
                scores = [float(z[i, j] @ e / (z[i, j].norm() * e.norm())) for e in table]
            assert int(found[i, j]) == max(range(7), key=lambda v: scores[v])


def test_the_lowest_id_wins_a_tie():
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert codebook(table).nearest(torch.tensor([1.0, 0.0])) == 0
    assert codebook(table, "cosine").nearest(torch.tensor([5.0, 0.0])) == 0


def test_codes_are_looked_up_raw():
    table = torch.randn(5, 3, generator=G)
    book = codebook(table, "cosine")
    ids = torch.tensor([[4, 0]])
    assert torch.equal(book(ids), table[ids]), "not normalised, with cosine search either"
    assert torch.equal(book.nearest(book(ids) * 3.7), ids)


def test_gradients_reach_only_codes_that_were_looked_up():
    book = codebook(torch.randn(5, 3, generator=G))
    book(torch.tensor([1, 3, 3])).sum().backward()
    assert book.weight.grad.sum(1).tolist() == [0, 3, 0, 6, 0]


def test_the_search_runs_in_float32():
    table = torch.randn(64, 8, generator=G)
    z = table[torch.arange(64)] + 0.01
    book = codebook(table).bfloat16()
    assert torch.equal(book.nearest(z.bfloat16()), torch.arange(64))


# ---- usage


def test_usage_is_an_exponential_mean_of_hits():
    usage = Usage(2, 4, decay=0.9)
    none = torch.tensor([], dtype=torch.int64)
    usage.record([torch.tensor([[0, 1], [1, 1]]), none])
    usage.record([torch.tensor([3]), none])
    torch.testing.assert_close(usage.hits, torch.tensor([[0.09, 0.27, 0, 0.1], [0, 0, 0, 0]]))
    assert usage.used().tolist() == [0.75, 0]
    assert usage.used(least=0.2).tolist() == [0.25, 0]


def test_perplexity():
    usage = Usage(3, 4)
    usage.hits[0] = torch.tensor([1.0, 1, 1, 1])
    usage.hits[1] = torch.tensor([0.0, 5, 0, 0])
    usage.hits[2] = torch.tensor([0.0, 2, 2, 0])
    torch.testing.assert_close(usage.perplexity(), torch.tensor([4.0, 1.0, 2.0]))
    assert torch.isfinite(Usage(1, 4).perplexity()).all(), "before anything was seen"


def test_usage_is_state_but_no_weight():
    usage = Usage(1, 4)
    assert list(usage.state_dict()) == ["hits"] and not list(usage.parameters())


# ---- revival


def test_dead_codes_become_samples_in_the_callers_order():
    book = codebook(torch.zeros(5, 2))
    usage = Usage(2, 5)
    usage.hits[0] = torch.tensor([1.0, 0, 0.2, 0, 0])
    usage.hits[1] = torch.tensor([1.0, 0, 0.2, 0.01, 0])
    samples = torch.arange(8.0).view(4, 2) + 1
    count = revive(book, usage, samples, least=0.3, order=torch.tensor([2, 0, 3, 1]))
    assert int(count) == 3, "hits count over all groups: code 2 has 0.4"
    assert torch.equal(book.weight, torch.stack([torch.zeros(2), samples[2], torch.zeros(2), samples[0], samples[3]]))
    for group, before in enumerate([[1.0, 0, 0.2, 0, 0], [1.0, 0, 0.2, 0.01, 0]]):
        mean = max(sum(before) / 5, 0.3)
        assert usage.hits[group].tolist() == pytest.approx([before[0], mean, before[2], mean, mean]), (
            "as many hits as an average code"
        )
    assert int(revive(book, usage, samples, 0.3, torch.arange(4))) == 0, "nothing is revived twice in a row"


def test_more_dead_codes_than_samples():
    book, usage = codebook(torch.zeros(5, 2)), Usage(1, 5)
    samples = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    assert int(revive(book, usage, samples, 0.1, torch.tensor([1, 0]))) == 5
    assert book.weight[:, 0].tolist() == [2, 1, 2, 1, 2]


def test_a_living_codebook_is_left_alone():
    book, usage = codebook(torch.ones(3, 2)), Usage(1, 3)
    usage.hits.fill_(1.0)
    assert int(revive(book, usage, torch.zeros(2, 2), 0.1, torch.arange(2))) == 0
    assert (book.weight == 1).all() and (usage.hits == 1).all()


def test_a_new_codebook_has_vectors_of_about_unit_length():
    torch.manual_seed(0)
    norms = Codebook(2000, 16).weight.norm(dim=-1)
    assert math.isclose(norms.mean().item(), 1.0, abs_tol=0.1)
