"""Real certificates for tests, made by the example that shows how to make them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

EXAMPLE = Path(__file__).parent.parent / "examples" / "make_certificates.py"
LOCAL = ("127.0.0.1", "localhost", "::1")


def _example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_certificates", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


making = _example()


class Certificates:
    """Of one authority, in a directory; the authority of `another` is one that nobody trusts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.authority = making.authority()
        self.authority.save(directory, "ca")

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    def server(self, name: str = "server", hosts: tuple[str, ...] = LOCAL, days: float = 1) -> str:
        """Makes or renews it. Returns its name, for `pem` and `key`."""
        making.issued(self.authority, name, making.SERVER, hosts, days).save(self.directory, name)
        return name

    def client(self, name: str = "client", days: float = 1) -> str:
        making.issued(self.authority, name, making.CLIENT, (), days).save(self.directory, name)
        return name

    def pem(self, name: str) -> Path:
        return self.directory / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    def serial(self, name: str) -> int:
        return making.load(self.directory, name).certificate.serial_number

    def another(self) -> "Certificates":
        return Certificates(self.directory / "another")
