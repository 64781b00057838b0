"""Access to stores and disks: file systems, credentials, errors in plain words, objects, folders.

Everything goes through fsspec. A file system is made per process, because the event loop of s3fs does not
survive a fork, and it never caches listings, because other writers put objects too.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tabvae_core.errors import DataError, SpecError, StorageError, TabvaeError
from tabvae_core.spec import StorageSpec

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = [
    "Credentials",
    "S3Access",
    "StoreOptions",
    "check_writable",
    "copy_file",
    "copy_tree",
    "exists",
    "file_sha256",
    "filesystem",
    "is_local",
    "join_uri",
    "list_folder",
    "read_bytes",
    "read_json",
    "register_credentials",
    "remove_file",
    "remove_tree",
    "s3_access",
    "safe_uri",
    "storage_errors",
    "write_bytes",
    "write_json",
]

CHUNK_BYTES = 8 << 20
CONNECT_SECONDS = 5
READ_SECONDS = 60
# Tries of one request, botocore's and s3fs's own: a refused connection is reported within seconds, while one
# lost packet or one "slow down" does not end a run.
_TRIES = 3
_S3_SCHEMES = ("s3", "s3a")


# ---------------------------------------------------------------- names of places


def _scheme(uri: str) -> str:
    head, separator, _ = uri.partition("://")
    return head.lower() if separator and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", head) else "file"


def is_local(uri: str) -> bool:
    """Say whether a URI is a path on this machine's disks."""
    return _scheme(uri) in ("file", "local")


def safe_uri(uri: str) -> str:
    """Return a URI for messages: without user, password or query, which can carry secrets."""
    if "://" not in uri:
        return uri
    scheme, rest = uri.split("://", 1)
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rsplit('@', 1)[-1]}{slash}{path.split('?', 1)[0]}"


def join_uri(uri: str, *parts: str) -> str:
    """Name a place below a folder, with exactly one slash between the parts."""
    return "/".join([uri.rstrip("/") or "/", *(part.strip("/") for part in parts)])


# ---------------------------------------------------------------- credentials


@dataclass(frozen=True)
class Credentials:
    """Keys of an S3-compatible store, and optionally where it is. The secrets stay out of its repr."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    endpoint_url: str | None = None
    """Used when the spec and the environment name none."""
    region: str | None = None


@dataclass(frozen=True)
class StoreOptions:
    """Access to a store of any kind, in the words of its fsspec package. Secrets stay out of its repr."""

    options: Mapping[str, Any] = field(repr=False)
    """Such as `{"account_name": ..., "account_key": ...}` of adlfs, or `{"key": ..., "secret": ...}` of s3fs."""


Access = Credentials | StoreOptions
_RESOLVERS: dict[str, Callable[[str], Access]] = {}


def register_credentials(scheme_name: str, resolver: Callable[[str], Access]) -> None:
    """Teach this process where credentials of the form `scheme_name:NAME` come from.

    Args:
        scheme_name: Part before the colon of `storage.credentials`, such as "block".
        resolver: Takes the part after the colon, returns the credentials; a `TabvaeError` it raises passes
            unchanged.

    """
    _RESOLVERS[scheme_name] = resolver


def _from_variables(prefix: str) -> Credentials:
    names = (f"{prefix}_ACCESS_KEY_ID", f"{prefix}_SECRET_ACCESS_KEY")
    if missing := [name for name in names if not os.environ.get(name)]:
        raise SpecError(
            f"storage.credentials is env:{prefix}, however the environment lacks {' and '.join(missing)}",
            hint="set the variable where the run executes, or name other credentials",
        )
    return Credentials(os.environ[names[0]], os.environ[names[1]], os.environ.get(f"{prefix}_SESSION_TOKEN") or None)


def _resolve(reference: str) -> Access | None:
    """Return the credentials that a reference names; None: the usual AWS variables and profiles."""
    kind, _, name = reference.partition(":")
    if kind in ("environment", "anonymous"):
        return None
    if kind == "env":
        return _from_variables(name)
    if kind not in _RESOLVERS:
        raise SpecError(
            f"storage.credentials is {reference}: blocks need Prefect, which is not in use here",
            hint='run it through the flow, `pip install "tabvae[prefect]"`, or use env:PREFIX or environment',
        )
    return _RESOLVERS[kind](name)


# ---------------------------------------------------------------- file systems

_Key = tuple[int, str, str, bool]
_OPEN: dict[_Key, AbstractFileSystem] = {}


def filesystem(uri: str, storage: StorageSpec | None = None, *, retries: bool = True) -> tuple[AbstractFileSystem, str]:
    """Open the file system that a URI lies on.

    Args:
        uri: A local path, `file://`, `s3://`, or any URL that fsspec opens.
        storage: Endpoint and credentials of an S3 store.
        retries: False sends each request once, for writes whose outcome must be known.

    Returns:
        The file system, and the path on it, without scheme and trailing slash.

    Raises:
        SpecError: Unknown scheme, a missing package for it, or credentials that cannot be resolved.

    """
    scheme = _scheme(uri)
    if is_local(uri):
        return _local(), os.path.abspath(os.path.expanduser(re.sub(r"^(file|local)://", "", uri)))
    if scheme in _S3_SCHEMES:
        path = uri.split("://", 1)[1].strip("/")
        if not path:
            raise SpecError(f"{safe_uri(uri)} names no bucket", hint="write s3://BUCKET/FOLDER")
        return _s3(storage or StorageSpec(), retries), path
    return _other(uri, scheme, storage or StorageSpec())


def _local() -> AbstractFileSystem:
    from fsspec.implementations.local import LocalFileSystem

    return LocalFileSystem(auto_mkdir=True)


def _other(uri: str, scheme: str, storage: StorageSpec) -> tuple[AbstractFileSystem, str]:
    from fsspec.core import url_to_fs

    # Keys of an S3 store mean nothing to another one, which finds its own in the environment.
    access = _resolve(storage.credentials) if storage.credentials.startswith("block:") else None
    options = access.options if isinstance(access, StoreOptions) else {}
    try:
        fs, path = url_to_fs(uri, **{"use_listings_cache": False, **options})
    except ImportError:
        raise SpecError(
            f"{safe_uri(uri)} needs a package that is not installed",
            hint=f"install fsspec's package for {scheme}://",
        ) from None
    except ValueError:
        raise SpecError(
            f"{safe_uri(uri)}: fsspec knows no storage called {scheme}://",
            hint="use a local path, file://, s3://, or install the package that brings it",
        ) from None
    except TypeError as error:
        # What is said of an unknown or missing option is its name, never its value.
        raise SpecError(
            f"{safe_uri(uri)}: {error}", hint="name the storage's options in a tabvae-lake block of Prefect"
        ) from None
    return fs, str(path).rstrip("/")


@dataclass(frozen=True)
class S3Access:
    """How an S3 store is reached, after spec, credentials and environment were asked in turn."""

    endpoint_url: str | None
    region: str | None
    credentials: Credentials | None
    """None: the usual AWS variables and profiles."""
    anonymous: bool


def s3_access(storage: StorageSpec) -> S3Access:
    """Find out how an S3 store is reached.

    Raises:
        SpecError: Credentials that cannot be resolved.

    """
    access = _resolve(storage.credentials)
    credentials = _s3_keys(access.options, storage.credentials) if isinstance(access, StoreOptions) else access
    environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    endpoint = storage.endpoint_url or (credentials and credentials.endpoint_url) or environment
    region = storage.region or (credentials and credentials.region) or _region(endpoint)
    return S3Access(endpoint, region, credentials, storage.credentials == "anonymous")


def _s3(storage: StorageSpec, retries: bool) -> AbstractFileSystem:
    access = s3_access(storage)
    credentials = access.credentials
    secrets = (
        repr((credentials.access_key_id, credentials.secret_access_key, credentials.session_token))
        if credentials
        else repr(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
    )
    place = repr((access.endpoint_url, access.region, storage.credentials))
    key = (os.getpid(), place, hashlib.sha256(secrets.encode()).hexdigest(), retries)
    if key not in _OPEN:
        _OPEN[key] = _connect(access.endpoint_url, access.region, credentials, access.anonymous, retries)
    return _OPEN[key]


def _s3_keys(options: Mapping[str, Any], reference: str) -> Credentials:
    """Read the names that s3fs gives to keys, endpoint and region."""
    known = {"key", "secret", "token", "endpoint_url", "region"}
    if set(options) - known or not {"key", "secret"} <= set(options):
        raise SpecError(
            f"storage.credentials is {reference}, whose options are {', '.join(sorted(options)) or 'none'}",
            hint="for s3:// they are key and secret, and may be token, endpoint_url and region",
        )
    return Credentials(
        options["key"], options["secret"], options.get("token"), options.get("endpoint_url"), options.get("region")
    )


def _region(endpoint: str | None) -> str | None:
    named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    # A store of one's own has no regions, yet a signature needs a name; AWS's first one is what such stores
    # expect.
    return named or ("us-east-1" if endpoint else None)


def _connect(
    endpoint: str | None, region: str | None, credentials: Credentials | None, anonymous: bool, retries: bool
) -> AbstractFileSystem:
    import s3fs

    client: dict[str, Any] = {"endpoint_url": endpoint, "region_name": region}
    config = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "retries": {"mode": "standard", "total_max_attempts": _TRIES if retries else 1},
        # Stores other than AWS refuse or mangle the checksums that botocore adds to every request since 1.36.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    fs = s3fs.S3FileSystem(
        anon=anonymous,
        key=credentials.access_key_id if credentials else None,
        secret=credentials.secret_access_key if credentials else None,
        token=credentials.session_token if credentials else None,
        client_kwargs={name: value for name, value in client.items() if value},
        config_kwargs=config,
        use_listings_cache=False,
        skip_instance_cache=True,
        default_cache_type="none",
    )
    fs.retries = _TRIES if retries else 1
    return fs


# ---------------------------------------------------------------- errors in plain words

_ENDPOINT = "the endpoint (`storage.endpoint_url` of the spec, --endpoint-url)"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR}
_REJECTED_KEYS = {
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
    "InvalidToken",
    "ExpiredToken",
    "AuthorizationHeaderMalformed",
    "RequestTimeTooSkewed",
}
_UNREACHABLE = {"EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "SSLError"}
_UNREACHABLE |= {"ClientConnectorError", "ClientConnectorDNSError", "ConnectionRefusedError"}
_INTERRUPTED = {
    "ReadTimeoutError",
    "ConnectionClosedError",
    "HTTPClientError",
    "FSTimeoutError",
    "TimeoutError",
}
_INTERRUPTED |= {
    "IncompleteReadError",
    "ResponseStreamingError",
    "ClientPayloadError",
    "ServerDisconnectedError",
}
_INTERRUPTED |= {"ConnectionResetError", "BrokenPipeError", "ConnectionAbortedError", "ConnectionError"}
_NO_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "CredentialRetrievalError",
}
_NO_CREDENTIALS |= {
    "TokenRetrievalError",
    "NoAuthTokenError",
    "SSOTokenLoadError",
    "UnauthorizedSSOTokenError",
}


@contextmanager
def storage_errors(uri: str, *, missing: type[TabvaeError] = StorageError) -> Iterator[None]:
    """Turn what fsspec, botocore and the operating system raise into one clear line.

    Args:
        uri: What was being read or written.
        missing: Kind of error when it does not exist; `DataError` for a source.

    Raises:
        StorageError: Credentials, network, permission, space.
        TabvaeError: Of the kind `missing`, when the object, folder or bucket is not there.

    """
    try:
        yield
    except TabvaeError:
        raise
    except Exception as error:
        translated = _translate(error, safe_uri(uri), missing)
        if translated is None:
            raise
        raise translated from None


def response_code(error: BaseException) -> str:
    """Return the store's own error code, such as "NoSuchBucket" or "412"; empty when no store answered."""
    for link in (error, error.__cause__):
        response = getattr(link, "response", None)
        if isinstance(response, Mapping) and "Error" in response:
            return str(response["Error"].get("Code", ""))
    return ""


def _translate(error: Exception, where: str, missing: type[TabvaeError]) -> TabvaeError | None:
    """Say an error in plain words; None for one that is not about storage."""
    name = type(error).__name__
    number = _errno(error)
    code = response_code(error)
    if code == "NoSuchBucket":
        bucket = where.split("://", 1)[-1].split("/", 1)[0]
        return missing(f"{where}: the bucket {bucket!r} does not exist", hint=f"check its name and {_ENDPOINT}")
    if name in _NO_CREDENTIALS:
        return StorageError(
            f"{where}: no usable credentials were found ({name})",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name them in `storage.credentials`",
        )
    if code in _REJECTED_KEYS:
        return StorageError(
            f"{where}: the store rejected the credentials ({code})",
            hint="check access key, secret and the clock",
        )
    if isinstance(error, FileNotFoundError | NotADirectoryError) or number in _NOT_THERE:
        hint = "check the path" if is_local(where) else f"check the path and {_ENDPOINT}"
        return missing(f"{where} {'lies below a file' if number == errno.ENOTDIR else 'does not exist'}", hint=hint)
    if isinstance(error, PermissionError) or number in _DENIED:
        detail = {errno.EROFS: "the file system is read-only"}.get(number or 0, "access was denied")
        who = "that this user" if is_local(where) else "the credentials, and that they"
        return StorageError(
            f"{where}: {detail}{f' ({code})' if code else ''}", hint=f"check {who} may read or write there"
        )
    if number in _NO_SPACE:
        detail = "a file grew beyond the size allowed" if number == errno.EFBIG else "no space is left"
        return StorageError(f"{where}: {detail}", hint="free space or choose another place, then run again")
    if name in _UNREACHABLE:
        return StorageError(
            f"{where}: the store cannot be reached ({name})",
            hint=f"check {_ENDPOINT}, and that it is running",
        )
    if name in _INTERRUPTED:
        return StorageError(f"{where}: the connection to the store broke off ({name})", hint="run again")
    return _translate_rest(error, where, code)


def _errno(error: Exception) -> int | None:
    """The system's number of an error; safetensors, written in Rust, has it in its text alone."""
    if isinstance(error, OSError):
        return error.errno
    if type(error).__name__ == "SafetensorError" and (found := re.search(r"\(os error (\d+)\)", str(error))):
        return int(found[1])
    return None


def _translate_rest(error: Exception, where: str, code: str) -> TabvaeError | None:
    from botocore.exceptions import BotoCoreError, ClientError

    name = type(error).__name__
    if isinstance(error, IsADirectoryError):
        return StorageError(f"{where} is a folder, a file was expected", hint="name a file")
    if isinstance(error, FileExistsError):
        return StorageError(f"{where}: a file stands where a folder is needed", hint="choose another place")
    if isinstance(error, BotoCoreError | ClientError) or code:
        return StorageError(
            f"{where}: the store answered with an error ({code or name})", hint="run again; see its log"
        )
    if isinstance(error, OSError):
        reason = os.strerror(error.errno) if error.errno else name
        return StorageError(f"{where}: {reason[0].lower()}{reason[1:]}", hint="check the place and run again")
    return None


# ---------------------------------------------------------------- small objects


def check_writable(uri: str, storage: StorageSpec | None = None) -> None:
    """Write a small object to a folder and remove it, with whatever was made for it.

    Raises:
        StorageError: The folder cannot be written.

    """
    if not is_local(uri):
        probe = join_uri(uri, f".tabvae-probe-{secrets.token_hex(4)}")
        write_bytes(probe, b"", storage)
        remove_file(probe, storage)
        return
    path = folder = filesystem(uri)[1]
    while not os.path.lexists(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    with storage_errors(path), tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"0")


def exists(uri: str, storage: StorageSpec | None = None) -> bool:
    """Say whether there is an object or folder."""
    fs, path = filesystem(uri, storage)
    with storage_errors(uri):
        try:
            fs.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def read_bytes(uri: str, storage: StorageSpec | None = None, *, missing: type[TabvaeError] = DataError) -> bytes:
    """Read a small object whole."""
    fs, path = filesystem(uri, storage)
    with storage_errors(uri, missing=missing):
        return bytes(fs.cat_file(path))


def write_bytes(uri: str, data: bytes, storage: StorageSpec | None = None) -> None:
    """Write a small object: readers see the old one or the new one, never a part."""
    fs, path = filesystem(uri, storage)
    with storage_errors(uri):
        if not is_local(uri):
            fs.pipe_file(path, data)
            return
        with replacing(path) as temporary:
            Path(temporary).write_bytes(data)


def read_json(uri: str, storage: StorageSpec | None = None, *, missing: type[TabvaeError] = DataError) -> Any:
    """Read a JSON document.

    Raises:
        DataError: It is not JSON.

    """
    data = read_bytes(uri, storage, missing=missing)
    try:
        return json.loads(data)
    except ValueError:
        raise DataError(f"{safe_uri(uri)} is damaged: it is not JSON", hint="remove it, or restore it") from None


def write_json(uri: str, value: Any, storage: StorageSpec | None = None) -> None:
    """Write a value as indented JSON, for people to read too."""
    write_bytes(uri, to_json(value), storage)


def to_json(value: Any) -> bytes:
    """Encode a value as `write_json` does."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


@contextmanager
def replacing(path: str) -> Iterator[str]:
    """Lend a temporary file beside a local path; on success it takes the path's place, on failure it is gone.

    Args:
        path: Absolute local path; missing folders above it are made.

    """
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=folder)
    os.close(handle)
    try:
        yield temporary
        settle(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def settle(temporary: str, path: str) -> None:
    """Give a finished temporary file its name, on disk before the name points at it."""
    # mkstemp makes files for the owner alone; a table is shared as the process's umask says.
    os.chmod(temporary, 0o666 & ~_umask())
    sync_path(temporary)
    os.replace(temporary, path)
    sync_path(os.path.dirname(path))


def _umask() -> int:
    # The mask can only be read by setting it; Linux shows it without that window for other threads.
    with suppress(OSError):
        found = re.search(r"^Umask:\s*([0-7]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
        if found:
            return int(found[1], 8)
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def sync_path(path: str) -> None:
    """Have a file or folder written to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------- files and folders


def list_folder(uri: str, storage: StorageSpec | None = None) -> dict[str, int]:
    """List the files below a folder, at any depth.

    Returns:
        Path relative to the folder and size in bytes, sorted by path; empty when there is no such folder.

    """
    fs, path = filesystem(uri, storage)
    with storage_errors(uri):
        try:
            found = fs.find(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
    prefix = path.rstrip("/") + "/"
    names = ((str(name), entry) for name, entry in found.items())
    return {
        name.removeprefix(prefix): int(entry["size"])
        for name, entry in sorted(names)
        if name.startswith(prefix) and not name.endswith("/")
    }


def list_names(uri: str, storage: StorageSpec | None = None) -> list[str]:
    """List the names directly in a folder, sorted; empty when there is no such folder."""
    fs, path = filesystem(uri, storage)
    with storage_errors(uri):
        try:
            entries = fs.ls(path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
    names = {PurePosixPath(str(entry).rstrip("/")).name for entry in entries if str(entry).rstrip("/") != path}
    return sorted(names)


def remove_file(uri: str, storage: StorageSpec | None = None) -> None:
    """Remove an object; one that is not there is no error."""
    fs, path = filesystem(uri, storage)
    with storage_errors(uri), suppress(FileNotFoundError):
        fs.rm_file(path)


def remove_tree(uri: str, storage: StorageSpec | None = None) -> None:
    """Remove a folder with all in it; one that is not there is no error.

    Raises:
        SpecError: The URI is a whole bucket, or the root or the home of a disk.

    """
    fs, path = filesystem(uri, storage)
    if len(PurePosixPath(path).parts) < 2 or (is_local(uri) and path == os.path.expanduser("~")):
        raise SpecError(f"{safe_uri(uri)} is too much to remove", hint="name a folder inside it")
    with storage_errors(uri), suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def read_chunks(
    uri: str, storage: StorageSpec | None = None, *, missing: type[TabvaeError] = DataError
) -> Iterator[bytes]:
    """Read an object in pieces of at most 8 MiB."""
    fs, path = filesystem(uri, storage)
    with storage_errors(uri, missing=missing), fs.open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield bytes(chunk)


def file_sha256(uri: str, storage: StorageSpec | None = None, *, missing: type[TabvaeError] = DataError) -> str:
    """Hash an object in chunks, without holding it."""
    digest = hashlib.sha256()
    for chunk in read_chunks(uri, storage, missing=missing):
        digest.update(chunk)
    return digest.hexdigest()


def upload(local_path: str, uri: str, storage: StorageSpec | None = None) -> None:
    """Put a local file somewhere as one whole object; on failure nothing stands there."""
    fs, path = filesystem(uri, storage)
    with storage_errors(uri):
        if not is_local(uri):
            fs.put_file(local_path, path)
            return
        with replacing(path) as temporary:
            shutil.copyfile(local_path, temporary)


def copy_file(
    source: str,
    target: str,
    *,
    source_storage: StorageSpec | None = None,
    target_storage: StorageSpec | None = None,
) -> str:
    """Copy one object between any two stores, as one whole object.

    Returns:
        sha256 of what was read.

    """
    digest = hashlib.sha256()
    # Streaming straight into the target would publish a part when the read fails half-way.
    with staging_folder() as folder:
        staged = os.path.join(folder, "object")
        with storage_errors(folder), open(staged, "wb") as writer:
            for chunk in read_chunks(source, source_storage):
                digest.update(chunk)
                writer.write(chunk)
        upload(staged, target, target_storage)
    return digest.hexdigest()


@contextmanager
def staging_folder() -> Iterator[str]:
    """Lend a folder on the local disk (`TMPDIR`), removed in the end."""
    with storage_errors(tempfile.gettempdir()):
        folder = tempfile.mkdtemp(prefix="tabvae-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_tree(
    source: str,
    target: str,
    *,
    source_storage: StorageSpec | None = None,
    target_storage: StorageSpec | None = None,
) -> None:
    """Copy a file, or a folder with all in it, between any two stores.

    Raises:
        DataError: There is nothing at the source.

    """
    files = list_folder(source, source_storage)
    pairs = [(join_uri(source, name), join_uri(target, name)) for name in files] or [(source, target)]
    for one, other in pairs:
        copy_file(one, other, source_storage=source_storage, target_storage=target_storage)
