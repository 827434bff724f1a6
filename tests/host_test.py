"""Cores and memory, as Linux and macOS tell them."""

import os
import resource
import sys

from harmony_jax import host


def test_a_mac_has_no_affinity_and_counts_memory_in_bytes(monkeypatch):
  used = host.peak_memory()
  monkeypatch.setattr(sys, 'platform', 'darwin')
  for name in ('sched_getaffinity', 'sched_setaffinity'):
    monkeypatch.delattr(os, name)
  assert host.cores() == list(range(os.cpu_count()))
  host.keep_to([0])
  in_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert host.peak_memory() == in_bytes and used <= 1024 * in_bytes


def test_linux_tells_the_cores_of_the_process_and_kilobytes():
  assert host.cores() == sorted(os.sched_getaffinity(0))
  assert host.peak_memory() > 2**24
