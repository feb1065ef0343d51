"""`faregate` and `python -m faregate.runtime`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; say which extra is missing when only the SDK is installed."""
    try:
        from faregate.runtime.cli import run_cli
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("faregate"):
            raise
        sys.stderr.write(
            f"faregate: {error.name} is not installed. The command line needs the engine: "
            "pip install 'faregate[engine]' (or 'faregate[stack]' for Kafka and PostgreSQL too)\n"
        )
        sys.exit(2)
    sys.exit(run_cli())


if __name__ == "__main__":
    main()
