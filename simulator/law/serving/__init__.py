"""What strategies cost in the simulator: an engine that is kept full of such problems.

`saturated` says who runs in which step, `steady` times that; `pointgrid` says which strategies are simulated and what
those between them cost, `simulated` gives the costs of a strategy table.
"""
