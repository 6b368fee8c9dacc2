"""``python -m climp_bench``."""

from climp_bench.cli.main import main

if __name__ == "__main__":
    main()
