"""Structures that Python fills and C++ reads: the compiler tells sizes and places of the fields."""

import ctypes
import subprocess
from pathlib import Path

import pytest

from cgfe import native
from cgfe.all_atom import batched, bias_table
from cgfe.kernels import simulation, training

STRUCTURES = {
    ("simulation", "Sizes"): simulation._Sizes,
    ("simulation", "Dynamics"): simulation.Dynamics,
    ("training", "Sizes"): training._Sizes,
    ("peptide", "PeptideSizes"): batched._Sizes,
    ("peptide", "Steps"): batched._Steps,
    ("peptide", "Walkers"): batched._State,
    ("peptide", "Bias"): bias_table._Bias,
}


@pytest.mark.parametrize("source", ["simulation", "training", "peptide"])
def test_fields_lie_where_the_kernel_reads_them(source: str, tmp_path: Path) -> None:
    compiler = native._compiler()
    if compiler is None:
        pytest.skip("no C++ compiler")
    text = native._with_headers((Path(native.__file__).parent / f"{source}.cpp").read_text())
    wanted, lines = [], []
    for (name, structure), ours in STRUCTURES.items():
        if name != source:
            continue
        wanted.append(ctypes.sizeof(ours))
        lines.append(f"sizeof({structure})")
        for field, *_ in ours._fields_:
            place = getattr(ours, field)
            wanted += [place.offset, place.size]
            lines += [f"offsetof({structure}, {field})", f"sizeof({structure}::{field})"]
    asked = "".join(f'    std::printf("%zu\\n", size_t({line}));\n' for line in lines)
    text += f"\n#include <cstddef>\n#include <cstdio>\nint main() {{\n{asked}}}\n"
    flags = ["-O0", "-march=native", "-std=c++17", "-fopenmp", "-w", "-x", "c++", "-"]
    subprocess.run(
        [*compiler, *flags, "-o", str(tmp_path / "asked")], input=text, text=True, check=True
    )
    done = subprocess.run([tmp_path / "asked"], capture_output=True, text=True, check=True)
    found = dict(zip(lines, map(int, done.stdout.split()), strict=True))
    assert found == dict(zip(lines, wanted, strict=True))
