"""Flow networks with named nodes, and their smallest cuts: the rank of a product-and-sum of matrices of known rank.

The rank of a linear map that is put together from others along the arrows of a graph is at most the maximum flow
through it, with the ranks for capacities (Ahlswede et al., "Network information flow", IEEE Trans. IT 2000).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import scipy

EVERYTHING = 2**31 - 1
"""Capacity that never binds: the largest of the int32 that SciPy's ``maximum_flow`` takes, by definition."""


class Cut:
    """A network of arrows with capacities; nodes are named as they appear."""

    def __init__(self) -> None:
        self.edges: dict[tuple[int, int], int] = {}
        self.numbers: dict[str, int] = {}

    def node(self, name: str) -> int:
        """Its number."""
        return self.numbers.setdefault(name, len(self.numbers))

    def edge(self, start: str, end: str, capacity: int) -> None:
        """An arrow, which replaces one between the same nodes."""
        self.edges[self.node(start), self.node(end)] = capacity

    def widen(self, start: str, end: str, capacity: int) -> None:
        """One more arrow beside those that there are."""
        key = self.node(start), self.node(end)
        self.edges[key] = self.edges.get(key, 0) + capacity

    def flow(self, start: str, end: str, extra: Iterable[tuple[str, str, int]] = ()) -> int:
        """Maximum flow between two nodes, with further arrows; 0 where one of the nodes has none."""
        edges = self.edges | {(self.node(a), self.node(b)): size for a, b, size in extra}
        source, sink = self.node(start), self.node(end)
        rows, columns = zip(*edges, strict=True)
        sizes = np.minimum(np.array(list(edges.values()), dtype=np.int64), EVERYTHING).astype(np.int32)
        graph = scipy.sparse.csr_matrix((sizes, (rows, columns)), shape=(len(self.numbers),) * 2)
        return int(scipy.sparse.csgraph.maximum_flow(graph, source, sink).flow_value)
