"""The architecture, held: who may import whom, which library has which owner, and that dvc.yaml names the code that each stage runs."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipelines.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
TOP = ("pipelines", "training", "export")

# Every package and what it may import beside itself; all may import pipelines.core.
FEATURES = {
    "pipelines.core": set(),
    "pipelines.formats": set(),
    "pipelines.sample": set(),
    "pipelines.fetch": set(),
    "pipelines.collect": set(),
    "pipelines.labeling": {"pipelines.formats"},
    "pipelines.dataset": {"pipelines.formats"},
    "pipelines.evaluation": set(),
    "pipelines.mining": set(),
    "pipelines.regression": set(),
    "pipelines.report": set(),
    "training": set(),
    "export": set(),
}
ENTRY_POINTS = ("pipelines.stages", "pipelines.commands", "training.stages", "export.stages")

# Heavy libraries and the only places that may import them.
OWNERS = {
    "ultralytics": ("training.",),
    "albumentations": ("training.augment",),
    "dvclive": ("training.",),
    "label_studio_sdk": ("pipelines.labeling.server.client",),
    "httpx": ("pipelines.labeling.server.client", "pipelines.labeling.server.local"),
    "fsspec": ("pipelines.fetch.stores",),
    "hotcoco": ("pipelines.evaluation.coco",),
    "onnxruntime": (
        "export.runners.onnxruntime",
        "export.convert.fp16_from_onnx",
        "export.convert.int8_from_onnx",
        "export.convert.operators",
        "export.convert.ranges",
    ),
    "openvino": ("export.convert.operators", "export.runners.openvino"),
    "ray": ("pipelines.core.cluster",),
    "simplejpeg": ("pipelines.collect.measure", "pipelines.collect.cache"),
    "fastapi": ("export.serve.app", "export.serve.server"),
    "fastapi_offline": ("export.serve.app",),
    "starlette": ("export.serve.app",),
    "uvicorn": ("export.serve.server",),
    "prometheus_client": ("export.serve.metrics",),
    "tensorrt": ("export.convert.engine_child", "export.runners.tensorrt"),
    "tensorrt_rtx": ("export.convert.engine_child", "export.runners.tensorrt"),
}
# ultralytics reads its settings from the environment when it is imported, so they must be set before that line.
AT_IMPORT = {"quiet_ultralytics"}
# What a module may never pull in at import, directly or through our own modules: it would be paid for in every no-op `dvc repro`.
LIGHT = ("pipelines.cli", "pipelines.stages.fetch", "pipelines.stages.label_sync")
HEAVY = (
    "torch",
    "torchvision",
    "ultralytics",
    "albumentations",
    "cv2",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "openvino",
    "hotcoco",
    "dvclive",
    "PIL",
    "httpx",
    "label_studio_sdk",
)


def module_files() -> dict[str, Path]:
    files: dict[str, Path] = {}
    for top in TOP:
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


FILES = module_files()


@cache
def imports_of(module: str, at_import_only: bool = False) -> frozenset[str]:
    """Modules that `module` imports or runs by name (`python -m`); with `at_import_only` not inside functions and TYPE_CHECKING blocks."""
    tree = ast.parse(FILES[module].read_text())
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and at_import_only:
            return
        if isinstance(node, ast.Constant) and node.value in FILES and "." in str(node.value) and node.value != module and not at_import_only:
            found.add(node.value)
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(names & set(FILES) or {node.module})
            if names - set(FILES):
                found.add(node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return frozenset(found)


def ours(names: frozenset[str]) -> set[str]:
    return {name for name in names if name in FILES}


def package_of(module: str) -> str:
    for package in (*ENTRY_POINTS, *FEATURES):
        if module == package or module.startswith(package + "."):
            return package
    return module


def closure(module: str, at_import_only: bool = False) -> set[str]:
    """The module and everything of ours that it imports, however far."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        todo.extend(ours(imports_of(current, at_import_only)))
        parent = current.rpartition(".")[0]
        if parent in FILES:
            todo.append(parent)
    return seen


@pytest.mark.parametrize("module", [name for name in FILES if package_of(name) in FEATURES])
def test_features_import_only_what_they_may(module: str) -> None:
    package = package_of(module)
    allowed = FEATURES[package] | {package, "pipelines.core", "pipelines"}
    wrong = {name for name in ours(imports_of(module)) if package_of(name) not in allowed}
    assert not wrong, f"{module} may import {sorted(allowed)} only"


@pytest.mark.parametrize("library", OWNERS)
def test_heavy_libraries_have_one_owner(library: str) -> None:
    users = {module for module in FILES if any(name == library or name.startswith(library + ".") for name in imports_of(module))}
    strangers = {user for user in users if not any(user.startswith(owner) for owner in OWNERS[library])}
    assert not strangers, f"{library} belongs to {OWNERS[library]}"
    assert users or library.startswith("tensorrt"), f"no module imports {library}: take it out of OWNERS"  # TensorRT: whichever is there, by name


@pytest.mark.parametrize("module", LIGHT)
def test_light_entry_points_stay_light(module: str) -> None:
    for part in closure(module, at_import_only=True):
        heavy = {name.split(".")[0] for name in imports_of(part, True)} & set(HEAVY)
        assert not heavy, f"{module} imports {part}, which imports {sorted(heavy)} at import"


def stages() -> dict[str, dict[str, object]]:
    graph = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in graph.items()}


@pytest.mark.parametrize("name", stages())
def test_dvc_deps_are_the_code_that_the_stage_imports(name: str) -> None:
    stage = stages()[name]
    match = re.search(r"python -m (?:pipelines\.core\.stage )?(\S+)", str(stage["cmd"]))
    assert match, f"stage {name} calls no module"
    needed = {FILES[module].relative_to(ROOT) for module in closure(match[1]) if FILES[module].read_text().strip()}
    deps = [Path(str(dep)) for dep in stage["deps"] if str(dep).startswith(TOP)]  # type: ignore[attr-defined]
    uncovered = sorted(str(path) for path in needed if not any(path == dep or dep in path.parents for dep in deps))
    assert not uncovered, f"stage {name}: add these to its deps in dvc.yaml"
    idle = sorted(str(dep) for dep in deps if not any(path == dep or dep in path.parents for path in needed))
    assert not idle, f"stage {name}: these deps name code that it does not import"


@pytest.mark.parametrize("name", stages())
def test_stage_paths_stand_in_dvc_yaml_only(name: str) -> None:
    stage = stages()[name]
    match = re.search(r"python -m (?:pipelines\.core\.stage )?(\S+)", str(stage["cmd"]))
    assert match
    source = FILES[match[1]].read_text()
    assert "data/" not in re.sub(r'"""(?:.|\n)*?"""', "", source).replace("`", ""), f"{match[1]} holds a path of its own"


@pytest.mark.parametrize("module", FILES)
def test_nothing_runs_at_import(module: str) -> None:
    """No calls that read, seed or set the environment at module level."""
    for node in ast.parse(FILES[module].read_text()).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) not in AT_IMPORT:
            pytest.fail(f"{module} line {node.lineno} calls {ast.unparse(node.value.func)} at import")


def test_the_readme_names_every_stage_and_no_command_that_is_not_there() -> None:
    text = (ROOT / "README.md").read_text()
    unnamed = [name for name in stages() if f"`{name}`" not in text]
    assert not unnamed, "name these stages in the README's table"
    code = "\n".join(re.findall(r"```.*?```|`[^`]+`", text, re.DOTALL))
    named = set(re.findall(r"^`?detloop ([\w-]+)", code, re.MULTILINE))
    assert len(named) > 10
    assert named <= set(COMMANDS), "the README names commands that are not there"


def test_the_docs_say_what_every_output_is() -> None:
    """A row of docs/data.md, with the stage that makes it, covers each output."""
    rows = [re.findall(r"`([^`]+)`", line) for line in (ROOT / "docs/data.md").read_text().splitlines() if line.startswith("| `")]
    for name, stage in stages().items():
        for out in stage.get("outs", []):  # type: ignore[attr-defined]
            path = out if isinstance(out, str) else next(iter(out))
            assert any(name in words and any(path.startswith(word.rstrip("/")) for word in words) for words in rows), f"{name}: {path}"


def test_no_address_or_machine_path_is_committed() -> None:
    banned = re.compile(r"(?:^|[\s\"'(=])/(?:work|opt|root|home)/|pypi\.org|pythonhosted|npmjs")
    for pattern in ("*.py", "*.md", "*.toml", "*.yaml", "*.txt", "Makefile"):
        for path in ROOT.rglob(pattern):
            if any(part.startswith((".venv", "build", ".git", ".mypy")) for part in path.relative_to(ROOT).parts) or path.name == "test_structure.py":
                continue
            if path.relative_to(ROOT).parts[0] == "data" and path.suffix != ".md":
                continue
            match = banned.search(path.read_text(errors="replace"))
            assert match is None, f"{path} holds {match[0] if match else ''}"
