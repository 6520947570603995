"""docs/law.md is true: its Python examples give what it says, its commands print what it shows, its links lead
somewhere.
"""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "law.md").read_text(encoding="utf-8")
SAMPLES = re.findall(r"```text\n\$ (kinesim [^\n]*)\n(.*?)```", PAGE, re.S)
SLOW = ("simulated in", " s)", "took")
"""Lines with a wall-clock time are not compared."""


def test_python_examples() -> None:
    source = "".join(re.findall(r"```python\n(>>>.*?)```", PAGE, re.S))
    example = doctest.DocTestParser().get_doctest(source, {}, "law.md", "law.md", 0)
    assert len(example.examples) > 10
    told: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(example, out=told.append)
    assert result.failed == 0, "".join(told)


@pytest.mark.parametrize(("command", "shown"), SAMPLES, ids=[command for command, _ in SAMPLES])
def test_commands_print_what_is_shown(command: str, shown: str, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "simulator.cli", *shlex.split(command)[1:]]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    printed = {line.rstrip() for line in done.stdout.splitlines()}
    wanted = [line.rstrip() for line in shown.splitlines() if line.strip() and line != "..."]
    wanted = [line for line in wanted if not any(word in line for word in SLOW)]
    assert len(wanted) > 5 and [line for line in wanted if line not in printed] == []


def test_links_lead_somewhere() -> None:
    anchors = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"(?m)^#+ (.*)$", PAGE)}
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        file, _, anchor = link.partition("#")
        if not file:
            assert anchor in anchors, link
        elif not file.startswith("http"):
            assert (ROOT / "docs" / file).exists(), link
