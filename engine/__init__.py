"""The engine: everything but the window. Nothing below this folder imports gradio or ui."""

import logging

# diffusers imports bitsandbytes wherever it is installed, and on some processors that logs a warning about an optional
# kernel of its own. It means nothing to a user who trains, and nothing else is logged there.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
