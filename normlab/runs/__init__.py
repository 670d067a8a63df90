"""A run on disk: settings to id, store, record, checkpoints, provenance. Works without jax."""
