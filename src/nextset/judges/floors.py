"""Floors: what a judge would say of two samples of one source, at the numbers of pictures that were compared.

No set judge says 0 of two samples of the same pictures. The floor is found from the reference alone: the distance of its
two halves, carried to other numbers by the law of each judge. The bias of a Frechet distance falls like 1/n; swd and
rpsd_db are roots, and fall like n^-1/2. A floor is itself a measurement: that of rfd_z scatters by a fifth between disjoint
10,000 of one set of photographs.
"""

from __future__ import annotations

# below so many pictures a half, its covariances say too little
LEAST_HALF = 128
# times the floor
ALIKE = 1.2


def carried(distance: float, halves: tuple[int, int], sizes: tuple[int, int], power: float) -> float:
    """The distance of two halves, carried to samples of other sizes.

    It is taken to be proportional to (1/n + 1/m) ** power: power 1 for Frechet distances, 1/2 for their roots.
    """
    here, there = (1 / a + 1 / b for a, b in (halves, sizes))
    return distance * (there / here) ** power


def usable(halves: tuple[int, int]) -> bool:
    """Whether two halves of so many pictures say what a floor is."""
    return min(halves) >= LEAST_HALF


def indistinguishable(value: float, floor: float) -> bool:
    """Below 1.2 times the floor, a judge does not tell two sets apart."""
    return value < ALIKE * floor
