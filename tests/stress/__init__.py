"""Fault injection: kills, crashes, damaged files, full disks, untrusted input.

Each campaign is one file with a function `run(workspace) -> Report`. It uses the real trainer, and
equal seeds repeat it. It must also catch mutants, which are code that is broken on purpose.
`scripts/stress.py` runs the campaigns.
"""
