"""zlib compared with zlib-ng, isa-l and libdeflate: `make bench-deflaters`.

JSON of three sizes is deflated and inflated message by message, like permessage-deflate without
context takeover, in C (programs/deflaters.c). The results are medians of the CPU time per message.
"""

from __future__ import annotations

import argparse
import ctypes
import zlib
from pathlib import Path
from statistics import median

from messages import json_message
from zlib_ng import zlib_ng

BUILD = Path(__file__).parent / "build"
SIZES = [256, 4 << 10, 64 << 10]
FUNCTIONS = ["deflate", "deflateReset", "inflate", "inflateReset", "deflateInit2", "inflateInit2"]
WAYS = [("zlib", 1), ("zlib-ng", 1), ("zlib-ng", 2), ("isa-l", 0), ("isa-l", 1), ("libdeflate", 1)]


class Functions(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in FUNCTIONS]


def functions_of_zlib_ng() -> Functions:
    library = ctypes.CDLL(zlib_ng.__file__)
    return Functions(
        *[ctypes.cast(getattr(library, f"zng_{name}"), ctypes.c_void_p) for name in FUNCTIONS]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    library = ctypes.CDLL(str(BUILD / "deflaters.so"))
    functions = {
        "zlib": Functions.in_dll(library, "zlib"),
        "zlib-ng": functions_of_zlib_ng(),
    }

    def measure(name: str, level: int, message: bytes) -> tuple[float, float, int]:
        deflate, inflate, shrunk = ctypes.c_double(), ctypes.c_double(), ctypes.c_size_t()
        is_correct = library.measure(
            name.encode(),
            ctypes.byref(functions.get(name, functions["zlib"])),
            message,
            ctypes.c_size_t(len(message)),
            level,
            max(20, (8 << 20) // len(message) // 10),
            ctypes.byref(deflate),
            ctypes.byref(inflate),
            ctypes.byref(shrunk),
        )
        assert is_correct, name
        return deflate.value, inflate.value, shrunk.value

    print(f"zlib {zlib.ZLIB_RUNTIME_VERSION}, zlib-ng {zlib_ng.ZLIBNG_RUNTIME_VERSION}")
    for size in SIZES:
        message = json_message(size)
        rounds = [[measure(*way, message) for way in WAYS] for _ in range(options.rounds)]
        print(f"\n{size} bytes of JSON        deflate    inflate   together  bytes")
        for number, (library_name, level) in enumerate(WAYS):
            deflate = median(one[number][0] for one in rounds)
            inflate = median(one[number][1] for one in rounds)
            ratio = median(sum(one[number][:2]) / sum(one[0][:2]) for one in rounds)
            shrunk = rounds[0][number][2]
            label = f"{library_name}, level {level}"
            print(f"{label:22} {deflate:7.1f} µs {inflate:7.1f} µs {ratio:7.2f} × {shrunk:8}")


main()
