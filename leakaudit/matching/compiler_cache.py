"""Where Inductor keeps what it compiled: a folder that no other user can write.

By default it is ``torchinductor_USER`` in the temporary folder, which is shared: whoever makes a folder of that name
first could put libraries there that torch loads.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from leakaudit.safety.ownership import reason_against


def secure_compiler_cache() -> None:
    """Lead Inductor away from a folder that another user can write, into one that is removed at the end of the program.

    ``$TORCHINDUCTOR_CACHE_DIR`` is the user's own choice, and stays.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if "TORCHINDUCTOR_CACHE_DIR" in os.environ or not hasattr(os, "geteuid"):
        return
    folder = Path(default_cache_dir())
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        refused = folder.is_symlink() or reason_against(folder.lstat())
    except OSError:
        refused = True
    if refused:
        own = tempfile.mkdtemp(prefix="leakaudit-compiled-")
        atexit.register(shutil.rmtree, own, ignore_errors=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = own
