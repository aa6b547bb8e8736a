"""Many specs at once: read, checked, run in this process or on a cluster, summarised."""
