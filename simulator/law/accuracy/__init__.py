"""What strategies solve: accuracy from curves, from traces and from a parametric model fitted to either.

`sources` chooses between them; `curves` are points of accuracy against cost, `traces` single trials (`generations`
reads the authors' logs), `parametric` is a model whose coefficients `curvefit` and `fittraces` fit. All give strategy
tables.
"""
