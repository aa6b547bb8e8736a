"""PageRank equals networkx, and the graph equals counting pairs by hand."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from mechinterp_runner.runners.stats.pagerank import pagerank


def a_graph(seed: int, k: int = 12, share: float = 0.4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((k, k)) * (rng.random((k, k)) < share), 1)
    return upper + upper.T


@pytest.mark.parametrize("damping", [0.85, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_ranks_equal_networkx(seed, damping):
    graph = a_graph(seed)
    truth = nx.pagerank(nx.from_numpy_array(graph), alpha=damping, tol=1e-13, max_iter=1000)
    assert pagerank(graph, damping) == pytest.approx([truth[i] for i in range(len(graph))], abs=1e-10)


def test_units_without_edges_are_walked_as_in_networkx():
    graph = a_graph(9)
    graph[3], graph[:, 3] = 0.0, 0.0
    truth = nx.pagerank(nx.from_numpy_array(graph), tol=1e-13, max_iter=1000)
    assert pagerank(graph) == pytest.approx([truth[i] for i in range(len(graph))], abs=1e-10)
    assert pagerank(np.zeros((4, 4))) == pytest.approx([0.25] * 4)


def test_many_graphs_at_once_equal_one_at_a_time():
    graphs = np.stack([a_graph(seed) for seed in range(6)]).reshape(2, 3, 12, 12)
    together = pagerank(graphs)
    assert together.shape == (2, 3, 12)
    assert together.sum(axis=-1) == pytest.approx(np.ones((2, 3)))
    for index in np.ndindex(2, 3):
        assert together[index] == pytest.approx(pagerank(graphs[index]), abs=1e-10)
