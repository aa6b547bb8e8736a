"""What an experiment runs on: model, SAE, examples, device, caches."""
