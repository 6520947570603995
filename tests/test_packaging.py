"""The four packages as a whole: what the wheel carries, which way imports point, and what no file may say."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = ("hwspecs", "workloads", "simulator", "calibration")

MAY_IMPORT = {
    "hwspecs": set(),
    "workloads": {"hwspecs"},
    "simulator": {"hwspecs", "workloads"},
    "calibration": {"hwspecs", "workloads", "simulator"},
}
"""Package -> the other packages of the project that its modules may import."""

ROOF = "simulator/cli.py"
"""The command line is the roof over the four packages: it alone may import `calibration`, inside a sub-command."""

NEVER = {"torch", "triton", "tests", "pytest"}
"""What no module of the first three packages may import; `calibration` may import torch and triton."""


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


ALL_MODULES = [path for package in PACKAGES for path in modules(package)]


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of everything that a module imports, wherever in it; relative imports are the package's own."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def imported_at_once(tree: ast.Module) -> set[str]:
    """The same of the statements that run when the module is imported (not inside functions)."""

    def statements(node: ast.AST):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            yield child
            yield from statements(child)

    found: set[str] = set()
    for node in statements(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= imported(node)
    return found


@pytest.mark.parametrize("path", ALL_MODULES, ids=short)
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    allowed = MAY_IMPORT[package] | {package} | ({"calibration"} if short(path) == ROOF else set())
    assert imported(tree) & set(PACKAGES) <= allowed
    if package != "calibration":
        assert not imported(tree) & NEVER
    assert "tests" not in imported(tree)
    if short(path) == ROOF:
        assert "calibration" not in imported_at_once(tree), "only inside the sub-command that needs it"


def test_imports_are_seen() -> None:
    """The two functions above, on a module that breaks every rule."""
    tree = ast.parse(
        "import torch.nn\ndef f():\n    from calibration.fit import g\nif True:\n    import tests, workloads\n"
    )
    assert imported(tree) == {"torch", "calibration", "tests", "workloads"}
    assert imported_at_once(tree) == {"torch", "tests", "workloads"}


@pytest.mark.parametrize("path", ALL_MODULES, ids=short)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text and len(text.split()) >= 3


def test_third_party_imports_are_dependencies() -> None:
    """Everything that the first three packages import is the standard library's, our own or named in pyproject."""
    named = {re.split(r"[\s>=<\[;]", text, maxsplit=1)[0].lower() for text in PROJECT["project"]["dependencies"]}
    modules_of = {"pyyaml": "yaml"}
    # What pydantic brings along by its own requirements, at versions that it pins, and dask by the extra of that name.
    known = {modules_of.get(name, name) for name in named} | {"annotated_types", "pydantic_core", "distributed"}
    for package in ("hwspecs", "workloads", "simulator"):
        for path in modules(package):
            names = imported(ast.parse(path.read_text(encoding="utf-8")))
            foreign = names - set(PACKAGES) - set(sys.stdlib_module_names)
            assert foreign <= known, short(path)


# ---- what is bundled -------------------------------------------------------------------------------------------------


def data_files() -> list[Path]:
    """The files in the packages that the code reads, or that editors and type checkers look for."""
    kept = {".yaml", ".json", ".md", ".typed", ".csv", ".parquet", ".css", ".js"}
    return [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*")) if p.suffix in kept and p.is_file()]


def test_all_packages_are_packed() -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    with_code = {short(path.parent).replace(os.sep, ".") for path in ALL_MODULES}
    assert with_code <= set(setuptools["packages"])
    assert (ROOT / PROJECT["project"]["readme"]).is_file()


def test_data_files_are_packed() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    left_out = []
    for path in data_files():
        package, *rest = path.relative_to(ROOT).parts
        if not any(fnmatch("/".join(rest), pattern) for pattern in patterns.get(package, [])):
            left_out.append(short(path))
    assert left_out == []


def test_there_is_something_to_pack() -> None:
    found = {short(path.parent) for path in data_files()}
    assert {"hwspecs/gpus", "workloads/models", "workloads/scenarios", "calibration/profiles"} <= found
    assert all((ROOT / package / "py.typed").is_file() for package in PACKAGES)
    assert len(list((ROOT / "hwspecs/gpus").glob("*.yaml"))) >= 16
    scenarios = {path.stem for path in (ROOT / "workloads/scenarios").glob("*.yaml")}
    assert scenarios >= {"aime24-best-of-32", "aime24-long-cot", "chat-poisson", "production-reasoning"}


def test_entry_point_exists() -> None:
    module, _, function = PROJECT["project"]["scripts"]["kinesim"].partition(":")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


# ---- what no file may say --------------------------------------------------------------------------------------------

ABSOLUTE = re.compile(r"""(?<![\w.:/~$}*])/(?:work|home|root|Users|mnt|workspace|opt|tmp|srv)/[\w.-]+""")
"""An absolute path of somebody's machine; not an URL's, nor a shell's `$HOME/...`."""

TEXTS = {".py", ".yaml", ".yml", ".md", ".toml", ".json", ".txt", ".cfg", ".sh", ""}


def project_files() -> list[Path]:
    """The files under version control, or, without git, those of the known folders."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        paths = [p for folder in (*PACKAGES, "docs", "tests") for p in (ROOT / folder).rglob("*")]
        paths += [p for p in ROOT.iterdir() if p.is_file()]
    return [p for p in paths if p.is_file() and "__pycache__" not in p.parts]


def test_no_file_names_an_absolute_path() -> None:
    found = []
    for path in (p for p in project_files() if p.suffix in TEXTS):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if path != Path(__file__).resolve() and ABSOLUTE.search(line) and not line.startswith("#!"):
                found.append(f"{short(path)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_an_absolute_path_would_be_seen() -> None:
    assert ABSOLUTE.search('path = "/work/thing/x.csv"') and ABSOLUTE.search("see /home/me/notes")
    assert not ABSOLUTE.search("https://example.org/home/page") and not ABSOLUTE.search("../shared/data/models")
    assert not ABSOLUTE.search("${HOME}/work/x") and not ABSOLUTE.search("weights/work/token")


# ---- the wheel -------------------------------------------------------------------------------------------------------


def build_tools_missing() -> str | None:
    """Why a wheel cannot be built without fetching something; None if it can."""
    if importlib.util.find_spec("pip") is None:
        return "pip is not installed"
    try:
        version = metadata.version("setuptools")
    except metadata.PackageNotFoundError:
        return "setuptools is not installed"
    if int(version.partition(".")[0]) < 69:
        return f"setuptools {version} is older than 69"
    if int(version.partition(".")[0]) < 71 and importlib.util.find_spec("wheel") is None:
        return "wheel is not installed"  # setuptools has a bdist_wheel of its own from 70.1 on
    return None


def run(*arguments: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:] or done.stdout[-2000:]
    return done


@pytest.mark.skipif(build_tools_missing() is not None, reason=f"no wheel built here: {build_tools_missing()}")
def test_wheel_works_from_another_folder(tmp_path: Path) -> None:
    """Built from a copy of the sources, installed beside nothing else of ours, used far from the sources."""
    source, target, elsewhere = tmp_path / "source", tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in project_files():
        top = path.relative_to(ROOT).parts[0]
        if top in PACKAGES or path.parent == ROOT:
            (source / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            (source / path.relative_to(ROOT)).write_bytes(path.read_bytes())
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INDEX": "1"}
    run("-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", tmp_path, source, cwd=elsewhere, **quiet)
    (wheel,) = tmp_path.glob("kinesim-*.whl")
    run("-m", "pip", "install", "--no-deps", "--target", target, wheel, cwd=elsewhere, **quiet)
    packed = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert {short(path) for path in (*data_files(), *ALL_MODULES)} <= packed
    assert not any(name.startswith(("tests/", "docs/")) for name in packed)

    installed = {"PYTHONPATH": str(target)}
    listed = run("-m", "simulator.cli", "list", "scenarios", cwd=elsewhere, **installed).stdout
    assert "aime24-best-of-32" in listed and "production-reasoning" in listed
    small = ("--set", "workload.requests=5", "--format", "json")
    done = run("-m", "simulator.cli", "run", "chat-poisson", *small, cwd=elsewhere, **installed)
    assert '"schema": "kinesim-result/1"' in done.stdout
    (elsewhere / "trace.csv").write_text("arrival_s,input_len,output_len\n0,100,20\n1,200,30\n")
    traced = ("--set", "workload.trace.path=trace.csv")
    done = run("-m", "simulator.cli", "run", "production-reasoning", *traced, cwd=elsewhere, **installed)
    assert "2 finished" in done.stdout
    where = run("-c", "import simulator; print(simulator.__file__)", cwd=elsewhere, **installed).stdout
    assert where.startswith(str(target))
