"""Benchmarks: how exact the layers are, and how long they take, compared with other libraries."""
