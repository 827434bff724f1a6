"""Measurements of the parts of a run, a module per part; `experiments.benchmark` calls them and
writes the results.
"""
