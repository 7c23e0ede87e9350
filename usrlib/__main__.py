"""`python -m usrlib photo.jpg out.png --scale 2`: the command line of `upscaling`."""

from .upscaling import main

if __name__ == "__main__":
    main()
