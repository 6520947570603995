"""Every code block of the README and of docs/ runs as it is written, in a scratch folder.

`python` blocks are executed, `sh` blocks command by command (`kinesim`, and `cat > FILE <<'END'`), `text` blocks that
begin with `$ kinesim` are compared with what it prints. What is not run is in NOT_RUN, with the reason;
`pytest -rs tests/test_code_blocks.py` lists it command by command.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("sh", "bash")
SECONDS = 1200 if os.environ.get("KINESIM_SLOW_DOCS") == "1" else 120
"""A command that takes longer fails; a busy machine takes several times as long as an idle one."""

NOT_RUN = {
    r"calibrate measure(?!.*--dry-run)": "needs a GPU",
    r"calibrate fit gemm\.\w+ attention_decode": "fits the shipped profiles to two million measurements",
    r"calibrate fit (TABLE|mine\.csv)": "tests/calibration/test_fitcommand.py runs it",
    r"calibrate fit power_": "fits the shipped power models to their measurements",
    r"measurements/h200-sxm": "needs what `kinesim calibrate measure` leaves",
    r"h200-sxm@triton": "needs what `kinesim calibrate measure` leaves",
    r"gemm-check\.csv|validate layers layer\.csv": "needs what `kinesim calibrate measure` leaves",
    r"calibrate kinetics-h200": "tests/calibration/test_kinetics.py runs it",
    r"^python -m calibration": "needs torch and triton; tests/calibration/kernels runs it",
    r"plan production-reasoning": "takes minutes; tests/simulator/planning plans for smaller loads",
    r"^pip install": "changes the environment",
    r"^cd ": "goes with commands that need a GPU",
}
"""Commands that are not run here (regular expressions), and why."""
SLOW = {
    r"whatif aime24-best-of-32 --set model=qwen3-32b": "a minute; tests/simulator/varying asks of smaller loads",
    r"whatif aime24-best-of-32 .*--break-even": "seconds; codesign.md has a small one",
    r"^kinesim plan reasoning-traffic": "minutes",
    r"^kinesim law compare --gpu b200-sxm --set": "half a minute or more",
    r"^kinesim law compare$": "tests/simulator/law/test_law_page.py runs it",
}
"""Commands that take long, which `make docs-check` runs."""
ALL = os.environ.get("KINESIM_SLOW_DOCS") == "1"
ELSEWHERE = {"law.md": "tests/simulator/law/test_law_page.py runs it"}
"""Pages whose blocks other tests run."""
STAND_INS = {"TABLE": "table.csv", "FILE": "trace.csv"}
"""What the README's words in capitals stand for."""
UNSTABLE = re.compile(r"simulated in |^Searched .* in [\d.]+ (s|min)$")
"""Lines with times of this machine, which samples may show and no other run prints again."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and content of a page's fenced blocks; `not run: REASON` as a comment before one is its language."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"(?:^<!-- (not run: .*?) -->\n+)?^```(\w*)\n(.*?)^```", text, re.S | re.M)
    return [(why or language, block) for why, language, block in found]


def statements(block: str) -> Iterator[str]:
    """The commands of a shell block: continued lines joined, a here-document with its command."""
    lines = iter(block.splitlines())
    for line in lines:
        command = line
        while command.rstrip().endswith("\\"):
            command = command.rstrip()[:-1] + next(lines)
        here = re.search(r"<<'?(\w+)'?\s*$", command)
        if here:
            body = []
            for inner in lines:
                if inner == here[1]:
                    break
                body.append(inner + "\n")
            command += "\n" + "".join(body)
        if command.strip() and not command.lstrip().startswith("#"):
            yield command.strip()


def not_run(command: str) -> str | None:
    """Why a command is not run; None where it is."""
    left_out = NOT_RUN if ALL else {**NOT_RUN, **SLOW}
    return next((why for pattern, why in left_out.items() if re.search(pattern, command)), None)


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """TimeoutError after so many seconds."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"a documented command took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages take for granted: tables and a trace, made for the tests."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trace.csv").write_text("arrival_s,input_len,output_len\n0,100,20\n0.5,200,10\n")
    serving = (
        "gpu,model,engine,precision,input_len,output_len,concurrency,tp,pp,attention_dp,moe_tp,moe_ep,engine_version,"
        "ttft_ms,tpot_ms\n"
        "h200-sxm,Qwen/Qwen3-0.6B,vllm,bf16,100,20,2,1,1,1,1,1,0.24.0,20,3\n"
    )
    for name in ("measured.csv", "mine.csv"):
        (tmp_path / name).write_text(serving)
    return tmp_path


def kernels_for(page: str, command: str, folder: Path) -> None:
    """Tables of kernels where a page's command wants some; they stand in for the reader's own."""
    source = ROOT / "tests" / "data" / "collective.parquet"
    if page in ("kernel-tables.md", "own-profile.md"):
        import pandas as pd

        shutil.copy(source, folder / "gemm.parquet")
        pd.read_parquet(source).head(40).to_csv(folder / "mine.csv", index=False)
    if page == "README.md" and "TABLE" in command:
        import pandas as pd

        if "serving" in command:
            shutil.copy(folder / "mine.csv", folder / "table.csv")
        else:
            pd.read_parquet(source).head(40).to_csv(folder / "table.csv", index=False)


RUN = [
    pytest.param(page, id=page.name)
    for page in PAGES
    if page.name not in ELSEWHERE
    and any(
        language == "python" or (language in SHELL and any(not not_run(c) for c in statements(block)))
        for language, block in blocks(page)
    )
]


@pytest.mark.parametrize("page", RUN)
def test_page_runs(page: Path, scratch: Path, kinesim: Callable) -> None:
    """All blocks of a page in order, in one folder: what one leaves, the next finds."""
    names: dict[str, object] = {"__name__": "page"}
    for language, block in blocks(page):
        if language == "python":
            run_python(page, block, names)
        elif language in SHELL:
            for command in statements(block):
                if not not_run(command):
                    run_command(page, command, scratch, kinesim)


def run_command(page: Path, command: str, folder: Path, kinesim: Callable) -> None:
    """A command ends well; a figure in the remark behind it is what it prints."""
    kernels_for(page.name, command, folder)
    first, _, body = command.partition("\n")
    written = re.match(r"cat > (\S+) <<", first)
    if written:
        (folder / written[1]).write_text(body)
        return
    name, *words = shlex.split(first, comments=True)
    assert name == "kinesim", f"{page.name}: nobody knows how to run: {first}"
    words = [re.sub(r"\b(TABLE|FILE)\b", lambda word: STAND_INS[word[1]], word) for word in words]
    with limit(SECONDS):
        done = kinesim(*words)
    assert done.code == 0, f"{first}\n{done.err}"
    figure = re.search(r"#\s+([\d.]+ min)", first)
    if figure:
        assert figure[1] in done.out


def run_python(page: Path, code: str, names: dict[str, object]) -> None:
    """A block in the page's namespace; with `>>>`, it shows what the page says."""
    with limit(SECONDS):
        if ">>>" not in code:
            exec(compile(code, page.name, "exec"), names)
            return
        test = doctest.DocTestParser().get_doctest(code, names, page.name, page.name, 0)
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False).failed == 0
        names.update(test.globs)


LEFT_OUT = [
    pytest.param(language.removeprefix("not run: "), id=f"{page.name}: {block.split(chr(10))[0][:60]}")
    for page in PAGES
    for language, block in blocks(page)
    if language.startswith("not run: ")
] + [
    pytest.param(why, id=f"{page.name}: {' '.join(command.partition(' #')[0].split())[:60]}")
    for page in PAGES
    for language, block in blocks(page)
    if language in SHELL
    for command in statements(block)
    if (why := not_run(command))
]


@pytest.mark.parametrize("why", LEFT_OUT)
def test_command_that_is_not_run(why: str) -> None:
    pytest.skip(why)


SAMPLES = [
    pytest.param(page, content, id=f"{page.name}-{content[2:60].splitlines()[0]}")
    for page in PAGES
    for language, content in blocks(page)
    if language == "text" and content.startswith("$ kinesim ") and page.name not in ELSEWHERE
]


@pytest.mark.parametrize(("page", "content"), SAMPLES)
def test_sample_is_what_the_command_prints(
    page: Path, content: str, scratch: Path, command: Callable, environment: dict[str, str]
) -> None:
    """Every line, but for times of this machine and the dots that stand for lines left out."""
    shown, _, output = content.partition("\n")
    if why := not_run(shown.removeprefix("$ ")):
        pytest.skip(why)
    words = command(*shlex.split(shown[2:])[1:])
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=3 * SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    printed = {line.rstrip() for line in done.stdout.splitlines()}
    sample = [line.rstrip() for line in output.splitlines()]
    sample = [line for line in sample if line and line != "..." and not UNSTABLE.search(line)]
    assert len(sample) > 3 and [line for line in sample if line not in printed] == []


def test_every_reason_is_still_needed() -> None:
    found = [(language, block) for page in PAGES for language, block in blocks(page)]
    commands = [command for language, block in found if language in SHELL for command in statements(block)]
    commands += [block.partition("\n")[0].removeprefix("$ ") for language, block in found if language == "text"]
    reasons = (*NOT_RUN, *SLOW)
    assert [pattern for pattern in reasons if not any(re.search(pattern, command) for command in commands)] == []


def test_blocks_say_their_language() -> None:
    """So that none is passed over because nobody knows what it is."""
    known = {"sh", "bash", "python", "text", "yaml", "json"}
    said = [(page.name, language) for page in PAGES for language, _ in blocks(page)]
    assert [one for one in said if one[1] not in known and not one[1].startswith("not run: ")] == []
