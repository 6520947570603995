"""Groups of GPUs that exchange something, and how many domains of the link they lie in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """`gpus` of `whole` GPUs in a row, which lie `stride` apart (`simulator.layout`).

    The whole lies in one domain, or has equal parts in as few as hold it; `simulator.layout.check_link` sees to it that
    groups do not straddle them.
    """

    gpus: int
    stride: int
    whole: int

    def members(self, domain: int) -> float:
        """GPUs of the group in each domain of `domain` GPUs; if it has parts in several, as many in each."""
        return self.gpus / self.domains(domain)

    def domains(self, domain: int) -> int:
        """Domains of `domain` GPUs that the group lies in."""
        each = self.whole // -(-self.whole // domain)
        together = min(max(each // self.stride, 1), self.gpus)
        return -(-self.gpus // together)
