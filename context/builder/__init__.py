"""Making bundles: builds, partial sets, the trainer, the autoencoder, and how well planted rules are followed."""
