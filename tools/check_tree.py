#!/usr/bin/env python3
"""Checks the rules of the tree that no compiler checks: who may include whom, one door a library, one type a name, no
paths of a machine.

Usage: check_tree.py [ROOT]. Prints one line a violation, "file:line: rule", and exits 1 if there is any.
"""
import pathlib
import re
import sys

# Folder -> folders whose headers it may include. The longest matching prefix is a file's folder.
MAY_INCLUDE = {
    "jit/base": {"jit/base"},
    "jit": {"jit/base", "jit"},
    "cache": {"jit/base", "jit", "cache"},
    "kernel_src": {"jit/base", "jit", "kernel_src", "kernel_src/args"},
    "kernel_src/args": {"kernel_src/args"},
    "models": {"jit/base", "models"},
    "runtime": {"jit/base", "jit", "cache", "kernel_src", "kernel_src/args", "models", "runtime"},
    "tools": {"jit/base", "jit", "cache", "kernel_src", "kernel_src/args", "models", "runtime", "tools"},
    # The reference shares no code with what it judges.
    "tests/reference": {"tests/reference"},
    "tests": {"jit/base", "jit", "cache", "kernel_src", "kernel_src/args", "models", "runtime", "tools", "tests", "tests/reference"},
}

# What -> (pattern of a line of code, files that may hold it). Tests are free to look behind the doors.
DOORS = {
    "NVRTC is called in jit/nvrtc and jit/compiler only":
        (r'#\s*include\s*<nvrtc\.h>|\bnvrtc[A-Z]\w*\s*\(', r"jit/(nvrtc|compiler)\w*\.(h|cpp)"),
    "cuda.h is included in jit/driver.h only":
        (r'#\s*include\s*<cuda\.h>', r"jit/driver\.h"),
    "libraries are opened in jit/ only":
        (r'\bdlopen\s*\(', r"jit/\w+\.cpp"),
    "xxHash is included in jit/base/hash only":
        (r'#\s*include\s*[<"]xxh', r"jit/base/hash\.(h|cpp)"),
    "libsodium is included in cache/signature only":
        (r'#\s*include\s*[<"]sodium', r"cache/signature\.(h|cpp)"),
    "the environment is read in runtime/options only":
        (r'\b(secure_)?getenv\s*\(|\benviron\b', r"runtime/options\w*\.(h|cpp)"),
    "CLI11 is included in tools/cli only":
        (r'#\s*include\s*[<"]CLI/', r"tools/cli\.(h|cpp)"),
    "PCRE2 and utf8proc are models' matter":
        (r'#\s*include\s*[<"](pcre2|utf8proc)', r"models/.*"),
    "stdout is written by tools only":
        (r'\bstd::cout\b|\bputs\s*\(|(?<![a-z_])printf\s*\(|\bstdout\b', r"tools/.*"),
}

# Device text: what the in-memory compiler sees.
DEVICE_INCLUDE = re.compile(r'#\s*include\s*"((?:device/)?\w+\.cuh|(?:args/)?\w+\.h)"')
PTX = re.compile(r'\basm\s*(volatile)?\s*\(')

# Somebody's home, this or that machine, or an address that only works inside one network.
MACHINE_PATH = re.compile(r'(?<![\w.])/(work|root|home/(?!(me|u|user)\b)\w+|Users/\w+)/|https?://(?!(\S*github\.com|git-lfs|example\.(com|org)|arxiv\.org|huggingface\.co|www\.apache\.org|opensource\.org|json-schema\.org|docs\.nvidia\.com)[/"\s])')

SOURCES = {".h", ".cpp", ".cu", ".cuh"}
TEXTS = SOURCES | {".py", ".sh", ".txt", ".md", ".toml", ".cmake", ".json", ".yml", ""}
HIDDEN_FOLDERS_OF_THE_PROJECT = {".ci"}
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
TYPE_DEFINITION = re.compile(r'^(?:struct|class|enum class) (\w+)(?: final)?(?: :[^;]*)? \{')   # of a namespace: not indented
BLOCK_COMMENT = re.compile(r'/\*.*?\*/', re.S)


def folder_of(path: str) -> str | None:
    """The entry of MAY_INCLUDE that `path` (relative, with slashes) belongs to."""
    fits = [f for f in MAY_INCLUDE if path.startswith(f + "/")]
    return max(fits, key=len) if fits else None


def code_of(text: str) -> list[str]:
    """Lines without comments and without the content of string literals (line numbers stay)."""
    text = BLOCK_COMMENT.sub(lambda m: "\n" * m.group().count("\n"), text)
    lines = []
    for line in text.split("\n"):
        is_include = INCLUDE.match(line)
        line = line if is_include else re.sub(r'"(\\.|[^"\\])*"', '""', line)
        lines.append(re.sub(r'//.*', '', line) if not is_include else line)
    return lines


def check_includes(path: str, lines: list[str]):
    if path.startswith("tests/softgpu/"):   # libraries of their own, built with their own include folders
        return
    folder = folder_of(path)
    for number, line in enumerate(lines, 1):
        found = INCLUDE.match(line)
        if not found or folder is None:
            continue
        target = found.group(1)
        if path.endswith((".cu", ".cuh")):
            if target != "sj_baked.h" and not DEVICE_INCLUDE.match(line.strip()):
                yield number, f'device text includes "{target}"; allowed are device/*.cuh, args/*.h and sj_baked.h'
            continue
        if path.startswith("tests/") and target.startswith(("support/", "reference/")):   # tests/ is on their include path
            target = "tests/" + target
        if path.startswith("kernel_src/args/") and target.startswith("args/"):   # as NVRTC finds it: device text reads it too
            target = "kernel_src/" + target
        target_folder = folder_of(target)
        if target_folder is None:
            if "/" in target and not target.startswith("generated/"):
                yield number, f'"{target}" is in no folder of the project'
        elif target_folder not in MAY_INCLUDE[folder]:
            yield number, f'{folder} must not include {target_folder} ("{target}")'


def check_doors(path: str, lines: list[str]):
    if path.startswith("tests/"):
        return
    for rule, (pattern, allowed) in DOORS.items():
        if re.fullmatch(allowed, path):
            continue
        for number, line in enumerate(lines, 1):
            if re.search(pattern, line):
                yield number, rule


def check_device_text(path: str, lines: list[str]):
    for number, line in enumerate(lines, 1):
        if PTX.search(line) and not re.fullmatch(r"kernel_src/device/ptx\w*\.cuh", path):
            yield number, "inline PTX lives in kernel_src/device/ptx*.cuh"
        if re.search(r'#\s*include\s*<', line):
            yield number, "device text includes no system header"


def check_pairs(root: pathlib.Path):
    """A kernel is a text and a spec that names it."""
    specs = "".join(path.read_text(encoding="utf-8") for path in sorted((root / "kernel_src").glob("*_spec.cpp")))
    for text in sorted((root / "kernel_src").glob("*.cu")):
        if f'"{text.name}"' not in specs:
            yield f"kernel_src/{text.name}", 1, "no *_spec.cpp in kernel_src names it"


def check_type_names(root: pathlib.Path):
    """Two types of one name are one type to the linker, whichever it keeps: headers of the product define a name once."""
    homes: dict[str, str] = {}
    for path, name in files_of(root):
        if path.suffix != ".h" or folder_of(name) is None or name.startswith("tests/"):
            continue
        for number, line in enumerate(code_of(path.read_text(encoding="utf-8")), 1):
            found = TYPE_DEFINITION.match(line)
            if found and homes.setdefault(found[1], name) != name:
                yield name, number, f"{homes[found[1]]} defines a type {found[1]} too"


def files_of(root: pathlib.Path):
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        top = relative.parts[0]
        is_hidden_folder = len(relative.parts) > 1 and top.startswith(".") and top not in HIDDEN_FOLDERS_OF_THE_PROJECT
        if is_hidden_folder or top.startswith("build") or "__pycache__" in relative.parts:
            continue
        if path.is_file() and path.suffix in TEXTS and path.stat().st_size < 2_000_000:
            yield path, relative.as_posix()


def violations(root: pathlib.Path):
    for path, name in files_of(root):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if name != "tools/check_tree.py":
            for number, line in enumerate(text.split("\n"), 1):
                if MACHINE_PATH.search(line):
                    yield name, number, "names a path or an address of some machine"
        if path.suffix not in SOURCES:
            continue
        lines = code_of(text)
        checks = [check_includes, check_doors]
        if path.suffix in (".cu", ".cuh"):
            checks.append(check_device_text)
        for check in checks:
            for number, rule in check(name, lines):
                yield name, number, rule
    yield from check_pairs(root)
    yield from check_type_names(root)


def main() -> int:
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent).resolve()
    found = list(violations(root))
    for name, number, rule in found:
        print(f"{name}:{number}: {rule}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
