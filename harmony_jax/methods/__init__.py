"""Methods: one page each."""
