"""ZIP bundles (PKWARE APPNOTE), written with Python's `zipfile`. Entries are stored without compression."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable
from typing import IO

from pixtools.operations.base.kinds import BundleEntry, Bundler
from pixtools.operations.base.params import Params

# The earliest date that a ZIP can store. With a fixed date, equal entries give equal bytes.
_DATE = (1980, 1, 1, 0, 0, 0)
_BLOCK_BYTES = 1 << 20


class Zip(Params):
    """ZIP has no parameters."""


def run(entries: Iterable[BundleEntry], out: IO[bytes], params: Zip) -> None:  # noqa: ARG001
    """Write the entries to `out`, in the given order. Only one entry is open at a time."""
    # No compression, because almost all entries are image files, which are compressed already.
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as bundle:
        for entry in entries:
            info = zipfile.ZipInfo(entry.name, _DATE)
            info.external_attr = 0o644 << 16  # file mode: the owner may write, all may read
            with entry.open() as source, bundle.open(info, "w") as target:
                shutil.copyfileobj(source, target, _BLOCK_BYTES)


ZIP = Bundler(
    name="zip",
    title="ZIP",
    summary="Bundles the results of other steps in one download.",
    version=1,
    params=Zip,
    run=run,
    media_type="application/zip",
    extension="zip",
)
