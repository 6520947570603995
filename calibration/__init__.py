"""Calibration: profiles as data files (`profiles/`), and what fits them to measurements.

The simulator reads the profiles and never imports this package's code.
"""
