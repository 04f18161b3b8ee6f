"""Reference statistics as files, with the protocol that they were made by inside."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.errors import InputError
from eval.files import write_file
from eval.metrics.frechet import FeatureStatistics
from eval.untrusted import check_npz, parse_json

SUFFIX = ".npz"


@dataclass(frozen=True)
class ReferenceStatistics:
    """Mean and covariance of real images' features, and how they were made.

    Attributes:
        statistics: of the features.
        protocol: extractor, resizing, image size, count and content hash of the images; whatever else made them.
    """

    statistics: FeatureStatistics
    protocol: Mapping[str, Any]

    def save(self, path: str | Path) -> None:
        """Writes one .npz file, completely or not at all."""
        write_file(path, self.content())

    def content(self) -> bytes:
        """The content of the file that `save` writes."""
        out = io.BytesIO()
        s = self.statistics
        text = json.dumps(dict(self.protocol), ensure_ascii=False)
        np.savez(out, n=s.n, mean=s.mean, scatter=s.scatter, protocol=np.array(text))
        return out.getvalue()

    @classmethod
    def load(cls, path: str | Path) -> ReferenceStatistics:
        """Reads what `save` wrote.

        Raises:
            InputError: no such file, or something else.
        """
        try:
            check_npz(Path(path))
            with np.load(path, allow_pickle=False) as file:
                statistics = FeatureStatistics(float(file["n"]), file["mean"], file["scatter"])
                protocol = parse_json(str(file["protocol"]), "its protocol")
        except Exception as error:  # zip files, numpy and JSON each raise their own kinds
            reason = " ".join(str(error).split())[:120]
            raise InputError(f"cannot read the reference statistics {path} ({reason}); make them again") from error
        d = len(statistics.mean)
        if statistics.scatter.shape != (d, d) or not isinstance(protocol, dict):
            raise InputError(f"{path} holds no reference statistics; make them again")
        parts = (np.asarray(statistics.n), statistics.mean, statistics.scatter)
        if not all(part.dtype.kind in "fiu" and np.isfinite(part).all() for part in parts) or statistics.n < 1:
            raise InputError(f"{path}: its numbers are not finite; make the reference statistics again")
        return cls(statistics, protocol)

    def require(self, **wanted: Any) -> ReferenceStatistics:
        """Returns itself, if its protocol has the wanted values.

        Raises:
            InputError: it was made in another way; the message names the difference.
        """
        for key, value in wanted.items():
            if self.protocol.get(key) != value:
                raise InputError(
                    f"the reference statistics were made with {key} = {self.protocol.get(key)!r}, these samples are"
                    f" measured with {value!r}; make the reference again by the same protocol"
                )
        return self
