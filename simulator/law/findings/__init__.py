"""The page of findings (`make findings`): the paper's claims, by the law and simulated.

`evidence` and `runfacts` compute what it rests on, `bylaw`, `byfrontier` and `bygain` a finding each, `page` writes it.
"""
