"""The checks of the Triton kernels over versions of torch and triton: `make test-versions`.

Each torch gets a virtual environment in the folder, each triton a folder that is put before it; both are kept, so a
second run only checks. A version that does not install is reported and left out. Prints one line a pair, and what
failed; exits with 1 if a check failed in a pair that installed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCH = ("2.11.0", "2.12.1", "2.13.0")
TRITON = ("3.6.0", "3.7.1", "3.8.0", "3.9.0")
CHECKS = (["--interpret"], ["--compile", "90", "100"])
REST = ("numpy<2.4", "networkx", "pyyaml", "pyarrow")
"""Triton 3.6's interpreter takes arrays of one element for numbers, which newer NumPy refuses."""


def install_torch(folder: Path, version: str) -> Path | None:
    """Python of an environment with a torch; None if it does not install."""
    python = folder / f"torch-{version}" / "bin/python"
    if not (python.parent / ".ready").exists():
        print(f"torch {version}: installing", flush=True)
        venv.create(python.parents[1], with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*pip, f"torch=={version}", *REST], capture_output=True).returncode:
            return None
        (python.parent / ".ready").touch()
    return python


def install_triton(folder: Path, python: Path, version: str) -> Path | None:
    """A folder that holds a triton and nothing else; None if it does not install."""
    tag = f"{sys.version_info.major}{sys.version_info.minor}"
    target = folder / f"triton-{version}-py{tag}"
    if not (target / ".ready").exists():
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]
        if subprocess.run([*pip, "--target", str(target), f"triton=={version}"], capture_output=True).returncode:
            return None
        (target / ".ready").touch()
    return target


def check(python: Path, triton: Path, arguments: list[str]) -> tuple[int, list[str]]:
    """How many checks were made, and what failed."""
    path = os.pathsep.join([str(triton), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_CACHE_DIR": str(triton / ".cache")}
    command = [str(python), "-m", "calibration.kernels.check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=triton)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    failed = [
        f"{line['kernel']}, {line['check']}: {line.get('failure') or json.dumps(line)}"
        for line in lines
        if not line["ok"]
    ]
    if done.returncode and not failed:
        failed.append(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}")
    return len(lines), failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=ROOT / ".versions", help="where the versions are installed")
    parser.add_argument("--torch", nargs="+", default=TORCH, metavar="VERSION")
    parser.add_argument("--triton", nargs="+", default=TRITON, metavar="VERSION")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = options.folder.resolve()
    bad = pairs = 0
    for torch in options.torch:
        python = install_torch(folder, torch)
        if python is None:
            print(f"torch {torch}: does not install here", flush=True)
            continue
        for triton in options.triton:
            target = install_triton(folder, python, triton)
            if target is None:
                print(f"torch {torch}, triton {triton}: does not install here", flush=True)
                continue
            made, failed = 0, []
            for arguments in CHECKS:
                count, wrong = check(python, target, arguments)
                made, failed = made + count, failed + wrong
            pairs += 1
            bad += bool(failed)
            print(f"torch {torch}, triton {triton}: {made} checks, {len(failed)} failed", flush=True)
            for line in failed:
                print(f"  {line}", flush=True)
    if not pairs:
        print("no pair of versions installs here")
    return 1 if bad or not pairs else 0


if __name__ == "__main__":
    sys.exit(main())
