"""Parts of core coverage: rates of core and tail, what marks them, how it is told."""
