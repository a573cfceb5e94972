"""``python -m k8slite``."""

from k8slite.cli.main import main

if __name__ == "__main__":
    main()
