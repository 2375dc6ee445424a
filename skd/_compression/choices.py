"""What a group keeps at every width: a subset of its channels, or leading directions."""

from __future__ import annotations

import torch
from torch import Tensor

from skd import bases
from skd._compression.groups import Group


class Choice:
    """What a group keeps at every width: a subset of its channels, or leading directions.

    Parameters
    ----------
    matrix : Tensor
        (n, n) of trace 1.
    group : Group
    rotated : bool
        Directions instead of channels.

    Attributes
    ----------
    energy : list of float
        Share kept at the widths 1 … n, of which only multiples of the group's step can be had.
    readers : int
        Layers that read the group.
    """

    def __init__(self, matrix: Tensor, group: Group, *, rotated: bool) -> None:
        self.group, self.rotated = group, rotated
        self.readers = sum(port.side == "in" for port in group.ports)
        self.spread = False
        self.order: list[int] = []
        if rotated:
            values, self.vectors = bases.spectrum(matrix)
            self.energy = (values.cumsum(0) / values.sum()).clamp(max=1.0).tolist()
        else:
            self.order = pivots(matrix, group.cells)
            self.energy = bases.explained(matrix, self.order).tolist()

    @classmethod
    def evenly(cls, group: Group) -> Choice:
        """Atoms evenly spread: the frequencies of a narrower encoding of positions or times."""
        choice = cls(torch.eye(group.width, dtype=torch.float64), group, rotated=False)
        choice.spread, choice.energy, choice.readers = True, [1.0] * group.width, 0
        return choice

    def atoms(self, width: int) -> Tensor:
        """The atoms whose places the student keeps, ascending."""
        if self.spread:
            return torch.arange(width) * self.group.width // width
        if self.rotated:
            return torch.arange(width)
        return torch.tensor(self.order[:width]).sort().values

    def basis(self, width: int) -> Tensor:
        """(n, width) float64: its columns are what the places in `atoms` hold."""
        if self.rotated:
            return self.vectors[:, :width]
        return bases.selection(self.atoms(width).tolist(), self.group.width)


def pivots(matrix: Tensor, cells: Tensor) -> list[int]:
    """All channels in the order of pivoted Cholesky, one of each cell in every round.

    Examples
    --------
    >>> pivots(torch.diag(torch.tensor([3.0, 4.0, 1.0, 2.0])).double(), torch.tensor([0, 0, 1, 1]))
    [1, 3, 0, 2]
    """
    residual, picked = matrix.clone(), list[int]()
    scale = float(matrix.diagonal().max())
    free = set(cells.tolist())
    while len(picked) < len(cells):
        left = residual.diagonal().clone()
        left[picked] = -torch.inf
        left[[cell not in free for cell in cells.tolist()]] = -torch.inf
        channel = int((left >= left.max()).nonzero()[0])
        picked.append(channel)
        free.discard(int(cells[channel]))
        free = free or set(cells.tolist())
        residual = bases._explain(residual, channel, scale)
    return picked
