"""Parts of minimal cores: lattices of subsets, greedy deletion, transplants."""
