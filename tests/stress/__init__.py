"""Campaigns that try to lose or corrupt results: kills, damage, full disks, crowds, malice.

Each is seeded and replayable, uses the real trainer, and must also catch writers and claimers that
are broken on purpose. `scripts/stress.py` runs them.
"""
