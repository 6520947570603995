"""Hardware: GPUs and links as YAML with sources, units, and the way that bad input is reported."""
