"""pgAdmin's application, in server mode unless the configuration says otherwise."""

import builtins

builtins.SERVER_MODE = True

from pgAdmin4 import app  # noqa: E402
from start import finish_launch  # noqa: E402

finish_launch(app)
