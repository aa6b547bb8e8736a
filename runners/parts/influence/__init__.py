"""Parts of token influence and binary presence: association, causal effects, tables."""
