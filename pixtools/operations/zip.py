from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable
from typing import IO

from pixtools.operations.base.kinds import Bundler, Entry, Params

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same entries give the same bytes


class Zip(Params):
    pass


def run(entries: Iterable[Entry], out: IO[bytes], params: Zip) -> None:  # noqa: ARG001
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as bundle:  # its entries are compressed already
        for entry in entries:
            info = zipfile.ZipInfo(entry.name, _EPOCH)
            info.external_attr = 0o644 << 16
            with entry.open() as source, bundle.open(info, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)


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
