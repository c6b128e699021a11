"""`python -m adjudge_reranker.cli`, the same as `adjudge`."""

from adjudge_reranker.cli import main

if __name__ == "__main__":
    main()
