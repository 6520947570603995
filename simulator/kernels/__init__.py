"""Physics of the measured kernels: one module a kind, no fitted number in any of them but as a starting point."""
