"""Which codes are near which."""

from __future__ import annotations

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.tokenizers.neighbourhood import Neighbourhood

VECTORS = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))


def test_distances_are_squared_and_euclidean() -> None:
    of = Neighbourhood(VECTORS)
    table = of.distances()
    torch.testing.assert_close(table, torch.cdist(VECTORS, VECTORS).square(), atol=1e-4, rtol=1e-4)
    assert (table.diagonal() == 0).all() and (table >= 0).all() and len(of) == 60
    torch.testing.assert_close(of.distances(torch.tensor([7, 3])), table[[7, 3]])


def test_the_nearest_are_the_others_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    of = Neighbourhood(VECTORS)
    table = of.distances().fill_diagonal_(torch.inf)
    found = of.nearest(4)
    assert torch.equal(found, table.argsort(dim=1, stable=True)[:, :4])
    assert not (found == torch.arange(60)[:, None]).any()
    monkeypatch.setattr("nextset.tokenizers.neighbourhood._ROWS", 7)
    assert torch.equal(of.nearest(4), found)


def test_the_lower_id_goes_first_on_ties() -> None:
    assert Neighbourhood(torch.zeros(4, 2)).nearest(3).tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_clusters_from_given_centres_are_plain_k_means() -> None:
    start = torch.tensor([5, 9, 20])
    owner, centres = Neighbourhood(VECTORS).clusters(3, rounds=4, start=start)
    slow = VECTORS[start].clone()
    for _ in range(4):
        nearest = torch.cdist(VECTORS, slow).argmin(1)
        for c in range(3):
            if (nearest == c).any():
                slow[c] = VECTORS[nearest == c].mean(0)
    torch.testing.assert_close(centres, slow)
    assert torch.equal(owner, torch.cdist(VECTORS, slow).argmin(1))


def test_a_centre_without_codes_stays() -> None:
    vectors = torch.tensor([[0.0], [0.0], [4.0]])
    owner, centres = Neighbourhood(vectors).clusters(3, rounds=2, start=torch.tensor([0, 1, 2]))
    assert owner.tolist() == [0, 0, 2] and centres[:, 0].tolist() == [0, 0, 4]


def test_clusters_that_lie_apart_are_found_and_a_seed_repeats_them() -> None:
    middle = 50 * torch.eye(4, 5)
    vectors = (middle[:, None] + VECTORS[:40].view(4, 10, 5)).flatten(0, 1)
    of = Neighbourhood(vectors)
    owner, _ = of.clusters(4, seed=3)
    assert [len(part.unique()) for part in owner.split(10)] == [1] * 4 and len(owner.unique()) == 4
    assert torch.equal(of.clusters(4, seed=3)[0], owner)
    assert len(of.spread(40).unique()) == 40


@pytest.mark.parametrize("k", [0, 60])
def test_a_number_of_neighbours_that_are_not_there_is_refused(k: int) -> None:
    with pytest.raises(NextsetError, match=f"k is {k}, but must be between 1 and 59; it counts the other codes"):
        Neighbourhood(VECTORS).nearest(k)


def test_more_clusters_than_codes_are_refused() -> None:
    with pytest.raises(NextsetError, match="count is 61, but must be between 1 and 60"):
        Neighbourhood(VECTORS).clusters(61)
