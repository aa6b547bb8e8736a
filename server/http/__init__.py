"""The shared server over HTTP, and the bridge to it."""
