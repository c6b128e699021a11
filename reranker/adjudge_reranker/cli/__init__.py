"""The command `adjudge`. Its libraries are an extra, so nothing else may import from here."""

import sys


def main() -> None:
    """Runs the command; exits with 2 and one clear line if its libraries are missing."""
    try:
        from adjudge_reranker.cli.commands import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich", "grpc_health"):
            raise
        print("adjudge: the command needs more: pip install 'adjudge[cli]'", file=sys.stderr)
        raise SystemExit(2) from None
    app(prog_name="adjudge")
