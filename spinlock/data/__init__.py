"""Trajectories on disk: our HDF5 layout, and readers for it and for others' layouts.

Shapes: N operators, M realizations of each, T frames (frame 0 is the initial condition), C
channels, H x W grid, P parameters. An item is one realization of one operator:
item = operator * M + realization.
"""

from spinlock.data.info import DatasetInfo
from spinlock.data.reader import TrajectoryDataset, open_dataset

__all__ = ["DatasetInfo", "TrajectoryDataset", "open_dataset"]
