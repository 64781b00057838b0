"""One place that knows every method. Packages add theirs by an entry point in the group `tabvae.synthesizers`."""

from __future__ import annotations

import difflib
import os
from importlib import import_module, metadata
from pathlib import Path

from tabvae_core.bundle import read_header
from tabvae_core.errors import ModelFileError, SpecError
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import Synthesizer

__all__ = ["create", "find", "load_bundle", "methods", "private_methods"]

ENTRY_POINTS = "tabvae.synthesizers"
_OURS = {
    "vae": "tabvae_core.synthesizers.vae:VAESynthesizer",
    "vae_basic": "tabvae_core.synthesizers.vae_basic:BasicVAESynthesizer",
    "gaussian_copula": "tabvae_core.synthesizers.gaussian_copula:GaussianCopulaSynthesizer",
    "copula_vae": "tabvae_core.synthesizers.copula_vae:CopulaVAESynthesizer",
    "ctgan": "tabvae_core.synthesizers.ctgan:CTGANSynthesizer",
    "tabddpm": "tabvae_core.synthesizers.tabddpm:TabDDPMSynthesizer",
    "dp_marginals": "tabvae_core.synthesizers.dp_marginals:DPMarginalsSynthesizer",
}


def methods() -> tuple[str, ...]:
    """Names of all methods, ours first."""
    theirs = sorted(point.name for point in metadata.entry_points(group=ENTRY_POINTS) if point.name not in _OURS)
    return (*_OURS, *theirs)


def private_methods() -> tuple[str, ...]:
    """Names of the methods that have differential privacy."""
    return tuple(method for method in methods() if find(method).private)


def find(method: str) -> type[Synthesizer]:
    """Find a method's class; it is imported here and not before.

    Raises:
        SpecError: There is no such method, or a package's entry point is no synthesizer.

    """
    if method in _OURS:
        _wait_passively()
        module, _, name = _OURS[method].partition(":")
        ours: type[Synthesizer] = getattr(import_module(module), name)
        return ours
    for point in metadata.entry_points(group=ENTRY_POINTS, name=method):
        found = point.load()
        if not (isinstance(found, type) and issubclass(found, Synthesizer)):
            raise SpecError(f"method {method!r}: entry point {point.value} is not a Synthesizer")
        return found
    close = difflib.get_close_matches(method, methods(), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"methods: {', '.join(methods())}"
    raise SpecError(f"there is no method {method!r}", hint=hint)


def _wait_passively() -> None:
    """Let threads that wait for each other sleep instead of spin, unless the user chose otherwise.

    On two cores shared with one other busy process, spinning made training six times slower (186 s against 30 s for
    the same two epochs). OpenMP reads the setting when torch is first loaded, so it stands before that.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def create(method: str, model: ModelSpec, privacy: PrivacySpec) -> Synthesizer:
    """Make a synthesizer that has learned nothing yet."""
    return find(method)(model, privacy)


def load_bundle(folder: Path) -> Synthesizer:
    """Load a bundle with the class of its method.

    Raises:
        ModelFileError: The bundle is missing, damaged, or of a method that is not installed.

    """
    method = str(read_header(folder).get("method"))
    try:
        kind = find(method)
    except SpecError:
        raise ModelFileError(
            f"the bundle in {folder} is of method {method!r}, which is not installed",
            hint="install the package that brings it",
        ) from None
    return kind.load(folder)
