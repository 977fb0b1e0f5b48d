"""Whether torch can compile for this CPU."""

import os
import secrets
import shutil
import warnings
from functools import cache


@cache
def has_compiler() -> bool:
    """Whether torch's compiler can make code for this CPU: a C++ compiler is there, and what it makes can be loaded.

    Tried once a process (about a second) on one line of code, since headers of Python or OpenMP may be missing, or the
    cache may lie on a disk that runs no programs. A compiler that fails is warned of by the first process of a machine.
    """
    if not any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "g++", "clang++")):
        return False
    try:
        compile_a_line()
    except Exception as error:  # torch raises many kinds, its own and the system's
        if os.environ.get("LOCAL_RANK", "0") == "0":
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"the C++ compiler does not work ({reason}); going on without it, slower", stacklevel=2)
        return False
    return True


def compile_a_line() -> None:
    """Compiles and loads a function as torch does with its kernels, past its cache; raises where that fails."""
    from torch._inductor.codecache import CppPythonBindingsCodeCache  # takes two seconds to import

    number = secrets.token_hex(8)  # what an earlier process compiled would be loaded without a compiler
    source = f"""#include <torch/csrc/inductor/cpp_prefix.h>
        extern "C" void kernel(const float* in_ptr0, float* out_ptr0) {{ out_ptr0[0] = in_ptr0[0]; }}  // {number}"""
    CppPythonBindingsCodeCache.load_pybinding(["const float*", "float*"], source)
