"""The dataset check: finds problems of images, captions and condition maps, and fixes some."""
