"""Each rule of check_tree.py finds its violation in a made-up tree, and nothing else."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "tools" / "check_tree.py"


def check(files: dict[str, str]) -> tuple[int, str]:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = pathlib.Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = subprocess.run([sys.executable, str(SCRIPT), folder], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout


class CheckTree(unittest.TestCase):
    def expect(self, files: dict[str, str], *lines: str):
        code, output = check(files)
        self.assertEqual(output, "".join(line + "\n" for line in lines))
        self.assertEqual(code, 1 if lines else 0)

    def test_accepts_includes_along_the_arrows(self):
        self.expect({"runtime/a.cpp": '#include "models/b.h"\n#include "jit/base/error.h"\n#include <vector>\n',
                     "tests/models/b_test.cpp": '#include "models/b.h"\n#include "tests/reference/ops.h"\n'})

    def test_refuses_an_include_against_the_arrows(self):
        self.expect({"models/a.cpp": '\n#include "jit/driver.h"\n'}, 'models/a.cpp:2: models must not include jit ("jit/driver.h")')

    def test_refuses_that_base_includes_its_user(self):
        self.expect({"jit/base/a.h": '#include "jit/driver.h"\n'},
                    'jit/base/a.h:1: jit/base must not include jit ("jit/driver.h")')

    def test_refuses_that_the_reference_includes_the_project(self):
        self.expect({"tests/reference/a.h": '#include "models/op.h"\n'},
                    'tests/reference/a.h:1: tests/reference must not include models ("models/op.h")')

    def test_refuses_system_headers_in_device_text(self):
        self.expect({"kernel_src/a.cu": "#include <cuda_fp16.h>\n", "kernel_src/a_spec.cpp": '.source = "a.cu"'},
                    "kernel_src/a.cu:1: device text includes no system header")

    def test_refuses_ptx_outside_of_its_file(self):
        self.expect({"kernel_src/device/ptx.cuh": 'asm volatile("x;");\n', "kernel_src/device/mma.cuh": 'asm("x;");\n'},
                    "kernel_src/device/mma.cuh:1: inline PTX lives in kernel_src/device/ptx*.cuh")

    def test_refuses_a_kernel_without_spec(self):
        self.expect({"kernel_src/a.cu": ""}, "kernel_src/a.cu:1: no *_spec.cpp in kernel_src names it")

    def test_refuses_two_types_of_one_name(self):
        self.expect({"models/a.h": "struct Plan {\n};\n", "runtime/b.h": "struct Plan;\n\nclass Plan final {\n};\nstruct Other { struct Plan {}; };\n"},
                    "runtime/b.h:3: models/a.h defines a type Plan too")

    def test_refuses_a_second_door(self):
        self.expect({"cache/a.cpp": 'const char* home = std::getenv("HOME");\n', "runtime/options.cpp": 'getenv("HOME");\n'},
                    "cache/a.cpp:1: the environment is read in runtime/options only")

    def test_ignores_comments_and_strings(self):
        self.expect({"cache/a.cpp": '// getenv("HOME") is not called here\nauto s = "printf(";\n'})

    def test_refuses_printing_outside_of_tools(self):
        self.expect({"runtime/a.cpp": 'printf("x");\nfprintf(stderr, "x");\nsnprintf(b, 1, "x");\n'},
                    "runtime/a.cpp:1: stdout is written by tools only")

    def test_refuses_paths_of_a_machine(self):
        home = "/ho" + "me/someone/models"
        self.expect({"README.md": f"look at {home}/m.gguf\n", "build/x.txt": f"{home}/m.gguf\n"},
                    "README.md:1: names a path or an address of some machine")


if __name__ == "__main__":
    unittest.main()
