"""`python -m app`: the same as `tandem`."""

from app.cli import main

if __name__ == "__main__":
    main(prog_name="tandem")
