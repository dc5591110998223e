"""Dataset configs of other trainers, given as the source or lying in the folder that was chosen.

``tools.py`` reads what each trainer writes, ``layout.py`` makes images, maps and captions of it.
"""
