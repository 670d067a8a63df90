"""Questions, records, evidence and reports. Only `lab/worker.py` imports jax."""
