"""Who may ask for an experiment: the executor, the store of results, the MCP server, the command line."""
