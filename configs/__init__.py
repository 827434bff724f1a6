"""Configurations: one file per base method and one per benchmark. Each is a function that returns a
ConfigDict.
"""
