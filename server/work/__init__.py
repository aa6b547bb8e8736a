"""Runs that go on while others ask: slots, queue, progress, cancellation."""
