"""``python -m robassay.cli``"""

from robassay.cli import main

if __name__ == "__main__":
    main()
