"""Generates the Python stubs beside the contract: `python proto/generate.py [OUTPUT_DIRECTORY]`.

Run it with the pinned generator only (`make proto`). Stubs made by a new grpcio-tools demand a new
protobuf at import; those made by 1.71.2 import on protobuf 5.29, 6 and 7, and a client library must
not dictate its host's protobuf.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import google.rpc
import grpc_tools
from grpc_tools import protoc

PINNED = {"grpcio-tools": "1.71.2", "mypy-protobuf": "3.6.0"}
ROOT = Path(__file__).parent


def main(output: Path) -> int:
    for package, pinned in PINNED.items():
        if version(package) != pinned:
            print(f"stubs need {package}=={pinned}, not {version(package)}", file=sys.stderr)
            return 1
    return int(
        protoc.main(
            [
                "protoc",
                f"-I{ROOT}",
                f"-I{Path(grpc_tools.__path__[0], '_proto')}",
                f"-I{Path(google.rpc.__path__[0]).parent.parent}",
                f"--python_out={output}",
                f"--grpc_python_out={output}",
                f"--mypy_out={output}",
                f"--mypy_grpc_out={output}",
                "adjudge/v1/reward.proto",
                "adjudge/v1/admin.proto",
            ]
        )
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT))
