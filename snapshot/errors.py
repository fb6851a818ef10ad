"""Everything that can be wrong with a snapshot or a registry.

SnapshotError
├── ManifestError            the manifest is unreadable or does not fit its schema
│   └── NewerSchemaError     written by a later version of this software
├── IntegrityError           the files are not those that were sealed
│   ├── MissingFileError
│   ├── ExtraFileError
│   └── HashMismatchError    size or sha256 differ
├── UnsafePathError          an id or a path leaves its folder: ../, absolute, a symbolic link, two names that differ in case
├── SignatureError           the manifest is signed by no key that is trusted
│   └── UnsignedError        there is no signature, and one is required
├── KeyFileError             a key file is missing, exists already, or holds no Ed25519 key
├── LibraryMissingError      what was asked for needs a library that is an extra
├── CountMismatchError       index, documents and golden set disagree about rows
├── SpaceMismatchError       the query tower was distilled for another document space
├── GoldenMismatchError      the query tower does not reproduce its golden vectors or hits
├── GateRefusedError         intact, but not good enough to serve here: a figure is beyond its limit
├── RefusedApartError        what the gate's own process found; has the code of that error
├── GateDiedError            the gate's own process ended without a verdict
├── FilterError              a filter names an unknown field or operator, or a value of the wrong type
├── TextError                a template names a field that is not given
├── RemoteError              a registry in an object store, or the way to it
│   ├── RemoteAddressError   not the URL of a registry: scheme, bucket, folder
│   ├── RemoteUnavailableError   out of reach, too slow, or broken
│   ├── RemoteDeniedError    the credentials are missing or not enough
│   ├── RemoteConflictError  another writer was there: the pointer was moved, or an id means something else
│   └── TransferCancelledError   whoever asked for it no longer wants it
├── FleetError               what is asked of several services at once makes no sense
│   ├── ReplicaError             one of them is out of reach, or answers what it should not
│   │   └── ReplicaRefusedError      it answers that it does not do what it is told, and has not begun it
│   └── WaveError                one of them does not serve what it was to serve
├── EngineError              an engine on another machine, or the way to it
│   ├── EngineUnavailableError   out of reach, broken, or not asked because it keeps failing
│   │   └── EngineLateError      no answer in the time that it was given
│   ├── EngineRefusedError   it answers that it cannot do what it is asked
│   ├── EngineDeniedError    the credentials are missing or wrong
│   ├── CollectionMissingError   there is no such collection
│   └── CollectionAlteredError   the collection is not the one that was written: other rows, fewer, another schema
└── RegistryError            the registry folder is missing, read-only or names something that is not there
    ├── UnknownSnapshotError
    ├── NothingPublishedError
    ├── DiskFullError        no room for what is to be written
    └── ReasonMissingError   something is forced, and nobody said why
"""

from __future__ import annotations


class SnapshotError(Exception):
    """Root of the tree. The message says what is wrong, where, and what to do."""

    code = "snapshot_error"

    def __str__(self) -> str:
        """Names of files are any bytes, and what tells of them is JSON: what is not UTF-8 is escaped."""
        return super().__str__().encode(errors="backslashreplace").decode()


class ManifestError(SnapshotError):
    """The manifest is unreadable or does not fit its schema."""

    code = "manifest_invalid"


class NewerSchemaError(ManifestError):
    """The manifest was written by a later version of this software."""

    code = "schema_newer"


class IntegrityError(SnapshotError):
    """The files are not those that were sealed."""

    code = "snapshot_damaged"


class MissingFileError(IntegrityError):
    """A file that the manifest lists is not there."""

    code = "file_missing"


class ExtraFileError(IntegrityError):
    """A file is there that the manifest does not list."""

    code = "file_extra"


class HashMismatchError(IntegrityError):
    """A file's size or sha256 is not the one in the manifest."""

    code = "hash_mismatch"


class UnsafePathError(SnapshotError):
    """An id or a path leaves the folder that it belongs to, or could on another machine."""

    code = "path_unsafe"


class SignatureError(SnapshotError):
    """The manifest's signature is not one of a trusted key."""

    code = "signature_wrong"


class UnsignedError(SignatureError):
    """The manifest has no signature, and one is required."""

    code = "signature_missing"


class KeyFileError(SnapshotError):
    """A key file cannot be used."""

    code = "key_invalid"


class LibraryMissingError(SnapshotError):
    """What was asked for needs a library that is not installed."""

    code = "library_missing"


class CountMismatchError(SnapshotError):
    """Index, documents and golden set disagree about the number of rows."""

    code = "count_mismatch"


class SpaceMismatchError(SnapshotError):
    """The query tower was distilled for another document space."""

    code = "wrong_space"


class GoldenMismatchError(SnapshotError):
    """The query tower does not reproduce its golden vectors or hits."""

    code = "golden_failed"


class GateRefusedError(SnapshotError):
    """The snapshot is intact, but a figure is beyond its limit; an operator may have it served all the same.

    Attributes:
        check: name of the first check that failed; ``code`` carries it too.
    """

    code = "gate_refused"

    def __init__(self, message: str, check: str) -> None:
        super().__init__(message)
        self.check = check
        self.code = f"gate_{check}"


class RefusedApartError(SnapshotError):
    """What the gate's own process raised, told again: its message, and its code."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class GateDiedError(SnapshotError):
    """The gate's own process ended without a verdict: it could not be started, or was killed, or the snapshot crashed it."""

    code = "gate_died"


class FilterError(SnapshotError):
    """A filter cannot be understood.

    Attributes:
        path: where in the filter, as JSON path segments joined by dots, e.g. ``$and.1.year.$gt``.
    """

    code = "filter_invalid"

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


class TextError(SnapshotError):
    """A template names a field that is not given."""

    code = "text_invalid"


class FleetError(SnapshotError):
    """What is asked of several services at once makes no sense."""

    code = "fleet_invalid"


class ReplicaError(FleetError):
    """A service is out of reach, refuses what is asked, or answers what it should not."""

    code = "replica_unavailable"


class ReplicaRefusedError(ReplicaError):
    """A service answers that it does not do what it is told: the token, the id, a setting. It has not begun it."""

    code = "replica_refused"


class WaveError(FleetError):
    """A service does not serve what it was to serve."""

    code = "wave_failed"


class EngineError(SnapshotError):
    """An engine on another machine cannot be used."""

    code = "engine_error"


class EngineUnavailableError(EngineError):
    """The engine is out of reach, broken, or not asked because it keeps failing."""

    code = "engine_unavailable"


class EngineLateError(EngineUnavailableError):
    """The engine did not answer in the time that it was given."""

    code = "engine_late"


class EngineRefusedError(EngineError):
    """The engine answers that it cannot do what it is asked."""

    code = "engine_refused"


class EngineDeniedError(EngineError):
    """The engine refuses these credentials."""

    code = "engine_denied"


class CollectionMissingError(EngineError):
    """The engine has no such collection."""

    code = "collection_missing"


class CollectionAlteredError(EngineError):
    """The engine's collection is not the one that was written."""

    code = "collection_altered"


class RegistryError(SnapshotError):
    """The registry folder is missing, not writable, or names something that is not there."""

    code = "registry_error"


class UnknownSnapshotError(RegistryError):
    """No sealed snapshot of that id is in the registry."""

    code = "snapshot_unknown"


class NothingPublishedError(RegistryError):
    """The registry holds no snapshot that is declared as wanted."""

    code = "nothing_published"


class ReasonMissingError(RegistryError):
    """Whoever overrules a check must say why."""

    code = "reason_missing"


class DiskFullError(RegistryError):
    """There is no room for what is to be written."""

    code = "disk_full"


class RemoteError(SnapshotError):
    """A registry in an object store cannot be used."""

    code = "remote_error"


class RemoteAddressError(RemoteError):
    """The URL is not that of a registry."""

    code = "remote_address_invalid"


class RemoteUnavailableError(RemoteError):
    """The object store is out of reach, too slow, or answers what it should not."""

    code = "remote_unavailable"


class RemoteDeniedError(RemoteError):
    """The object store refuses these credentials."""

    code = "remote_denied"


class RemoteConflictError(RemoteError):
    """Somebody else has written there meanwhile."""

    code = "remote_conflict"


class TransferCancelledError(RemoteError):
    """Whoever asked for the transfer does not want it any more."""

    code = "transfer_cancelled"
