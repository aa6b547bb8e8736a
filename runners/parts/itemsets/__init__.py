"""Parts of frequent itemsets: items, permutations, the choice of the headline."""
